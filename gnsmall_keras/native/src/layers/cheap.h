// The cheap half of a ghost module: 3 x 3 depthwise convolutions, a 1x1 one
// ("scale") and the identity, each with BatchNorm, summed:
//
//     y = sum_b BN_b(k_b * x) + BN_scale(s x) + BN_identity(x)
//
// As in pointwise.h, statistics of all branches follow from the moments of x
// under a window (moments.h), and the sum is one convolution K * x + B. A
// branch is nine taps: those of scale and identity are zero off the middle.
#pragma once
#include "base/context.h"

namespace gns {

class Cheap : public Layer {
 public:
  Cheap(Places& places, Part x, Part y, int branches, bool relu);
  void forward(Context& context) const override;
  void backward(Context& context) const override { backward(context, nullptr); }

  // Also masks the finished gradient of x by x > 0, if `relu`, and writes its
  // sums over pixels and images (channels,).
  void backward(Context& context, float* sums_of_dx) const;

 private:
  struct Saved;
  struct Branch;
  Branch branch(const Context& context, int index, int channel) const;
  void measure(Context& context, Saved& saved) const;
  void merge(Context& context, Saved& saved) const;
  void kernel_gradients(Context& context, Saved& saved) const;
  void input_gradient(Context& context, Saved& saved, float* sums) const;

  Part x_, y_;
  int branches_, channels_;
  bool relu_;
  std::size_t kernel_, scale_kernel_;
  Norm norm_, scale_norm_, identity_norm_;
};

}  // namespace gns
