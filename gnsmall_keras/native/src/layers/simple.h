// Layers without statistics: means, dense layers, products and sums of maps.
#pragma once
#include "base/context.h"

namespace gns {

// y = the mean over all pixels; a map of one pixel.
class Mean : public Layer {
 public:
  Mean(Part x, Part y) : x_(x), y_(y) {}
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  Part x_, y_;
};

// y[o] = sum_i k[i][o] x[i] + b[o], then a ReLU: of maps of one pixel.
class Dense : public Layer {
 public:
  Dense(Places& places, Part x, Part y, bool relu);
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  Part x_, y_;
  bool relu_;
  std::size_t kernel_, bias_;
};

// y = the means of 2 x 2 pixels.
class Halve : public Layer {
 public:
  Halve(Part x, Part y) : x_(x), y_(y) {}
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  Part x_, y_;
};

// y = x + other, where x's gradient is y's. The other map's is either, or if
// `copies` is added to what it has.
class Add : public Layer {
 public:
  Add(Part x, Part other, Part y, bool copies)
      : x_(x), other_(other), y_(y), copies_(copies) {}
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  Part x_, other_, y_;
  bool copies_;
};

// y[p] = x[p] * f(s[p']): one s[p'] for each square of pixels of x.
// f is the sigmoid, or with `hard` clip(s / 6 + 1 / 2, 0, 1). The gradient of y
// becomes that of x, in place.
class Gate : public Layer {
 public:
  Gate(Part x, Part s, Part y, bool hard)
      : x_(x), s_(s), y_(y), hard_(hard) {}
  void forward(Context& context) const override;
  void backward(Context& context) const override;

 private:
  Part x_, s_, y_;
  bool hard_;
};

}  // namespace gns
