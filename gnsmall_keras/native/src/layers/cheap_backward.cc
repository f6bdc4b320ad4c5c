#include <algorithm>

#include "layers/cheap_parts.h"
#include "base/windows.h"

namespace gns {

void Cheap::backward(Context& context, float* sums_of_dx) const {
  Saved& saved = state<Saved>(context);
  kernel_gradients(context, saved);
  input_gradient(context, saved, sums_of_dx);
  context.states[place].reset();
}

// Masks dy, takes its products with the nine taps of x and its sum, and from
// them all gradients of weights as in pointwise.cc.
void Cheap::kernel_gradients(Context& context, Saved& saved) const {
  constexpr int SUMS = TAPS + 1;
  View x = context.values(x_), out = context.values(y_);
  View dy = context.gradients(y_);
  PartialSums partial(context, context.work.slots(x.height),
                      std::size_t(channels_) * SUMS, true);
  context.work.sums(x.height, [&](int slot, Strip strip) {
    for (int y = strip.top; y < strip.bottom; y++)
      cut_row(x.width, [&](auto constant, int left) {
        constexpr int P = decltype(constant)::value;
        const float *pixels[3][P + 2], *values[P];
        float *gradients[P], *sums = partial.slot(slot);
        for (int r = 0; r < 3; r++)
          point_at_row(x, context.zeros, strip.block, y + r - 1, left - 1,
                       P + 2, pixels[r]);
        for (int p = 0; p < P; p++) {
          values[p] = out.at(strip.block, y, left + p);
          gradients[p] = dy.at(strip.block, y, left + p);
        }
        for (int c = 0; c < channels_; c++, sums += SUMS * LANES) {
          Vector sum[SUMS];
          GNS_UNROLL for (int i = 0; i < SUMS; i++)
            sum[i] = load(sums + i * LANES);
          GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
            const std::size_t n = std::size_t(c) * IMAGES + j * LANES;
            Vector d[P];
            GNS_UNROLL for (int p = 0; p < P; p++) {
              d[p] = load(gradients[p] + n);
              if (relu_) {
                d[p] = where_positive(load(values[p] + n), d[p]);
                store(gradients[p] + n, d[p]);
              }
              sum[TAPS] += d[p];
            }
            GNS_UNROLL for (int r = 0; r < 3; r++)
              correlate_sums<3, 1, P>(sum + 3 * r, d, pixels[r], n);
          }
          GNS_UNROLL for (int i = 0; i < SUMS; i++)
            store(sums + i * LANES, sum[i]);
        }
      });
  });
  saved.input.resize(channels_);
  const double count = context.pixels(x_);
  const int all = branches_ + 2;
  context.work.tasks(
      (channels_ + CHANNELS_OF_A_TASK - 1) / CHANNELS_OF_A_TASK,
      [&](int task) {
        int first = task * CHANNELS_OF_A_TASK;
        for (int c = first;
             c < std::min(channels_, first + CHANNELS_OF_A_TASK); c++) {
          const WindowMoments& moments = saved.moments[c];
          float products[TAPS], sum = float(partial.total(c * SUMS + TAPS));
          for (int t = 0; t < TAPS; t++)
            products[t] = float(partial.total(c * SUMS + t));
          float dmean[TAPS] = {}, dcovariance[TAPS][TAPS] = {};
          for (int b = 0; b < all; b++) {
            Branch branch = this->branch(context, b, c);
            const float* k = branch.taps;
            float r = saved.inverse[c * all + b];
            float gamma =
                context.parameters[branch.norm->gamma + branch.index];
            float d = -saved.mean[c * all + b] * sum;
            for (int t = 0; t < TAPS; t++) d += k[t] * products[t];
            context.gradient[branch.norm->beta + branch.index] = sum;
            context.gradient[branch.norm->gamma + branch.index] = d * r;
            float down = -gamma * r * sum, dvar = -.5f * r * r * r * d * gamma;
            for (int t = 0; t < TAPS; t++) {
              float through = 0;
              for (int u = 0; u < TAPS; u++) {
                through += moments.covariance[t][u] * k[u];
                dcovariance[t][u] += dvar * k[t] * k[u];
              }
              dmean[t] += down * k[t];
              float dk = gamma * r * products[t] + down * moments.mean[t] +
                         2 * dvar * through;
              if (b < branches_)
                context.gradient[kernel_ + (b * TAPS + t) * channels_ + c] =
                    dk;
              else if (b == branches_ && t == MIDDLE)
                context.gradient[scale_kernel_ + c] = dk;
            }
          }
          InputGradient& input = saved.input[c];
          input.window = window_gradient(dmean, dcovariance, moments, count);
          if (x.height == 1) join_one_row(input.window);
          for (int t = 0; t < TAPS; t++)
            input.kernel[t] = saved.kernel[c * TAPS + TAPS - 1 - t];
        }
      });
}

