#include "layers/stem.h"

#include <algorithm>

#include "base/products.h"

namespace gns {

constexpr int TAPS = 9;

struct Stem::Saved : State {
  std::vector<float> scale, offset;   // y = relu(scale z + offset)
  std::vector<float> mean, inverse;
};

Stem::Stem(Places& places, Part x, Part z, Part y)
    : x_(x), z_(z), y_(y), in_(x.channels), out_(y.channels) {
  kernel_ = places.parameter(std::size_t(TAPS) * in_ * out_);
  norm_ = places.norm(out_);
}

void Stem::forward(Context& context) const {
  Saved& saved = new_state<Saved>(context);
  View x = context.values(x_), z = context.values(z_), y = context.values(y_);
  PartialSums partial(context, context.work.slots(x.height), 2 * out_, true);
  context.work.sums(x.height, [&](int slot, Strip strip) {
    for (int row = strip.top; row < strip.bottom; row++)
      for (int column = 0; column < x.width; column++) {
        Factor factors[TAPS];
        for (int t = 0; t < TAPS; t++) {
          const float* pixel;
          point_at_row(x, context.zeros, strip.block, row + t / 3 - 1,
                       column + t % 3 - 1, 1, &pixel);
          factors[t] = {context.parameters + kernel_ +
                            std::size_t(t) * in_ * out_,
                        out_, in_, pixel};
        }
        float* to = z.at(strip.block, row, column);
        multiply(factors, TAPS, out_, Finish{nullptr, nullptr, false, false},
                 to);
        float* sums = partial.slot(slot);
        for (int o = 0; o < out_; o++, sums += 2 * LANES) {
          Vector sum = load(sums), squares = load(sums + LANES);
          GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
            Vector value = load(to + o * IMAGES + j * LANES);
            sum += value;
            squares += value * value;
          }
          store(sums, sum);
          store(sums + LANES, squares);
        }
      }
  });
  const double count = context.pixels(x_);
  saved.scale.resize(out_);
  saved.offset = saved.mean = saved.inverse = saved.scale;
  for (int o = 0; o < out_; o++) {
    double mean = partial.total(2 * o) / count;
    double variance = partial.total(2 * o + 1) / count - mean * mean;
    Moments found = context.training ? batch_moments(context, norm_, o, mean,
                                                     variance, count)
                                     : moving_moments(context, norm_, o);
    saved.mean[o] = found.mean;
    saved.inverse[o] = found.inverse;
    saved.scale[o] = context.parameters[norm_.gamma + o] * found.inverse;
    saved.offset[o] =
        context.parameters[norm_.beta + o] - saved.scale[o] * found.mean;
  }
  context.work.strips(x.height, [&](Strip strip) {
    const Vector* valid = context.valid(strip.block);
    for (int row = strip.top; row < strip.bottom; row++)
      for (int column = 0; column < x.width; column++)
        for (int o = 0; o < out_; o++)
          GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
            const int n = o * IMAGES + j * LANES;
            store(y.at(strip.block, row, column) + n,
                  relu(splat(saved.scale[o]) *
                           load(z.at(strip.block, row, column) + n) +
                       splat(saved.offset[o]) * valid[j]));
          }
  });
}

void Stem::backward(Context& context) const {
  Saved& saved = state<Saved>(context);
  View x = context.values(x_), z = context.values(z_), y = context.values(y_);
  View dy = context.gradients(y_);
  std::vector<float> a(out_), b(out_), c(out_);  // dz = a dy + b z + c
  {
    // Of dy, and of dy z.
    PartialSums partial(context, context.work.slots(x.height), 2 * out_, true);
    context.work.sums(x.height, [&](int slot, Strip strip) {
      for (int row = strip.top; row < strip.bottom; row++)
        for (int column = 0; column < x.width; column++) {
          float *d = dy.at(strip.block, row, column),
                *sums = partial.slot(slot);
          const float *value = y.at(strip.block, row, column),
                      *before = z.at(strip.block, row, column);
          for (int o = 0; o < out_; o++, sums += 2 * LANES) {
            Vector sum = load(sums), products = load(sums + LANES);
            GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
              const int n = o * IMAGES + j * LANES;
              Vector masked = where_positive(load(value + n), load(d + n));
              store(d + n, masked);
              sum += masked;
              products += masked * load(before + n);
            }
            store(sums, sum);
            store(sums + LANES, products);
          }
        }
    });
    const float count = float(context.pixels(x_));
    for (int o = 0; o < out_; o++) {
      double sum = partial.total(2 * o);
      float r = saved.inverse[o], mean = saved.mean[o];
      float d = float(partial.total(2 * o + 1) - mean * sum) * r;
      context.gradient[norm_.beta + o] = float(sum);
      context.gradient[norm_.gamma + o] = d;
      a[o] = saved.scale[o];
      b[o] = -a[o] * d * r / count;
      c[o] = -a[o] * (float(sum) - d * r * mean) / count;
    }
  }
  const int kernel_size = in_ * out_;
  PartialSums partial(context, context.work.slots(x.height),
                      std::size_t(TAPS) * kernel_size, false);
  context.work.sums(x.height, [&](int slot, Strip strip) {
    const Vector* valid = context.valid(strip.block);
    for (int row = strip.top; row < strip.bottom; row++) {
      for (int column = 0; column < x.width; column++)
        for (int o = 0; o < out_; o++)
          GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
            const int n = o * IMAGES + j * LANES;
            float* d = dy.at(strip.block, row, column) + n;
            store(d, splat(a[o]) * load(d) +
                         splat(b[o]) *
                             load(z.at(strip.block, row, column) + n) +
                         splat(c[o]) * valid[j]);
          }
      for (int t = 0; t < TAPS; t++) {
        const int from = row + t / 3 - 1, along = t % 3 - 1;
        if (from < 0 || from >= x.height) continue;
        const int left = std::max(0, -along);
        const int right = std::min(x.width, x.width - along);
        add_products(right - left,
                     {x.at(strip.block, from, left + along), x.pixel, in_},
                     {dy.at(strip.block, row, left), dy.pixel, out_},
                     partial.slot(slot) + t * kernel_size, out_);
      }
    }
  });
  partial.write(context, context.gradient + kernel_);
  context.states[place].reset();
}

}  // namespace gns
