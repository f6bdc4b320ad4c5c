#include <algorithm>

#include "layers/cheap_parts.h"
#include "base/windows.h"

namespace gns {

Cheap::Cheap(Places& places, Part x, Part y, int branches, bool relu)
    : x_(x), y_(y), branches_(branches), channels_(x.channels), relu_(relu) {
  const std::size_t channels = channels_;
  kernel_ = places.parameter(branches * TAPS * channels);
  scale_kernel_ = places.parameter(channels);
  norm_ = places.norm(branches * channels);
  scale_norm_ = places.norm(channels);
  identity_norm_ = places.norm(channels);
}

Cheap::Branch Cheap::branch(const Context& context, int index,
                            int channel) const {
  Branch branch = {};
  branch.index = channel;
  if (index < branches_) {
    for (int t = 0; t < TAPS; t++)
      branch.taps[t] =
          context.parameters[kernel_ + (index * TAPS + t) * channels_ +
                             channel];
    branch.norm = &norm_;
    branch.index = index * channels_ + channel;
  } else if (index == branches_) {
    branch.taps[MIDDLE] = context.parameters[scale_kernel_ + channel];
    branch.norm = &scale_norm_;
  } else {
    branch.taps[MIDDLE] = 1;
    branch.norm = &identity_norm_;
  }
  return branch;
}

// The sums of moments.h. Those of rows are the lags (0, 0..2) of the first and
// last row.
void Cheap::measure(Context& context, Saved& saved) const {
  View x = context.values(x_);
  const int height = x.height, width = x.width;
  PartialSums partial(context, context.work.slots(height),
                      std::size_t(channels_) * WINDOW_SUMS, true);
  context.work.sums(height, [&](int slot, Strip strip) {
    for (int y = strip.top; y < strip.bottom; y++) {
      const int edge = y == 0 ? TOP : y == height - 1 ? BOTTOM : -1;
      float* sums = partial.slot(slot);
      auto slot_of = [&](int channel, int index) {
        return sums + (channel * WINDOW_SUMS + index) * LANES;
      };
      cut_row(width, [&](auto constant, int left) {
        constexpr int P = decltype(constant)::value;
        const float* pixels[3][P + 4];
        for (int r = 0; r < 3; r++)
          point_at_row(x, context.zeros, strip.block, y + r, left - 2, P + 4,
                       pixels[r]);
        for (int c = 0; c < channels_; c++) {
          const std::size_t at = std::size_t(c) * IMAGES;
          Vector first[4] = {}, below[10];  // sum and lags of row y; the others
          GNS_UNROLL for (int i = 0; i < 10; i++)
            below[i] = load(slot_of(c, LAGS + 3 + i));
          GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
            const std::size_t n = at + j * LANES;
            Vector here[P];
            GNS_UNROLL for (int p = 0; p < P; p++) {
              here[p] = load(pixels[0][p + 2] + n);
              first[0] += here[p];
            }
            correlate_sums<3, 1, P>(first + 1, here, pixels[0] + 2, n);
            correlate_sums<5, 1, P>(below, here, pixels[1], n);
            correlate_sums<5, 1, P>(below + 5, here, pixels[2], n);
          }
          GNS_UNROLL for (int i = 0; i < 10; i++)
            store(slot_of(c, LAGS + 3 + i), below[i]);
          GNS_UNROLL for (int i = 0; i < 4; i++) {
            float* to = slot_of(c, SUM + i);
            store(to, load(to) + first[i]);
            if (edge < 0) continue;
            to = slot_of(c, EDGES + EDGE * edge + i);
            store(to, load(to) + first[i]);
          }
        }
      });
      for (int side : {LEFT, RIGHT}) {
        const float* pixels[3];
        for (int r = 0; r < 3; r++)
          point_at_row(x, context.zeros, strip.block, y + r,
                       side == LEFT ? 0 : width - 1, 1, &pixels[r]);
        for (int c = 0; c < channels_; c++) {
          Vector sum[4] = {};
          for (int j = 0; j < VECTORS; j++) {
            const std::size_t n = std::size_t(c) * IMAGES + j * LANES;
            Vector here = load(pixels[0] + n);
            sum[0] += here;
            GNS_UNROLL for (int r = 0; r < 3; r++)
              sum[1 + r] += here * load(pixels[r] + n);
          }
          for (int i = 0; i < 4; i++) {
            float* to = slot_of(c, EDGES + EDGE * side + i);
            store(to, load(to) + sum[i]);
          }
          if (edge < 0) continue;
          const int corner = 2 * (side == RIGHT) + (edge == BOTTOM);
          for (int i = 0; i < 2; i++) {
            float* to = slot_of(c, CORNERS + 2 * corner + i);
            store(to, load(to) + sum[i]);
          }
        }
      }
    }
  });
  saved.moments.resize(channels_);
  const double count = context.pixels(x_);
  context.work.parts(channels_, CHANNELS_OF_A_TASK, [&](int first, int end) {
    for (int c = first; c < end; c++) {
      double sums[WINDOW_SUMS];
      partial.totals(c * WINDOW_SUMS, WINDOW_SUMS, sums);
      if (height == 1) share_one_row(sums);
      saved.moments[c] = window_moments(sums, count);
    }
  });
}

