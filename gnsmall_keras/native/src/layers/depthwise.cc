#include "layers/depthwise.h"

#include <stdexcept>
#include <type_traits>

#include "layers/depthwise_loops.h"

namespace gns {
namespace {

constexpr int CHANNELS_OF_A_TASK = 16;

}  // namespace

Depthwise::Depthwise(Places& places, Part x, Part y, int rows, int columns,
                     int stride, int branches, bool scale)
    : x_(x),
      y_(y),
      rows_(rows),
      columns_(columns),
      stride_(stride),
      branches_(branches),
      channels_(x.channels),
      taps_(rows * columns),
      scale_(scale) {
  const std::size_t channels = channels_;
  kernel_ = places.parameter(branches * taps_ * channels);
  if (scale) scale_kernel_ = places.parameter(channels);
  norm_ = places.norm(branches * channels);
  if (scale) scale_norm_ = places.norm(channels);
  with_loops([](auto) {});  // throws if there are none
}

template <class Do>
void Depthwise::with_loops(Do what) const {
  auto is = [&](int rows, int columns, int stride) {
    return rows == rows_ && columns == columns_ && stride == stride_;
  };
  if (is(1, 5, 1)) return what(static_cast<Loops<1, 5, 1>*>(nullptr));
  if (is(5, 1, 1)) return what(static_cast<Loops<5, 1, 1>*>(nullptr));
  if (is(3, 3, 1)) return what(static_cast<Loops<3, 3, 1>*>(nullptr));
  if (is(3, 3, 2)) return what(static_cast<Loops<3, 3, 2>*>(nullptr));
  if (is(5, 5, 1)) return what(static_cast<Loops<5, 5, 1>*>(nullptr));
  if (is(5, 5, 2)) return what(static_cast<Loops<5, 5, 2>*>(nullptr));
  throw std::invalid_argument("no depthwise kernel of that size and stride");
}

void Depthwise::merge(Context& context, Saved& saved,
                      const PartialSums* sums) const {
  const float* parameters = context.parameters;
  const double count = context.pixels(y_);
  const int all = branches_ + scale_, width = branches_ + 1;
  saved.kernel.assign(channels_ * taps_, 0.f);
  saved.bias.assign(channels_, 0.f);
  saved.mean.assign(channels_ * width, 0.f);
  saved.inverse = saved.pixel_mean = saved.pixel_variance = saved.mean;
  context.work.parts(channels_, CHANNELS_OF_A_TASK, [&](int first, int end) {
    for (int c = first; c < end; c++)
      for (int b = 0; b < all; b++) {
        const bool scaled = b == branches_;
        const Norm& norm = scaled ? scale_norm_ : norm_;
        const int index = scaled ? c : b * channels_ + c;
        const float factor = scaled ? parameters[scale_kernel_ + c] : 1.f;
        Moments found;
        if (sums) {
          double mean = sums->total((c * all + b) * 2) / count;
          double variance =
              sums->total((c * all + b) * 2 + 1) / count - mean * mean;
          saved.pixel_mean[c] = float(mean);  // the last: of x[middle]
          saved.pixel_variance[c] = float(variance);
          found = batch_moments(context, norm, index, factor * mean,
                                double(factor) * factor * variance, count);
        } else {
          found = moving_moments(context, norm, index);
        }
        saved.mean[c * width + b] = found.mean;
        saved.inverse[c * width + b] = found.inverse;
        float a = parameters[norm.gamma + index] * found.inverse;
        saved.bias[c] += parameters[norm.beta + index] - a * found.mean;
        if (scaled)
          saved.kernel[c * taps_ + taps_ / 2] += a * factor;
        else
          for (int t = 0; t < taps_; t++)
            saved.kernel[c * taps_ + t] +=
                a * saved.kernels[(c * branches_ + b) * taps_ + t];
      }
  });
}

void Depthwise::forward(Context& context) const {
  Saved& saved = new_state<Saved>(context);
  saved.kernels.resize(std::size_t(channels_) * branches_ * taps_);
  context.work.parts(channels_, CHANNELS_OF_A_TASK, [&](int first, int end) {
    for (int b = 0; b < branches_; b++)
      for (int t = 0; t < taps_; t++)
        for (int c = first; c < end; c++)
          saved.kernels[(c * branches_ + b) * taps_ + t] =
              context.parameters[kernel_ + (b * taps_ + t) * channels_ + c];
  });
  with_loops([&](auto* kind) {
    std::remove_reference_t<decltype(*kind)> loops{*this, context, saved};
    if (context.training) {
      std::size_t count = std::size_t(channels_) * (branches_ + scale_) * 2;
      PartialSums partial(context, context.work.slots(loops.y.height), count,
                          true);
      loops.measure(partial);
      merge(context, saved, &partial);
    } else {
      merge(context, saved, nullptr);
    }
    loops.output();
  });
}

// From the sums of dy times each tap's pixel: gradients of the norms and of
// the scale kernel, and dz as a function of dy and z.
void Depthwise::norm_gradients(Context& context, Saved& saved,
                               const PartialSums& sums) const {
  const float* parameters = context.parameters;
  const float count = float(context.pixels(y_));
  saved.affine.resize(channels_ * (branches_ + 1));
  context.work.parts(channels_, CHANNELS_OF_A_TASK, [&](int first, int end) {
    for (int c = first; c < end; c++) {
      const std::size_t at = std::size_t(c) * (taps_ + 1);
      const float sum = float(sums.total(at + taps_));
      for (int b = 0; b < branches_ + scale_; b++) {
        const bool scaled = b == branches_;
        const Norm& norm = scaled ? scale_norm_ : norm_;
        const int index = scaled ? c : b * channels_ + c;
        const float s = scaled ? parameters[scale_kernel_ + c] : 1.f;
        const float mean = saved.mean[c * (branches_ + 1) + b];
        const float r = saved.inverse[c * (branches_ + 1) + b];
        double product = 0;  // sum of dy z
        if (scaled)
          product = s * sums.total(at + taps_ / 2);
        else
          for (int t = 0; t < taps_; t++)
            product += saved.kernels[(c * branches_ + b) * taps_ + t] *
                       sums.total(at + t);
        const float d = float(product - double(mean) * sum) * r;
        context.gradient[norm.beta + index] = sum;
        context.gradient[norm.gamma + index] = d;
        const float a = parameters[norm.gamma + index] * r;
        Affine affine = {a, -a * d * r / count,
                         -a * (sum - d * r * mean) / count};
        if (scaled) {  // z = s x: the gradients of s, and of x
          const float square =
              saved.pixel_variance[c] + saved.pixel_mean[c] * saved.pixel_mean[c];
          context.gradient[scale_kernel_ + c] =
              affine.a * float(sums.total(at + taps_ / 2)) +
              count * (affine.c * s * square + affine.e * saved.pixel_mean[c]);
          affine = {affine.a * s, affine.c * s * s, affine.e * s};
        }
        saved.affine[c * (branches_ + 1) + b] = affine;
      }
    }
  });
}

void Depthwise::backward(Context& context) const {
  Saved& saved = state<Saved>(context);
  with_loops([&](auto* kind) {
    std::remove_reference_t<decltype(*kind)> loops{*this, context, saved};
    View y = loops.y;
    {
      PartialSums partial(context, context.work.slots(y.height),
                          std::size_t(channels_) * (taps_ + 1), true);
      loops.measure_gradient(partial);
      norm_gradients(context, saved, partial);
    }
    const std::size_t pixel = std::size_t(channels_) * IMAGES + PADDING;
    const std::size_t size = pixel * context.work.blocks() * y.pixels();
    Scratch scratch(context.pool, size * branches_);
    std::vector<View> dz;
    for (int b = 0; b < branches_; b++)
      dz.push_back({scratch.data() + b * size, y.height, y.width, channels_,
                    pixel});
    const std::size_t count = std::size_t(channels_) * branches_ * taps_;
    PartialSums partial(context, context.work.slots(y.height), count, true);
    loops.branch_gradients(dz.data(), partial);
    auto scatter = [&](int first, int end) {
      for (int c = first; c < end; c++)
        for (int b = 0; b < branches_; b++)
          for (int t = 0; t < taps_; t++)
            context.gradient[kernel_ + (b * taps_ + t) * channels_ + c] =
                float(partial.total((c * branches_ + b) * taps_ + t));
    };
    context.work.parts(channels_, CHANNELS_OF_A_TASK, scatter);
    loops.input_gradient(dz.data());
  });
  context.states[place].reset();
}

}  // namespace gns
