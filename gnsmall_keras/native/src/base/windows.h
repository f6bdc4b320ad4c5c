// Loops over the pixels under a window, for depthwise convolutions.
//
// A few neighbouring outputs are computed together: each value that is loaded
// serves all of them that see it.
#pragma once
#include <type_traits>

#include "base/layout.h"

namespace gns {

constexpr int TOGETHER = 4;  // outputs along a row
// Vectors of images for which sums are held in registers.
constexpr int HELD = REGISTERS == 32 ? 4 : 2;

// Calls each(constant, x) for outputs x to x + constant of a row.
template <class Each>
GNS_INLINE void cut_row(int width, Each each) {
  int x = 0;
  for (; x + TOGETHER <= width; x += TOGETHER)
    each(std::integral_constant<int, TOGETHER>(), x);
  if (width - x >= 2) {
    each(std::integral_constant<int, 2>(), x);
    x += 2;
  }
  if (width - x) each(std::integral_constant<int, 1>(), x);
}

// One row of a correlation: sum[p] += sum over t < K of
// kernel[t] * pixels[p * STEP + t].
template <int K, int STEP, int P>
GNS_INLINE void correlate(Vector (&sum)[P][HELD], const float* kernel,
                          const float* const* pixels, std::size_t at) {
  Vector factor[K];
  GNS_UNROLL for (int t = 0; t < K; t++) factor[t] = splat(kernel[t]);
  GNS_UNROLL for (int i = 0; i < (P - 1) * STEP + K; i++) {
    Vector x[HELD];
    GNS_UNROLL for (int j = 0; j < HELD; j++) {
      x[j] = load(pixels[i] + at + j * LANES);
      GNS_IN_REGISTER(x[j]);
    }
    GNS_UNROLL for (int t = 0; t < K; t++)
      if (i >= t && (i - t) % STEP == 0 && (i - t) / STEP < P)
        GNS_UNROLL for (int j = 0; j < HELD; j++)
          sum[(i - t) / STEP][j] += factor[t] * x[j];
  }
}

// One row of the gradient of a correlation's kernel: sum[t] += sum over p < P
// of values[p] * pixels[p * STEP + t].
template <int K, int STEP, int P>
GNS_INLINE void correlate_sums(Vector* sum, const Vector (&values)[P],
                               const float* const* pixels, std::size_t at) {
  GNS_UNROLL for (int i = 0; i < (P - 1) * STEP + K; i++) {
    Vector x = load(pixels[i] + at);
    GNS_IN_REGISTER(x);
    GNS_UNROLL for (int t = 0; t < K; t++)
      if (i >= t && (i - t) % STEP == 0 && (i - t) / STEP < P)
        sum[t] += values[(i - t) / STEP] * x;
  }
}

}  // namespace gns
