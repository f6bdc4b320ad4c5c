// Products of small matrices with maps: 1x1 convolutions and their gradients.
#pragma once
#include "base/layout.h"

namespace gns {

// One term of a product: sum over k < depth of
//     coefficients[k * stride + row] * x[k]        x[k]: a line of images
struct Factor {
  const float* coefficients;
  int stride, depth;
  const float* x;
};

// What is done with the result of `multiply`.
struct Finish {
  const float* bias;    // (rows,), or nullptr
  const Vector* valid;  // the bias counts for these images
  bool add, relu;       // add to what is there; then clip at zero
};

// One pixel: y[row] (+)= sum over factors + bias[row] * valid, row < rows.
// Lines of x and y are IMAGES floats.
void multiply(const Factor* factors, int count, int rows, const Finish& finish,
              float* y);

// out[i * stride + j] += sum over pixels and images of x[i] * y[j].
struct Lines {
  const float* first;
  std::size_t pixel;  // floats from one pixel to the next
  int channels;
};
void add_products(int pixels, const Lines& x, const Lines& y, float* out,
                  int stride);

// The same for y = x, above the diagonal (some below is written too).
void add_squares(int pixels, const Lines& x, float* out);

// out[channel] += sum over pixels and images.
void add_sums(int pixels, const Lines& x, float* out);

}  // namespace gns
