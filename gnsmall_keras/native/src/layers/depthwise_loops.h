// The loops over pixels of depthwise.h, for one kind of window.
#pragma once
#include "layers/depthwise.h"
#include "base/windows.h"

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

}  // namespace gns
