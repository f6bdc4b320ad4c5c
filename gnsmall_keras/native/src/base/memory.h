// Buffers that are used again from layer to layer and from step to step.
#pragma once
#include <cstddef>
#include <mutex>
#include <vector>

namespace gns {

struct Buffer {
  float* data = nullptr;  // on a cache line
  std::size_t floats = 0;
  void* allocation = nullptr;
};

// Safe for several threads. Memory goes back to the system with the pool.
class Pool {
 public:
  Pool() = default;
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  Buffer take(std::size_t floats);
  void give_back(Buffer& buffer) noexcept;

  // In a child of a fork; see forks.h.
  void renew();

 private:
  std::mutex mutex_;
  std::vector<Buffer> free_;
  std::size_t made_ = 0;
};

// A buffer for the time of a scope.
class Scratch {
 public:
  Scratch(Pool& pool, std::size_t floats)
      : pool_(pool), buffer_(pool.take(floats)) {}
  ~Scratch() { pool_.give_back(buffer_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return buffer_.data; }
  void clear(std::size_t floats);

 private:
  Pool& pool_;
  Buffer buffer_;
};

}  // namespace gns
