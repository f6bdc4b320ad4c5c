#include "depthwise.h"

#include <stdexcept>

#include "windows.h"

namespace gns {

// dz = a dy + c z + e of one branch and channel.
struct Affine {
  float a, c, e;
};

struct Depthwise::Saved : State {
  std::vector<float> kernels;       // k_b, (channels, branches, taps)
  std::vector<float> kernel, bias;  // merged, (channels, taps), (channels,)
  std::vector<float> mean, inverse;  // (channels, branches + 1): last: scale
  std::vector<float> pixel_mean, pixel_variance;  // of x[middle], for scale
  std::vector<Affine> affine;        // (channels, branches + 1), backward
};

// The loops over pixels, for one kind of window.
template <int ROWS, int COLUMNS, int STRIDE>
struct Depthwise::Loops {
  static constexpr int TAPS = ROWS * COLUMNS, MIDDLE = TAPS / 2;
  static constexpr int ABOVE = ROWS / 2, BESIDE = COLUMNS / 2;
  template <int P>
  static constexpr int WIDE = (P - 1) * STRIDE + COLUMNS;

  const Depthwise& layer;
  Context& context;
  Saved& saved;
  View x = context.values(layer.x_), y = context.values(layer.y_);
  const int branches = layer.branches_, channels = layer.channels_;

  template <int P>
  void point(Strip strip, int row, int left,
             const float* (&pixels)[ROWS][WIDE<P>]) const {
    for (int r = 0; r < ROWS; r++)
      point_at_row(x, context.zeros, strip.block, row * STRIDE + r - ABOVE,
                   left * STRIDE - BESIDE, WIDE<P>, pixels[r]);
  }

  template <int P>
  static GNS_INLINE void convolve(Vector (&sum)[P][HELD], const float* kernel,
                                  const float* (&pixels)[ROWS][WIDE<P>],
                                  std::size_t at) {
    GNS_UNROLL for (int r = 0; r < ROWS; r++)
      correlate<COLUMNS, STRIDE, P>(sum, kernel + COLUMNS * r, pixels[r], at);
  }

  // Sums of z_b and its square, for each branch; then of x[middle], for scale.
  void measure(PartialSums& partial) const {
    context.work.sums(y.height, [&](int slot, Strip strip) {
      for (int row = strip.top; row < strip.bottom; row++)
        cut_row(y.width, [&](auto constant, int left) {
          constexpr int P = decltype(constant)::value;
          const float* pixels[ROWS][WIDE<P>];
          point<P>(strip, row, left, pixels);
          float* sums = partial.slot(slot);
          for (int c = 0; c < channels; c++)
            for (int b = 0; b < branches + layer.scale_;
                 b++, sums += 2 * LANES) {
              const float* kernel =
                  &saved.kernels[(c * branches + b % branches) * TAPS];
              Vector sum = load(sums), squares = load(sums + LANES);
              for (int h = 0; h < VECTORS; h += HELD) {
                const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
                Vector z[P][HELD] = {};
                if (b < branches)
                  convolve<P>(z, kernel, pixels, at);
                else
                  GNS_UNROLL for (int p = 0; p < P; p++)
                    GNS_UNROLL for (int j = 0; j < HELD; j++)
                      z[p][j] = load(pixels[ABOVE][p * STRIDE + BESIDE] + at +
                                     j * LANES);
                GNS_UNROLL for (int p = 0; p < P; p++)
                  GNS_UNROLL for (int j = 0; j < HELD; j++) {
                    sum += z[p][j];
                    squares += z[p][j] * z[p][j];
                  }
              }
              store(sums, sum);
              store(sums + LANES, squares);
            }
        });
    });
  }