void Cheap::input_gradient(Context& context, Saved& saved,
                           float* sums_of_dx) const {
  View x = context.values(x_), dy = context.gradients(y_);
  const bool add = context.has_gradient(x_);
  View dx = context.gradients(x_);
  const int height = x.height, width = x.width;
  PartialSums partial(context, context.work.slots(height), channels_, true);
  context.work.sums(height, [&](int slot, Strip strip) {
    const Vector* valid = context.valid(strip.block);
    for (int y = strip.top; y < strip.bottom; y++) {
      const int edge = y == 0 ? TOP : y == height - 1 ? BOTTOM : -1;
      cut_row(width, [&](auto constant, int left) {
        constexpr int P = decltype(constant)::value;
        const float *pixels[5][P + 4], *gradients[3][P + 2];
        float *to[P], *sums = partial.slot(slot);
        for (int r = 0; r < 5; r++)
          point_at_row(x, context.zeros, strip.block, y + r - 2, left - 2,
                       P + 4, pixels[r]);
        for (int r = 0; r < 3; r++)
          point_at_row(dy, context.zeros, strip.block, y + r - 1, left - 1,
                       P + 2, gradients[r]);
        for (int p = 0; p < P; p++) to[p] = dx.at(strip.block, y, left + p);
        const bool sides[2] = {left == 0, left + P == width};
        for (int c = 0; c < channels_; c++, sums += LANES) {
          const InputGradient& input = saved.input[c];
          const WindowGradient& window = input.window;
          Vector total = load(sums);
          for (int h = 0; h < VECTORS; h += HELD) {
            const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
            Vector sum[P][HELD];
            Vector bias = splat(
                window.bias + (edge < 0 ? 0.f : window.edge_bias[edge]));
            GNS_UNROLL for (int p = 0; p < P; p++)
              GNS_UNROLL for (int j = 0; j < HELD; j++) {
                sum[p][j] = bias * valid[h + j];
                if (add) sum[p][j] += load(to[p] + at + j * LANES);
              }
            GNS_UNROLL for (int r = 0; r < 5; r++)
              correlate<5, 1, P>(sum, window.lags + 5 * r, pixels[r], at);
            GNS_UNROLL for (int r = 0; r < 3; r++)
              correlate<3, 1, P>(sum, input.kernel + 3 * r, gradients[r], at);
            if (edge >= 0)
              correlate<5, 1, P>(sum, window.edge[edge], pixels[2], at);
            for (int side = 0; side < 2; side++) {
              if (!sides[side]) continue;
              const int p = side ? P - 1 : 0;
              const float* along = window.edge[LEFT + side];
              float more = window.edge_bias[LEFT + side], middle = along[2];
              if (edge >= 0) {
                int corner = 2 * side + (edge == BOTTOM);
                more += window.corner_bias[corner];
                middle += window.corner[corner];
              }
              const float factor[5] = {along[0], along[1], middle, along[3],
                                       along[4]};
              for (int j = 0; j < HELD; j++) {
                Vector extra = splat(more) * valid[h + j];
                for (int r = 0; r < 5; r++)
                  extra += splat(factor[r]) *
                           load(pixels[r][p + 2] + at + j * LANES);
                if (side)
                  sum[P - 1][j] += extra;
                else
                  sum[0][j] += extra;
              }
            }
            GNS_UNROLL for (int p = 0; p < P; p++)
              GNS_UNROLL for (int j = 0; j < HELD; j++) {
                if (relu_)
                  sum[p][j] = where_positive(
                      load(pixels[2][p + 2] + at + j * LANES), sum[p][j]);
                total += sum[p][j];
                store(to[p] + at + j * LANES, sum[p][j]);
              }
          }
          store(sums, total);
        }
      });
    }
  });
  if (sums_of_dx) partial.write(context, sums_of_dx);
}

}  // namespace gns
