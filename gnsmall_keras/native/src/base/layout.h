// Vectors of floats, and how a batch of images lies in memory.
//
// Images come in blocks of IMAGES. A map of `channels` values per pixel is
//
//     (block, y, x, channel, image in the block)        image innermost
//
// so every operation works on whole vectors of images, whatever the number of
// channels, and channels can be cut and joined without moving them. A cache
// line of padding follows each pixel: no two neighbours share a cache set.
//
// Where the batch does not fill its last block, the values of the missing
// images are kept at exactly zero: every operation is linear in its inputs but
// for biases, and those are multiplied by `valid` (1 for an image, else 0).
// Sums over a batch therefore need no other care.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gns {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int VECTORS = 4;                // per block of images
constexpr int IMAGES = LANES * VECTORS;   // in a block
constexpr int PADDING = 16;               // floats after each pixel
constexpr float EPSILON = 1e-5f;          // models/fusion.py

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef std::int32_t Integers __attribute__((vector_size(4 * LANES)));

#define GNS_INLINE inline __attribute__((always_inline))
#define GNS_UNROLL _Pragma("GCC unroll 32")

GNS_INLINE Vector load(const float* from) {
  return *reinterpret_cast<const Vector*>(from);
}
GNS_INLINE void store(float* to, Vector value) {
  *reinterpret_cast<Vector*>(to) = value;
}
// Less zero, not plus: compilers leave that out, it keeps the sign of zero.
GNS_INLINE Vector splat(float value) { return value - Vector{}; }

// Loads once what is used several times: compilers would rather load again.
#if defined(__x86_64__)
#define GNS_IN_REGISTER(vector) asm("" : "+v"(vector))
#elif defined(__aarch64__)
#define GNS_IN_REGISTER(vector) asm("" : "+w"(vector))
#else
#define GNS_IN_REGISTER(vector)
#endif

// Comparisons keep NaN: max(x, 0) of NaN is NaN.
GNS_INLINE Vector relu(Vector x) { return x < Vector{} ? Vector{} : x; }
// The gradient where the output of a ReLU is above zero.
GNS_INLINE Vector where_positive(Vector output, Vector gradient) {
  return output > Vector{} ? gradient : Vector{};
}
GNS_INLINE Vector clip(Vector x, float low, float high) {
  x = x < splat(low) ? splat(low) : x;
  return x > splat(high) ? splat(high) : x;
}

// Sums over lanes, by halves down to four lanes.
typedef float Four __attribute__((vector_size(16)));
GNS_INLINE Four sum_to_four(Vector v) {
  Four part[LANES / 4];
  std::memcpy(part, &v, sizeof v);
  GNS_UNROLL for (int half = LANES / 8; half; half /= 2)
    GNS_UNROLL for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}
GNS_INLINE float sum_of(Vector v) {
  Four part = sum_to_four(v);
  return (part[0] + part[2]) + (part[1] + part[3]);
}
#if defined(__clang__)
#define GNS_PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef std::int32_t FourIntegers __attribute__((vector_size(16)));
#define GNS_PICK(a, b, i, j, k, l) \
  __builtin_shuffle(a, b, FourIntegers{i, j, k, l})
#endif
// The sums of four vectors, as one.
GNS_INLINE Four sums_of(const Vector* v) {
  Four a = sum_to_four(v[0]), b = sum_to_four(v[1]);
  Four c = sum_to_four(v[2]), d = sum_to_four(v[3]);
  Four ab = GNS_PICK(a, b, 0, 4, 1, 5) + GNS_PICK(a, b, 2, 6, 3, 7);
  Four cd = GNS_PICK(c, d, 0, 4, 1, 5) + GNS_PICK(c, d, 2, 6, 3, 7);
  return GNS_PICK(ab, cd, 0, 1, 4, 5) + GNS_PICK(ab, cd, 2, 3, 6, 7);
}

// exp(x) to two units in the last place: 2^n times a polynomial of the rest.
GNS_INLINE Vector exponential(Vector x) {
  x = clip(x, -87.f, 87.f);
  const Vector shift = splat(12582912.f);  // 1.5 * 2^23 rounds to whole numbers
  Vector whole = (x * splat(1.44269504f) + shift) - shift;
  Vector rest =
      x - whole * splat(.693145752f) - whole * splat(1.42860677e-6f);
  Vector p = splat(1.9875691e-4f);
  p = p * rest + splat(1.3981999e-3f);
  p = p * rest + splat(8.3334519e-3f);
  p = p * rest + splat(4.1665795e-2f);
  p = p * rest + splat(.16666666f);
  p = p * rest + splat(.5f);
  p = p * rest * rest + rest + splat(1.f);
  typedef std::uint32_t Bits __attribute__((vector_size(4 * LANES)));
  Bits exponent = reinterpret_cast<Bits>(
      __builtin_convertvector(whole, Integers));
  exponent = (exponent + 127u) << 23;
  return p * reinterpret_cast<Vector>(exponent);
}

// Some channels of a map; `first` points at the first of them.
struct View {
  float* first;
  int height, width, channels;
  std::size_t pixel;  // floats from one pixel to the next

  // The pixel's values; index = (block * height + y) * width + x.
  float* at(int index) const { return first + index * pixel; }
  float* at(int block, int y, int x) const {
    return at((block * height + y) * width + x);
  }
  int pixels() const { return height * width; }  // of one block
};

// Pointers to `count` pixels of row y, from column x on; outside of the image
// to zeros.
GNS_INLINE void point_at_row(const View& view, const float* zeros, int block,
                             int y, int x, int count, const float** to) {
  for (int i = 0; i < count; i++) {
    bool inside =
        y >= 0 && y < view.height && x + i >= 0 && x + i < view.width;
    to[i] = inside ? view.at(block, y, x + i) : zeros;
  }
}

}  // namespace gns