  void output() const {
    context.work.strips(y.height, [&](Strip strip) {
      const Vector* valid = context.valid(strip.block);
      for (int row = strip.top; row < strip.bottom; row++)
        cut_row(y.width, [&](auto constant, int left) {
          constexpr int P = decltype(constant)::value;
          const float* pixels[ROWS][WIDE<P>];
          point<P>(strip, row, left, pixels);
          for (int c = 0; c < channels; c++)
            for (int h = 0; h < VECTORS; h += HELD) {
              const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
              Vector sum[P][HELD], bias = splat(saved.bias[c]);
              GNS_UNROLL for (int p = 0; p < P; p++)
                GNS_UNROLL for (int j = 0; j < HELD; j++)
                  sum[p][j] = bias * valid[h + j];
              convolve<P>(sum, &saved.kernel[c * TAPS], pixels, at);
              GNS_UNROLL for (int p = 0; p < P; p++)
                GNS_UNROLL for (int j = 0; j < HELD; j++)
                  store(y.at(strip.block, row, left + p) + at + j * LANES,
                        sum[p][j]);
            }
        });
    });
  }

  // sums[t] += sum over outputs and images of d times the pixel of tap t.
  template <int P>
  static GNS_INLINE void add_taps(float* sums, const Vector (&d)[HELD][P],
                                  const float* (&pixels)[ROWS][WIDE<P>],
                                  std::size_t at) {
    // Rows of taps whose sums are in registers together.
    constexpr int R = REGISTERS == 32 && TAPS <= 9 ? ROWS : 1;
    GNS_UNROLL for (int first = 0; first < ROWS; first += R) {
      float* to = sums + first * COLUMNS * LANES;
      Vector sum[R * COLUMNS];
      GNS_UNROLL for (int t = 0; t < R * COLUMNS; t++)
        sum[t] = load(to + t * LANES);
      GNS_UNROLL for (int j = 0; j < HELD; j++)
        GNS_UNROLL for (int r = 0; r < R; r++)
          correlate_sums<COLUMNS, STRIDE, P>(sum + r * COLUMNS, d[j],
                                             pixels[first + r], at + j * LANES);
      GNS_UNROLL for (int t = 0; t < R * COLUMNS; t++)
        store(to + t * LANES, sum[t]);
    }
  }

  // Sums of dy times each tap's pixel, and of dy, (channels, TAPS + 1).
  void measure_gradient(PartialSums& partial) const {
    View dy = context.gradients(layer.y_);
    context.work.sums(y.height, [&](int slot, Strip strip) {
      for (int row = strip.top; row < strip.bottom; row++)
        cut_row(y.width, [&](auto constant, int left) {
          constexpr int P = decltype(constant)::value;
          const float *pixels[ROWS][WIDE<P>], *from[P];
          point<P>(strip, row, left, pixels);
          point_at_row(dy, nullptr, strip.block, row, left, P, from);
          float* sums = partial.slot(slot);
          for (int c = 0; c < channels; c++, sums += (TAPS + 1) * LANES) {
            Vector all = load(sums + TAPS * LANES);
            for (int h = 0; h < VECTORS; h += HELD) {
              const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
              Vector d[HELD][P];
              GNS_UNROLL for (int j = 0; j < HELD; j++)
                GNS_UNROLL for (int p = 0; p < P; p++) {
                  d[j][p] = load(from[p] + at + j * LANES);
                  all += d[j][p];
                }
              add_taps<P>(sums, d, pixels, at);
            }
            store(sums + TAPS * LANES, all);
          }
        });
    });
  }

