// The first layer: a 3 x 3 convolution, BatchNorm and ReLU.
//
//     z[o] = sum over taps t and channels i of k[t][i][o] x[t][i]
//     y = relu(a z + b)
//
// There is no gradient of the images.
#pragma once
#include "base/context.h"

namespace gns {

class Stem : public Layer {
 public:
  // `z` is a tensor for the values before BatchNorm.
  Stem(Places& places, Part x, Part z, Part y);
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  struct Saved;
  Part x_, z_, y_;
  int in_, out_;
  std::size_t kernel_;  // (3, 3, in, out)
  Norm norm_;
};

}  // namespace gns
