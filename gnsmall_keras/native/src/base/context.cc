#include "base/context.h"

#include <algorithm>
#include <cmath>

namespace gns {

Context::Context(const std::vector<Tensor>& tensors, int layers,
                 Threads& threads, Pool& pool, const float* zeros, int images)
    : images(images),
      work(threads, (images + IMAGES - 1) / IMAGES),
      pool(pool),
      zeros(zeros),
      states(layers),
      tensors_(tensors),
      values_(tensors.size()),
      gradients_(tensors.size()),
      begun_(tensors.size()) {
  int last = images - (work.blocks() - 1) * IMAGES;
  for (int n = 0; n < IMAGES; n++) {
    valid_[0].at[n / LANES][n % LANES] = 1.f;
    valid_[1].at[n / LANES][n % LANES] = n < last ? 1.f : 0.f;
  }
}

Context::~Context() {
  for (auto& buffer : values_) pool.give_back(buffer);
  for (auto& buffer : gradients_) pool.give_back(buffer);
}

View Context::view(std::vector<Buffer>& buffers, const Part& part,
                   int tensor) {
  const Tensor& t = tensors_[tensor];
  Buffer& buffer = buffers[tensor];
  if (!buffer.data)
    buffer = pool.take(std::size_t(work.blocks()) * t.height * t.width *
                       t.pixel());
  return {buffer.data + std::size_t(part.first) * IMAGES, t.height, t.width,
          part.channels, t.pixel()};
}

View Context::values(const Part& part) {
  return view(values_, part, part.tensor);
}

View Context::gradients(const Part& part) {
  return view(gradients_, part, tensors_[part.tensor].gradient_of);
}

bool Context::has_gradient(const Part& part) {
  int tensor = tensors_[part.tensor].gradient_of;
  bool begun = begun_[tensor];
  begun_[tensor] = true;
  return begun;
}

Moments batch_moments(Context& context, const Norm& norm, int channel,
                      double mean, double variance, double count) {
  if (variance < 0) variance = 0;  // keeps NaN
  context.statistics[norm.mean + channel] = float(mean);
  context.statistics[norm.variance + channel] =
      float(variance * (count / std::max(count - 1, 1.0)));
  return {float(mean), float(1 / std::sqrt(variance + EPSILON))};
}

Moments moving_moments(const Context& context, const Norm& norm, int channel) {
  double variance = context.statistics[norm.variance + channel];
  return {context.statistics[norm.mean + channel],
          float(1 / std::sqrt(variance + EPSILON))};
}

PartialSums::PartialSums(Context& context, int slots, std::size_t count,
                         bool vectors)
    : count_(count),
      width_(vectors ? LANES : 1),
      stride_((count * width_ + 31) / 16 * 16),
      slots_(slots),
      scratch_(context.pool, slots_ * stride_) {
  constexpr std::size_t LARGE = 1 << 14;  // for which threads are worth it
  if (slots_ * stride_ < LARGE)
    scratch_.clear(slots_ * stride_);
  else
    context.work.tasks(slots_,
                       [&](int i) { std::fill_n(slot(i), stride_, 0.f); });
}

double PartialSums::total(std::size_t index) const {
  double total = 0;
  for (int i = 0; i < slots_; i++) {
    const float* from = slot(i) + index * width_;
    total += width_ == 1 ? *from : sum_of(load(from));
  }
  return total;
}

// A slot's values lie side by side: sums of many are vectors.
void PartialSums::totals(std::size_t first, std::size_t count,
                         double* to) const {
  if (width_ != 1) {
    for (std::size_t i = 0; i < count; i++) to[i] = total(first + i);
    return;
  }
  std::fill_n(to, count, 0.);
  for (int s = 0; s < slots_; s++) {
    const float* from = slot(s) + first;
    for (std::size_t i = 0; i < count; i++) to[i] += from[i];
  }
}

void PartialSums::write(Context& context, float* to) const {
  constexpr std::size_t CHUNK = 512;
  context.work.tasks(int((count_ + CHUNK - 1) / CHUNK), [&](int task) {
    double sums[CHUNK];
    std::size_t first = task * CHUNK, count = std::min(CHUNK, count_ - first);
    totals(first, count, sums);
    for (std::size_t i = 0; i < count; i++) to[first + i] = float(sums[i]);
  });
}

}  // namespace gns
