// A sum of depthwise convolutions of any kernel and stride, each with
// BatchNorm, and a scaled pixel with BatchNorm:
//
//     z_b = k_b * x          y = sum_b BN_b(z_b) + BN_scale(s x[middle])
//
// Zeros are padded on all sides, half of the kernel. Statistics are those of
// the z_b, which are computed again wherever they are needed and never kept;
// the output is one convolution with the merged kernel. Backward, with
// a = gamma / sqrt(var + epsilon) and zhat = (z - mean) / sqrt(var + epsilon),
//
//     dz = a (dy - mean of dy - zhat * mean of (dy zhat)) = a dy + c z + e
#pragma once
#include "base/context.h"

namespace gns {

class Depthwise : public Layer {
 public:
  // The kernel has `rows` x `columns`; one of 3 x 3, 5 x 5, 1 x 5, 5 x 1.
  Depthwise(Places& places, Part x, Part y, int rows, int columns, int stride,
            int branches, bool scale);
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  struct Saved;
  template <int ROWS, int COLUMNS, int STRIDE>
  struct Loops;
  template <class Do>
  void with_loops(Do what) const;
  void merge(Context& context, Saved& saved, const PartialSums* sums) const;
  void norm_gradients(Context& context, Saved& saved,
                      const PartialSums& sums) const;

  Part x_, y_;
  int rows_, columns_, stride_, branches_, channels_, taps_;
  bool scale_;
  std::size_t kernel_, scale_kernel_ = 0;
  Norm norm_, scale_norm_;
};

}  // namespace gns