  // Writes dz_b, and sums of it times each tap's pixel,
  // (channels, branches, TAPS).
  void branch_gradients(const View* dz, PartialSums& partial) const {
    View dy = context.gradients(layer.y_);
    context.work.sums(y.height, [&](int slot, Strip strip) {
      const Vector* valid = context.valid(strip.block);
      for (int row = strip.top; row < strip.bottom; row++)
        cut_row(y.width, [&](auto constant, int left) {
          constexpr int P = decltype(constant)::value;
          const float *pixels[ROWS][WIDE<P>], *from[P];
          point<P>(strip, row, left, pixels);
          point_at_row(dy, nullptr, strip.block, row, left, P, from);
          float* sums = partial.slot(slot);
          for (int c = 0; c < channels; c++)
            for (int b = 0; b < branches; b++, sums += TAPS * LANES) {
              Affine affine = saved.affine[c * (branches + 1) + b];
              const float* kernel = &saved.kernels[(c * branches + b) * TAPS];
              float* to = dz[b].at(strip.block, row, left);
              for (int h = 0; h < VECTORS; h += HELD) {
                const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
                Vector z[P][HELD] = {}, d[HELD][P];
                convolve<P>(z, kernel, pixels, at);
                GNS_UNROLL for (int j = 0; j < HELD; j++)
                  GNS_UNROLL for (int p = 0; p < P; p++) {
                    d[j][p] =
                        splat(affine.a) * load(from[p] + at + j * LANES) +
                        splat(affine.c) * z[p][j] +
                        splat(affine.e) * valid[h + j];
                    store(to + p * dz[b].pixel + at + j * LANES, d[j][p]);
                  }
                add_taps<P>(sums, d, pixels, at);
              }
            }
        });
    });
  }

  // What comes to dx[p] through the scaled pixel: a dy + c x + e.
  GNS_INLINE void add_scaled(Strip strip, int row, int column) const {
    if (row % STRIDE || column % STRIDE) return;
    View dy = context.gradients(layer.y_), dx = context.gradients(layer.x_);
    const Vector* valid = context.valid(strip.block);
    const float* here = x.at(strip.block, row, column);
    const float* from = dy.at(strip.block, row / STRIDE, column / STRIDE);
    float* to = dx.at(strip.block, row, column);
    for (int c = 0; c < channels; c++) {
      const Affine affine = saved.affine[c * (branches + 1) + branches];
      GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
        const int n = c * IMAGES + j * LANES;
        store(to + n, load(to + n) + splat(affine.a) * load(from + n) +
                          splat(affine.c) * load(here + n) +
                          splat(affine.e) * valid[j]);
      }
    }
  }

  // dx[p] = sum over branches b and taps t of k_b[t] dz_b[(p - t) / STRIDE],
  // where that is a pixel.
  void input_gradient(const View* dz) const {
    const bool add = context.has_gradient(layer.x_);
    View dx = context.gradients(layer.x_);
    context.work.strips(x.height, [&](Strip strip) {
      for (int row = strip.top; row < strip.bottom; row++) {
        if constexpr (STRIDE == 1)
          cut_row(x.width, [&](auto constant, int left) {
            gather_together<decltype(constant)::value>(dz, dx, add, strip,
                                                       row, left);
          });
        else
          for (int column = 0; column < x.width; column++)
            gather(dz, dx, add, strip, row, column);
        for (int column = 0; column < x.width && layer.scale_; column++)
          add_scaled(strip, row, column);
      }
    });
  }

  // Stride 1: a correlation of dz with kernels turned by half a circle.
  template <int P>
  void gather_together(const View* dz, const View& dx, bool add, Strip strip,
                       int row, int left) const {
    float* to = dx.at(strip.block, row, left);
    for (int b = 0; b < branches; b++) {
      const float* pixels[ROWS][WIDE<P>];
      for (int r = 0; r < ROWS; r++)
        point_at_row(dz[b], context.zeros, strip.block, row + r - ABOVE,
                     left - BESIDE, WIDE<P>, pixels[r]);
      for (int c = 0; c < channels; c++) {
        float turned[TAPS];
        for (int t = 0; t < TAPS; t++)
          turned[t] =
              saved.kernels[(c * branches + b) * TAPS + TAPS - 1 - t];
        for (int h = 0; h < VECTORS; h += HELD) {
          const std::size_t at = std::size_t(c) * IMAGES + h * LANES;
          Vector sum[P][HELD] = {};
          if (add || b)
            GNS_UNROLL for (int p = 0; p < P; p++)
              GNS_UNROLL for (int j = 0; j < HELD; j++)
                sum[p][j] = load(to + p * dx.pixel + at + j * LANES);
          convolve<P>(sum, turned, pixels, at);
          GNS_UNROLL for (int p = 0; p < P; p++)
            GNS_UNROLL for (int j = 0; j < HELD; j++)
              store(to + p * dx.pixel + at + j * LANES, sum[p][j]);
        }
      }
    }
  }