void Cheap::merge(Context& context, Saved& saved) const {
  const int all = branches_ + 2;
  const double count = context.pixels(x_);
  saved.kernel.assign(channels_ * TAPS, 0.f);
  saved.bias.assign(channels_, 0.f);
  saved.mean.resize(channels_ * all);
  saved.inverse.resize(channels_ * all);
  context.work.parts(channels_, CHANNELS_OF_A_TASK, [&](int first, int end) {
    for (int c = first; c < end; c++)
      for (int b = 0; b < all; b++) {
        Branch branch = this->branch(context, b, c);
        Moments found;
        if (context.training) {
          const WindowMoments& moments = saved.moments[c];
          double mean = 0, variance = 0;
          for (int t = 0; t < TAPS; t++) {
            if (branch.taps[t] == 0) continue;
            mean += double(branch.taps[t]) * moments.mean[t];
            double sum = 0;
            for (int u = 0; u < TAPS; u++)
              sum += double(moments.covariance[t][u]) * branch.taps[u];
            variance += branch.taps[t] * sum;
          }
          found = batch_moments(context, *branch.norm, branch.index, mean,
                                variance, count);
        } else {
          found = moving_moments(context, *branch.norm, branch.index);
        }
        saved.mean[c * all + b] = found.mean;
        saved.inverse[c * all + b] = found.inverse;
        float a = context.parameters[branch.norm->gamma + branch.index] *
                  found.inverse;
        for (int t = 0; t < TAPS; t++)
          saved.kernel[c * TAPS + t] += a * branch.taps[t];
        saved.bias[c] += context.parameters[branch.norm->beta + branch.index] -
                         a * found.mean;
      }
  });
}

void Cheap::forward(Context& context) const {
  Saved& saved = new_state<Saved>(context);
  if (context.training) measure(context, saved);
  merge(context, saved);
  View x = context.values(x_), out = context.values(y_);
  context.work.strips(x.height, [&](Strip strip) {
    const Vector* valid = context.valid(strip.block);
    for (int y = strip.top; y < strip.bottom; y++)
      cut_row(x.width, [&](auto constant, int left) {
        constexpr int P = decltype(constant)::value;
        const float* pixels[3][P + 2];
        float* to[P];
        for (int r = 0; r < 3; r++)
          point_at_row(x, context.zeros, strip.block, y + r - 1, left - 1,
                       P + 2, pixels[r]);
        for (int p = 0; p < P; p++) to[p] = out.at(strip.block, y, left + p);
        for (int c = 0; c < channels_; c++) {
          const float* kernel = &saved.kernel[c * TAPS];
          Vector bias = splat(saved.bias[c]);
          for (int h = 0; h < VECTORS; h += HELD) {
            const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
            Vector sum[P][HELD];
            GNS_UNROLL for (int p = 0; p < P; p++)
              GNS_UNROLL for (int j = 0; j < HELD; j++)
                sum[p][j] = bias * valid[h + j];
            GNS_UNROLL for (int r = 0; r < 3; r++)
              correlate<3, 1, P>(sum, kernel + 3 * r, pixels[r], at);
            GNS_UNROLL for (int p = 0; p < P; p++)
              GNS_UNROLL for (int j = 0; j < HELD; j++)
                store(to[p] + at + j * LANES,
                      relu_ ? relu(sum[p][j]) : sum[p][j]);
          }
        }
      });
  });
}

}  // namespace gns
