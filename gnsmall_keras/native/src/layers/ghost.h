// A ghost module: half of the channels by 1x1 convolutions, half from those by
// depthwise ones; both halves with a ReLU, or none.
#pragma once
#include "layers/cheap.h"
#include "layers/pointwise.h"

namespace gns {

// Runs its two layers at two places; backward, the second sums the gradient
// that the first needs.
class Ghost : public Layer {
 public:
  Ghost(Places& places, Part x, Part y, bool relu);
  void set_places(int first) {
    primary_.place = first;
    cheap_.place = first + 1;
  }
  void forward(Context& context) const override {
    primary_.forward(context);
    cheap_.forward(context);
  }
  void backward(Context& context) const override {
    std::vector<float> sums(half_);
    cheap_.backward(context, sums.data());
    primary_.backward(context, sums.data());
  }

 private:
  static constexpr int BRANCHES = 3;
  int half_;
  Pointwise primary_;
  Cheap cheap_;
};

inline Ghost::Ghost(Places& places, Part x, Part y, bool relu)
    : half_(y.channels / 2),
      primary_(places, x, {y.tensor, y.first, half_}, BRANCHES,
               x.channels == half_, relu),
      cheap_(places, {y.tensor, y.first, half_},
             {y.tensor, y.first + half_, half_}, BRANCHES, relu) {}

}  // namespace gns
