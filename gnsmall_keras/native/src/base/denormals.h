// Denormal numbers (below 1e-38) taken as zero, as in TensorFlow's and XLA's
// threads. Weights that no gradient reaches any more have velocities that fade
// through them, and a product of denormals takes a hundred times as long.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gns {

#if defined(__x86_64__)
constexpr unsigned FLUSH = 0x8040;  // results, and operands
inline unsigned float_control() { return _mm_getcsr(); }
inline void set_float_control(unsigned value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
constexpr unsigned long FLUSH = 1ul << 24;
inline unsigned long float_control() {
  unsigned long value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
inline void set_float_control(unsigned long value) {
  asm volatile("msr fpcr, %0" : : "r"(value));
}
#else
constexpr unsigned FLUSH = 0;
inline unsigned float_control() { return 0; }
inline void set_float_control(unsigned) {}
#endif

// Says whether this thread flushed them before.
inline bool flush_denormals(bool on) {
  auto before = float_control();
  set_float_control(on ? before | FLUSH : before & ~FLUSH);
  return FLUSH && (before & FLUSH) == FLUSH;
}

// On the thread that has one.
class FlushedDenormals {
 public:
  FlushedDenormals() : before_(flush_denormals(true)) {}
  ~FlushedDenormals() { flush_denormals(before_); }
  FlushedDenormals(const FlushedDenormals&) = delete;
  FlushedDenormals& operator=(const FlushedDenormals&) = delete;

 private:
  bool before_;
};

}  // namespace gns