  // Any stride, one pixel: only some taps of the windows reach it.
  void gather(const View* dz, const View& dx, bool add, Strip strip, int row,
              int column) const {
    int taps[TAPS], count = 0;
    std::ptrdiff_t places[TAPS];
    for (int t = 0; t < TAPS; t++) {
      int r = row + ABOVE - t / COLUMNS, q = column + BESIDE - t % COLUMNS;
      if (r < 0 || q < 0 || r % STRIDE || q % STRIDE) continue;
      if (r / STRIDE >= y.height || q / STRIDE >= y.width) continue;
      taps[count] = t;
      places[count++] =
          dz[0].at(strip.block, r / STRIDE, q / STRIDE) - dz[0].first;
    }
    float* to = dx.at(strip.block, row, column);
    for (int c = 0; c < channels; c++) {
      const std::size_t at = std::size_t(c) * IMAGES;
      Vector sum[VECTORS] = {};
      GNS_UNROLL for (int j = 0; j < VECTORS && add; j++)
        sum[j] = load(to + at + j * LANES);
      for (int b = 0; b < branches; b++)
        for (int i = 0; i < count; i++) {
          Vector k = splat(saved.kernels[(c * branches + b) * TAPS + taps[i]]);
          const float* d = dz[b].first + places[i] + at;
          GNS_UNROLL for (int j = 0; j < VECTORS; j++)
            sum[j] += k * load(d + j * LANES);
        }
      GNS_UNROLL for (int j = 0; j < VECTORS; j++)
        store(to + at + j * LANES, sum[j]);
    }
  }
};

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
  for (int c = 0; c < channels_; c++)
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
}

void Depthwise::forward(Context& context) const {
  Saved& saved = new_state<Saved>(context);
  saved.kernels.resize(std::size_t(channels_) * branches_ * taps_);
  for (int b = 0; b < branches_; b++)
    for (int t = 0; t < taps_; t++)
      for (int c = 0; c < channels_; c++)
        saved.kernels[(c * branches_ + b) * taps_ + t] =
            context.parameters[kernel_ + (b * taps_ + t) * channels_ + c];
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
  for (int c = 0; c < channels_; c++) {
    const std::size_t first = std::size_t(c) * (taps_ + 1);
    const float sum = float(sums.total(first + taps_));
    for (int b = 0; b < branches_ + scale_; b++) {
      const bool scaled = b == branches_;
      const Norm& norm = scaled ? scale_norm_ : norm_;
      const int index = scaled ? c : b * channels_ + c;
      const float s = scaled ? parameters[scale_kernel_ + c] : 1.f;
      const float mean = saved.mean[c * (branches_ + 1) + b];
      const float r = saved.inverse[c * (branches_ + 1) + b];
      double product = 0;  // sum of dy z
      if (scaled)
        product = s * sums.total(first + taps_ / 2);
      else
        for (int t = 0; t < taps_; t++)
          product += saved.kernels[(c * branches_ + b) * taps_ + t] *
                     sums.total(first + t);
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
            affine.a * float(sums.total(first + taps_ / 2)) +
            count * (affine.c * s * square + affine.e * saved.pixel_mean[c]);
        affine = {affine.a * s, affine.c * s * s, affine.e * s};
      }
      saved.affine[c * (branches_ + 1) + b] = affine;
    }
  }
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
    for (int c = 0; c < channels_; c++)
      for (int b = 0; b < branches_; b++)
        for (int t = 0; t < taps_; t++)
          context.gradient[kernel_ + (b * taps_ + t) * channels_ + c] =
              float(partial.total((c * branches_ + b) * taps_ + t));
    loops.input_gradient(dz.data());
  });
  context.states[place].reset();
}

}  // namespace gns
