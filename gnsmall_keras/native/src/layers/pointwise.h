// A sum of 1x1 convolutions, each with BatchNorm, and a BatchNorm:
//
//     y[o] = sum_b BN_b(sum_i k_b[i][o] x[i]) + BN_identity(x[o])
//
// All branches are linear in one input, so the statistics of each follow from
// the mean mu and the covariance C of x (docs/adr/0011):
//
//     mean_b[o] = sum_i k_b[i][o] mu[i]     var_b[o] = k_b[:, o]' C k_b[:, o]
//
// and, with a = gamma / sqrt(var + epsilon), the sum is one convolution with
// kernel K = sum_b a_b k_b and bias B = sum_b beta_b - a_b mean_b. Backward,
// the gradient of mu and C joins that of x as a matrix D and a bias:
//
//     dx = K' dy + D x + bias        D = 2/M sum_b,o dvar_b[o] k_b[o] k_b[o]'
#pragma once
#include "base/context.h"

namespace gns {

class Pointwise : public Layer {
 public:
  Pointwise(Places& places, Part x, Part y, int branches, bool identity,
            bool relu);
  void forward(Context& context) const override;
  void backward(Context& context) const override;

  // The same where the gradient of y is masked already and its sums over
  // pixels and images, (out,), are known.
  void backward(Context& context, const float* sums) const;

 private:
  struct Saved;
  void measure(Context& context, Saved& saved) const;
  void branch_moments(Context& context, Saved& saved,
                      std::vector<Line>& variances) const;
  void merge(Context& context, Saved& saved) const;
  void merge_backward(Context& context, Saved& saved, const float* sums) const;

  Part x_, y_;
  int branches_, in_, out_;
  bool identity_, relu_;
  std::size_t kernel_;  // (branches, in, out)
  Norm norm_, identity_norm_;
};

// Masks the gradient of y by y > 0, if `relu`, and writes its sums (channels,).
void mask_and_sum(Context& context, const Part& y, bool relu, float* sums);

}  // namespace gns
