#include "layers/pointwise.h"

#include <algorithm>

#include "base/products.h"

namespace gns {
namespace {

constexpr int ROWS_OF_A_TASK = 48, COLUMNS_OF_A_TASK = 32;

int panels_of(int columns) { return (columns + IMAGES - 1) / IMAGES; }

}  // namespace

// A matrix (in, branches * out) is kept as panels of IMAGES columns, each
// (in, IMAGES): to `multiply` and `add_products` they look like pixels.
struct Pointwise::Saved : State {
  std::vector<float> mean, covariance;  // (in,), (in, in)
  std::vector<Line> kernels, through;   // k_b; C k_b
  std::vector<Line> scale, inverse, means;   // (panels,): a, 1/sqrt, mean_b
  std::vector<float> merged, bias;      // K (in, out), B (out,)
  std::vector<float> identity_inverse;  // (in,)
  // Of the backward pass:
  std::vector<float> transposed, quadratic, offset;  // K', D, bias
};

Pointwise::Pointwise(Places& places, Part x, Part y, int branches,
                     bool identity, bool relu)
    : x_(x),
      y_(y),
      branches_(branches),
      in_(x.channels),
      out_(y.channels),
      identity_(identity),
      relu_(relu) {
  kernel_ = places.parameter(std::size_t(branches) * in_ * out_);
  norm_ = places.norm(std::size_t(branches) * out_);
  if (identity) identity_norm_ = places.norm(in_);
}

// Mean and covariance of the channels over all pixels and images.
void Pointwise::measure(Context& context, Saved& saved) const {
  View x = context.values(x_);
  const std::size_t squares = std::size_t(in_) * in_;
  PartialSums partial(context, context.work.range_slots(x.pixels()),
                      squares + in_, false);
  context.work.ranges(x.pixels(), [&](int slot, int first, int count) {
    Lines lines = {x.at(first), x.pixel, in_};
    add_squares(count, lines, partial.slot(slot));
    add_sums(count, lines, partial.slot(slot) + squares);
  });
  const double count = context.pixels(x_);
  std::vector<double> mean(in_);
  partial.totals(squares, in_, mean.data());
  for (double& value : mean) value /= count;
  saved.mean.assign(mean.begin(), mean.end());
  saved.covariance.resize(squares);
  context.work.parts(in_, 8, [&](int first, int end) {
    std::vector<double> row(in_);
    for (int i = first; i < end; i++) {
      partial.totals(std::size_t(i) * in_ + i, in_ - i, row.data());
      for (int j = i; j < in_; j++)
        saved.covariance[i * in_ + j] = saved.covariance[j * in_ + i] =
            float(row[j - i] / count - mean[i] * mean[j]);
    }
  });
}

// Of every branch: mean k' mu and variance k' C k, a Line a panel.
void Pointwise::branch_moments(Context& context, Saved& saved,
                               std::vector<Line>& variances) const {
  const int columns = branches_ * out_, panels = panels_of(columns);
  const float* kernel = context.parameters + kernel_;
  saved.kernels.assign(std::size_t(panels) * in_, Line{});
  saved.through.resize(saved.kernels.size());
  float* panel = reinterpret_cast<float*>(saved.kernels.data());
  context.work.parts(in_, ROWS_OF_A_TASK, [&](int first, int end) {
    for (int b = 0; b < branches_; b++)
      for (int i = first; i < end; i++)
        for (int o = 0; o < out_; o++) {
          int column = b * out_ + o;
          panel[(std::size_t(column / IMAGES) * in_ + i) * IMAGES +
                column % IMAGES] = kernel[(b * in_ + i) * out_ + o];
        }
  });
  const int chunks = (in_ + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
  context.work.tasks(panels * chunks, [&](int task) {
    int row = task % chunks * ROWS_OF_A_TASK;
    const Line* from = &saved.kernels[std::size_t(task / chunks) * in_];
    Line* to = &saved.through[std::size_t(task / chunks) * in_ + row];
    Factor factor = {&saved.covariance[row], in_, in_,
                     reinterpret_cast<const float*>(from)};
    multiply(&factor, 1, std::min(ROWS_OF_A_TASK, in_ - row),
             Finish{nullptr, nullptr, false, false},
             reinterpret_cast<float*>(to));
  });
  context.work.tasks(panels, [&](int p) {
    for (int i = 0; i < in_; i++) {
      const Line& k = saved.kernels[std::size_t(p) * in_ + i];
      const Line& c = saved.through[std::size_t(p) * in_ + i];
      for (int j = 0; j < VECTORS; j++) {
        saved.means[p].at[j] += splat(saved.mean[i]) * k.at[j];
        variances[p].at[j] += c.at[j] * k.at[j];
      }
    }
  });
}

// Every branch's affine map, then K and B of their sum.
void Pointwise::merge(Context& context, Saved& saved) const {
  const int columns = branches_ * out_, panels = panels_of(columns);
  const float* kernel = context.parameters + kernel_;
  saved.scale.assign(panels, Line{});
  saved.inverse = saved.means = saved.scale;
  std::vector<Line> variances(panels, Line{});
  if (context.training) branch_moments(context, saved, variances);
  float* scale = reinterpret_cast<float*>(saved.scale.data());
  float* inverse = reinterpret_cast<float*>(saved.inverse.data());
  float* means = reinterpret_cast<float*>(saved.means.data());
  const float* variance = reinterpret_cast<const float*>(variances.data());
  const double count = context.pixels(x_);
  saved.bias.assign(out_, 0.f);
  for (int column = 0; column < columns; column++) {
    Moments moments =
        context.training
            ? batch_moments(context, norm_, column, means[column],
                            variance[column], count)
            : moving_moments(context, norm_, column);
    means[column] = moments.mean;
    inverse[column] = moments.inverse;
    scale[column] =
        context.parameters[norm_.gamma + column] * moments.inverse;
    saved.bias[column % out_] += context.parameters[norm_.beta + column] -
                                 scale[column] * moments.mean;
  }
  saved.merged.assign(std::size_t(in_) * out_, 0.f);
  context.work.parts(in_, ROWS_OF_A_TASK, [&](int first, int end) {
    for (int b = 0; b < branches_; b++)
      for (int i = first; i < end; i++)
        for (int o = 0; o < out_; o++)
          saved.merged[i * out_ + o] +=
              scale[b * out_ + o] * kernel[(b * in_ + i) * out_ + o];
  });
  if (!identity_) return;
  saved.identity_inverse.resize(in_);
  for (int i = 0; i < in_; i++) {
    Moments moments =
        context.training
            ? batch_moments(context, identity_norm_, i, saved.mean[i],
                            saved.covariance[i * in_ + i], count)
            : moving_moments(context, identity_norm_, i);
    saved.identity_inverse[i] = moments.inverse;
    float a = context.parameters[identity_norm_.gamma + i] * moments.inverse;
    saved.merged[i * out_ + i] += a;
    saved.bias[i] +=
        context.parameters[identity_norm_.beta + i] - a * moments.mean;
  }
}

void Pointwise::forward(Context& context) const {
  Saved& saved = new_state<Saved>(context);
  if (context.training) measure(context, saved);
  merge(context, saved);
  View x = context.values(x_), y = context.values(y_);
  context.work.strips(x.height, [&](Strip strip) {
    Finish finish = {saved.bias.data(), context.valid(strip.block), false,
                     relu_};
    for (int row = strip.top; row < strip.bottom; row++)
      for (int column = 0; column < x.width; column++) {
        Factor factor = {saved.merged.data(), out_, in_,
                         x.at(strip.block, row, column)};
        multiply(&factor, 1, out_, finish, y.at(strip.block, row, column));
      }
  });
}

void Pointwise::backward(Context& context) const {
  std::vector<float> sums(out_);
  mask_and_sum(context, y_, relu_, sums.data());
  backward(context, sums.data());
}

void Pointwise::backward(Context& context, const float* sums) const {
  Saved& saved = state<Saved>(context);
  merge_backward(context, saved, sums);
  View x = context.values(x_), dy = context.gradients(y_);
  bool add = context.has_gradient(x_);
  View dx = context.gradients(x_);
  context.work.strips(x.height, [&](Strip strip) {
    Finish finish = {saved.offset.data(), context.valid(strip.block), add,
                     false};
    for (int row = strip.top; row < strip.bottom; row++)
      for (int column = 0; column < x.width; column++) {
        Factor factors[] = {
            {saved.transposed.data(), in_, out_,
             dy.at(strip.block, row, column)},
            {saved.quadratic.data(), in_, in_,
             x.at(strip.block, row, column)}};
        multiply(factors, 2, in_, finish, dx.at(strip.block, row, column));
      }
  });
  context.states[place].reset();
}

// From dK[i][o] = sum of x[i] dy[o] and dB[o] = sum of dy[o]: the gradients of
// the weights, and D, K' and the bias for dx. For each column o of a branch:
//
//     da = sum_i k[i] dK[i] - mean dB      dmean = -a dB
//     dvar = -1/2 (var + epsilon)^(-3/2) gamma da
//     dk[i] = a dK[i] + dmean mu[i] + 2 dvar (C k)[i]
void Pointwise::merge_backward(Context& context, Saved& saved,
                               const float* sums) const {
  View x = context.values(x_), dy = context.gradients(y_);
  std::vector<float> products(std::size_t(in_) * out_);  // dK
  {
    PartialSums partial(context, context.work.range_slots(x.pixels()),
                        products.size(), false);
    context.work.ranges(x.pixels(), [&](int slot, int first, int count) {
      add_products(count, {x.at(first), x.pixel, in_},
                   {dy.at(first), dy.pixel, out_}, partial.slot(slot), out_);
    });
    partial.write(context, products.data());
  }
  const int columns = branches_ * out_, panels = panels_of(columns);
  const float* parameters = context.parameters;
  const float* scale = reinterpret_cast<const float*>(saved.scale.data());
  const float* inverse = reinterpret_cast<const float*>(saved.inverse.data());
  const float* means = reinterpret_cast<const float*>(saved.means.data());
  std::vector<float> dmean(columns), dvar(columns), dmu(in_, 0.f);
  const float* kernel = parameters + kernel_;
  const int parts = (out_ + COLUMNS_OF_A_TASK - 1) / COLUMNS_OF_A_TASK;
  context.work.tasks(branches_ * parts, [&](int task) {
    const int b = task / parts, first = task % parts * COLUMNS_OF_A_TASK;
    const int end = std::min(out_, first + COLUMNS_OF_A_TASK);
    float da[COLUMNS_OF_A_TASK] = {};
    for (int i = 0; i < in_; i++)
      for (int o = first; o < end; o++)
        da[o - first] +=
            kernel[(b * in_ + i) * out_ + o] * products[i * out_ + o];
    for (int o = first; o < end; o++) {
      int column = b * out_ + o;
      float d = da[o - first] - means[column] * sums[o], r = inverse[column];
      context.gradient[norm_.beta + column] = sums[o];
      context.gradient[norm_.gamma + column] = d * r;
      dmean[column] = -scale[column] * sums[o];
      dvar[column] =
          -.5f * r * r * r * d * parameters[norm_.gamma + column];
    }
  });
  // The kernels' gradients, and dvar k beside k for D.
  std::vector<Line> weighted(saved.kernels.size());
  const float* through = reinterpret_cast<const float*>(saved.through.data());
  std::vector<Line> factors(panels, Line{});
  std::copy(dvar.begin(), dvar.end(),
            reinterpret_cast<float*>(factors.data()));
  context.work.parts(in_, 16, [&](int first, int end) {
    for (int p = 0; p < panels; p++)
      for (int i = first; i < end; i++)
        for (int j = 0; j < VECTORS; j++)
          weighted[std::size_t(p) * in_ + i].at[j] =
              factors[p].at[j] *
              saved.kernels[std::size_t(p) * in_ + i].at[j];
    for (int i = first; i < end; i++)
      for (int b = 0; b < branches_; b++) {
        const float* k = kernel + std::size_t(b * in_ + i) * out_;
        float* dk = context.gradient + kernel_ +
                    std::size_t(b * in_ + i) * out_;
        float sum = 0;
        for (int o = 0; o < out_; o++) {
          int column = b * out_ + o;
          float ck = through[(std::size_t(column / IMAGES) * in_ + i) *
                                 IMAGES + column % IMAGES];
          dk[o] = scale[column] * products[i * out_ + o] +
                  dmean[column] * saved.mean[i] + 2 * dvar[column] * ck;
          sum += dmean[column] * k[o];
        }
        dmu[i] += sum;
      }
  });
  saved.quadratic.assign(std::size_t(in_) * in_, 0.f);
  const int chunks = (in_ + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
  context.work.tasks(chunks, [&](int task) {
    int row = task * ROWS_OF_A_TASK;
    Lines left = {reinterpret_cast<const float*>(weighted.data() + row),
                  std::size_t(in_) * IMAGES,
                  std::min(ROWS_OF_A_TASK, in_ - row)};
    Lines right = {reinterpret_cast<const float*>(saved.kernels.data()),
                   std::size_t(in_) * IMAGES, in_};
    add_products(panels, left, right, &saved.quadratic[row * in_], in_);
  });
  if (identity_)
    for (int i = 0; i < in_; i++) {
      float r = saved.identity_inverse[i];
      float gamma = parameters[identity_norm_.gamma + i];
      float d = products[i * out_ + i] - saved.mean[i] * sums[i];
      context.gradient[identity_norm_.beta + i] = sums[i];
      context.gradient[identity_norm_.gamma + i] = d * r;
      dmu[i] -= gamma * r * sums[i];
      saved.quadratic[i * in_ + i] += -.5f * r * r * r * d * gamma;
    }
  const float count = float(context.pixels(x_));
  saved.offset.resize(in_);
  saved.transposed.resize(std::size_t(in_) * out_);
  context.work.parts(in_, 16, [&](int first, int end) {
    for (int i = first; i < end; i++) {
      float* row = &saved.quadratic[std::size_t(i) * in_];
      float sum = 0;
      for (int j = 0; j < in_; j++) {
        sum += row[j] * saved.mean[j];
        row[j] *= 2 / count;
      }
      saved.offset[i] = (dmu[i] - 2 * sum) / count;
    }
    for (int o = 0; o < out_; o++)
      for (int i = first; i < end; i++)
        saved.transposed[std::size_t(o) * in_ + i] =
            saved.merged[std::size_t(i) * out_ + o];
  });
}

void mask_and_sum(Context& context, const Part& y, bool relu, float* sums) {
  View values = context.values(y), dy = context.gradients(y);
  PartialSums partial(context, context.work.slots(dy.height), y.channels,
                      true);
  context.work.sums(dy.height, [&](int slot, Strip strip) {
    for (int row = strip.top; row < strip.bottom; row++)
      for (int column = 0; column < dy.width; column++) {
        float* d = dy.at(strip.block, row, column);
        const float* v = values.at(strip.block, row, column);
        float* to = partial.slot(slot);
        for (int c = 0; c < y.channels; c++, to += LANES) {
          Vector sum = load(to);
          for (int n = c * IMAGES; n < (c + 1) * IMAGES; n += LANES) {
            Vector value = load(d + n);
            if (relu) {
              value = where_positive(load(v + n), value);
              store(d + n, value);
            }
            sum += value;
          }
          store(to, sum);
        }
      }
  });
  partial.write(context, sums);
}

}  // namespace gns
