#include "layers/simple.h"

#include <algorithm>

#include "layers/pointwise.h"
#include "base/products.h"

namespace gns {
namespace {

constexpr int ROWS_OF_A_TASK = 48;

// each(pixel's index, the same in all maps of that size)
template <class Each>
void each_pixel(const Context& context, const View& view, Each each) {
  context.work.strips(view.height, [&](Strip strip) {
    for (int y = strip.top; y < strip.bottom; y++)
      for (int x = 0; x < view.width; x++)
        each((strip.block * view.height + y) * view.width + x);
  });
}

// Tasks for each block and some of its channels.
template <class Each>
void each_channels(const Context& context, int channels, Each each) {
  const int parts = (channels + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
  context.work.tasks(context.work.blocks() * parts, [&](int task) {
    int first = task % parts * ROWS_OF_A_TASK;
    each(task / parts, first, std::min(ROWS_OF_A_TASK, channels - first));
  });
}

Vector gate(Vector s, bool hard) {
  if (hard) return clip(s * splat(1 / 6.f) + splat(.5f), 0.f, 1.f);
  return splat(1.f) / (splat(1.f) + exponential(Vector{} - s));
}

Vector gate_slope(Vector gate, bool hard) {
  if (!hard) return gate * (splat(1.f) - gate);
  Vector inside = gate > Vector{} ? splat(1 / 6.f) : Vector{};
  return gate < splat(1.f) ? inside : Vector{};
}

}  // namespace

void Mean::forward(Context& context) const {
  View x = context.values(x_), y = context.values(y_);
  const Vector part = splat(1.f / x.pixels());
  each_channels(context, x.channels, [&](int block, int first, int count) {
    for (int n = first * IMAGES; n < (first + count) * IMAGES; n += LANES) {
      Vector sum{};
      for (int p = 0; p < x.pixels(); p++)
        sum += load(x.at(block * x.pixels() + p) + n);
      store(y.at(block) + n, sum * part);
    }
  });
}

void Mean::backward(Context& context) const {
  const bool add = context.has_gradient(x_);
  View dx = context.gradients(x_), dy = context.gradients(y_);
  const Vector part = splat(1.f / dx.pixels());
  each_pixel(context, dx, [&](int index) {
    float *to = dx.at(index), *from = dy.at(index / dx.pixels());
    for (int n = 0; n < dx.channels * IMAGES; n += LANES) {
      Vector value = part * load(from + n);
      store(to + n, add ? load(to + n) + value : value);
    }
  });
}

Dense::Dense(Places& places, Part x, Part y, bool relu)
    : x_(x), y_(y), relu_(relu) {
  kernel_ = places.parameter(std::size_t(x.channels) * y.channels);
  bias_ = places.parameter(y.channels);
}

void Dense::forward(Context& context) const {
  View x = context.values(x_), y = context.values(y_);
  const float *kernel = context.parameters + kernel_,
              *bias = context.parameters + bias_;
  each_channels(context, y.channels, [&](int block, int first, int count) {
    Factor factor = {kernel + first, y.channels, x.channels, x.at(block)};
    multiply(&factor, 1, count,
             {bias + first, context.valid(block), false, relu_},
             y.at(block) + std::size_t(first) * IMAGES);
  });
}

void Dense::backward(Context& context) const {
  const bool add = context.has_gradient(x_);
  View x = context.values(x_), dx = context.gradients(x_);
  View dy = context.gradients(y_);
  const int in = x.channels, out = dy.channels;
  mask_and_sum(context, y_, relu_, context.gradient + bias_);
  float* dkernel = context.gradient + kernel_;
  context.work.tasks((in + 15) / 16, [&](int task) {
    int first = task * 16, count = std::min(16, in - first);
    std::fill_n(dkernel + std::size_t(first) * out, std::size_t(count) * out,
                0.f);
    add_products(context.work.blocks(),
                 {x.first + std::size_t(first) * IMAGES, x.pixel, count},
                 {dy.first, dy.pixel, out},
                 dkernel + std::size_t(first) * out, out);
  });
  const float* kernel = context.parameters + kernel_;
  std::vector<float> transposed(std::size_t(in) * out);
  context.work.parts(in, 16, [&](int first, int end) {
    for (int o = 0; o < out; o++)
      for (int i = first; i < end; i++)
        transposed[std::size_t(o) * in + i] = kernel[std::size_t(i) * out + o];
  });
  each_channels(context, in, [&](int block, int first, int count) {
    Factor factor = {transposed.data() + first, in, out, dy.at(block)};
    multiply(&factor, 1, count, {nullptr, nullptr, add, false},
             dx.at(block) + std::size_t(first) * IMAGES);
  });
}

void Halve::forward(Context& context) const {
  View x = context.values(x_), y = context.values(y_);
  each_pixel(context, y, [&](int index) {
    const int row = index / y.width * 2, column = index % y.width * 2;
    const float *a = x.at(row * x.width + column), *b = a + x.pixel;
    const float *c = a + x.width * x.pixel, *d = c + x.pixel;
    float* to = y.at(index);
    for (int n = 0; n < y.channels * IMAGES; n += LANES)
      store(to + n, splat(.25f) * ((load(a + n) + load(b + n)) +
                                   (load(c + n) + load(d + n))));
  });
}

void Halve::backward(Context& context) const {
  const bool add = context.has_gradient(x_);
  View dx = context.gradients(x_), dy = context.gradients(y_);
  each_pixel(context, dx, [&](int index) {
    const int row = index / dx.width / 2, column = index % dx.width / 2;
    float *to = dx.at(index), *from = dy.at(row * dy.width + column);
    for (int n = 0; n < dx.channels * IMAGES; n += LANES) {
      Vector value = splat(.25f) * load(from + n);
      store(to + n, add ? load(to + n) + value : value);
    }
  });
}

void Add::forward(Context& context) const {
  View x = context.values(x_), other = context.values(other_),
       y = context.values(y_);
  each_pixel(context, y, [&](int index) {
    for (int n = 0; n < y.channels * IMAGES; n += LANES)
      store(y.at(index) + n, load(x.at(index) + n) + load(other.at(index) + n));
  });
}

void Add::backward(Context& context) const {
  if (!copies_) return;
  const bool add = context.has_gradient(other_);
  View to = context.gradients(other_), dy = context.gradients(y_);
  each_pixel(context, dy, [&](int index) {
    for (int n = 0; n < dy.channels * IMAGES; n += LANES) {
      Vector value = load(dy.at(index) + n);
      store(to.at(index) + n, add ? load(to.at(index) + n) + value : value);
    }
  });
}

void Gate::forward(Context& context) const {
  View x = context.values(x_), s = context.values(s_), y = context.values(y_);
  // s becomes f(s): that is all backward needs.
  each_pixel(context, s, [&](int index) {
    for (int n = 0; n < s.channels * IMAGES; n += LANES)
      store(s.at(index) + n, gate(load(s.at(index) + n), hard_));
  });
  const int down = x.height / s.height, along = x.width / s.width;
  each_pixel(context, x, [&](int index) {
    const int row = index / x.width / down, column = index % x.width / along;
    const float *from = x.at(index), *g = s.at(row * s.width + column);
    float* to = y.at(index);
    for (int n = 0; n < x.channels * IMAGES; n += LANES)
      store(to + n, load(from + n) * load(g + n));
  });
}

void Gate::backward(Context& context) const {
  context.has_gradient(s_);
  View x = context.values(x_), s = context.values(s_);
  View ds = context.gradients(s_), dy = context.gradients(y_);
  const int down = x.height / s.height, along = x.width / s.width;
  each_pixel(context, s, [&](int index) {
    const int row = index / s.width * down, column = index % s.width * along;
    const float* g = s.at(index);
    float* to = ds.at(index);
    std::memset(to, 0, s.channels * IMAGES * sizeof(float));
    for (int r = 0; r < down; r++)
      for (int q = 0; q < along; q++) {
        const int p = (row + r) * x.width + column + q;
        const float* from = x.at(p);
        float* d = dy.at(p);  // becomes that of x
        for (int n = 0; n < s.channels * IMAGES; n += LANES) {
          Vector value = load(d + n);
          store(d + n, value * load(g + n));
          store(to + n, load(to + n) + value * load(from + n));
        }
      }
    for (int n = 0; n < s.channels * IMAGES; n += LANES)
      store(to + n, load(to + n) * gate_slope(load(g + n), hard_));
  });
}

}  // namespace gns
