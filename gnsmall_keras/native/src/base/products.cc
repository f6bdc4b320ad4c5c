#include "base/products.h"

#include <algorithm>
#include <utility>

namespace gns {
namespace {

// Rows of a register block: with VECTORS columns, it must leave registers for
// the operands.
constexpr int ROWS = REGISTERS == 32 ? 6 : 3;
constexpr int TILE_ROWS = REGISTERS == 32 ? 6 : 3, TILE_COLUMNS = 4;
// Floats of two maps that stay in a core's second cache.
constexpr std::size_t CACHED = REGISTERS == 32 ? 1 << 18 : 1 << 16;

// Cuts `count` into parts of at most `most`, as even as may be: the shortest
// parts would wait for memory. Calls part(first, size).
template <class Part>
GNS_INLINE void cut(int count, int most, Part part) {
  int parts = (count + most - 1) / most;
  for (int i = 0; i < parts; i++) {
    int first = i * count / parts;
    part(first, (i + 1) * count / parts - first);
  }
}

template <int R>
GNS_INLINE void multiply_rows(const Factor* factors, int count, int row,
                              const Finish& finish, float* y) {
  Vector sum[R][VECTORS];
  GNS_UNROLL for (int r = 0; r < R; r++) {
    Vector bias = splat(finish.bias ? finish.bias[row + r] : 0.f);
    GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
      sum[r][j] = finish.bias ? bias * finish.valid[j] : Vector{};
      if (finish.add) sum[r][j] += load(y + r * IMAGES + j * LANES);
    }
  }
  for (int f = 0; f < count; f++) {
    const float* a = factors[f].coefficients + row;
    const float* x = factors[f].x;
    const int depth = factors[f].depth, stride = factors[f].stride;
    for (int k = 0; k < depth; k++, a += stride, x += IMAGES) {
      if constexpr (REGISTERS == 32) {
        Vector line[VECTORS];
        GNS_UNROLL for (int j = 0; j < VECTORS; j++)
          line[j] = load(x + j * LANES);
        GNS_UNROLL for (int r = 0; r < R; r++) {
          Vector factor = splat(a[r]);
          GNS_UNROLL for (int j = 0; j < VECTORS; j++)
            sum[r][j] += factor * line[j];
        }
      } else {
        Vector factor[R];
        GNS_UNROLL for (int r = 0; r < R; r++) factor[r] = splat(a[r]);
        GNS_UNROLL for (int j = 0; j < VECTORS; j++) {
          Vector line = load(x + j * LANES);
          GNS_IN_REGISTER(line);
          GNS_UNROLL for (int r = 0; r < R; r++) sum[r][j] += factor[r] * line;
        }
      }
    }
  }
  GNS_UNROLL for (int r = 0; r < R; r++)
    GNS_UNROLL for (int j = 0; j < VECTORS; j++)
      store(y + r * IMAGES + j * LANES,
            finish.relu ? relu(sum[r][j]) : sum[r][j]);
}

template <int I, int J>
void add_tile(int pixels, const Lines& x, const Lines& y, float* out,
              int stride) {
  Vector sum[I][J];
  GNS_UNROLL for (int i = 0; i < I; i++)
    GNS_UNROLL for (int j = 0; j < J; j++) sum[i][j] = Vector{};
  const float *a = x.first, *b = y.first;
  for (int p = 0; p < pixels; p++, a += x.pixel, b += y.pixel)
    GNS_UNROLL for (int n = 0; n < IMAGES; n += LANES) {
      Vector left[I];
      GNS_UNROLL for (int i = 0; i < I; i++) left[i] = load(a + i * IMAGES + n);
      GNS_UNROLL for (int j = 0; j < J; j++) {
        Vector right = load(b + j * IMAGES + n);
        GNS_IN_REGISTER(right);
        GNS_UNROLL for (int i = 0; i < I; i++) sum[i][j] += left[i] * right;
      }
    }
  GNS_UNROLL for (int i = 0; i < I; i++) {
    float* to = out + i * stride;
    if constexpr (J == 4) {
      Four old;
      std::memcpy(&old, to, sizeof old);
      old += sums_of(sum[i]);
      std::memcpy(to, &old, sizeof old);
    } else {
      GNS_UNROLL for (int j = 0; j < J; j++) to[j] += sum_of(sum[i][j]);
    }
  }
}

typedef void Tile(int, const Lines&, const Lines&, float*, int);

template <int... Index>
constexpr auto tiles(std::integer_sequence<int, Index...>) {
  struct Table {
    Tile* at[sizeof...(Index)];
  };
  return Table{{&add_tile<Index / TILE_COLUMNS + 1,
                          Index % TILE_COLUMNS + 1>...}};
}
constexpr auto TILES =
    tiles(std::make_integer_sequence<int, TILE_ROWS * TILE_COLUMNS>());

Lines from_channel(const Lines& x, int channel) {
  return {x.first + std::size_t(channel) * IMAGES, x.pixel,
          x.channels - channel};
}

void add_tiles(int pixels, const Lines& x, const Lines& y, float* out,
               int stride, bool above_diagonal) {
  int chunk = int(std::max<std::size_t>(4, CACHED / (x.pixel + y.pixel)));
  for (int at = 0; at < pixels; at += chunk) {
    int count = std::min(chunk, pixels - at);
    Lines a = {x.first + at * x.pixel, x.pixel, x.channels};
    Lines b = {y.first + at * y.pixel, y.pixel, y.channels};
    cut(x.channels, TILE_ROWS, [&](int i, int rows) {
      cut(y.channels, TILE_COLUMNS, [&](int j, int columns) {
        if (above_diagonal && j + columns <= i) return;
        Tile* tile = TILES.at[(rows - 1) * TILE_COLUMNS + columns - 1];
        tile(count, from_channel(a, i), from_channel(b, j),
             out + i * stride + j, stride);
      });
    });
  }
}

}  // namespace

void multiply(const Factor* factors, int count, int rows, const Finish& finish,
              float* y) {
  cut(rows, ROWS, [&](int row, int size) {
    float* to = y + std::size_t(row) * IMAGES;
    switch (size) {
      case 1: return multiply_rows<1>(factors, count, row, finish, to);
      case 2: return multiply_rows<2>(factors, count, row, finish, to);
      case 3: return multiply_rows<3>(factors, count, row, finish, to);
      case 4: return multiply_rows<4>(factors, count, row, finish, to);
      case 5: return multiply_rows<5>(factors, count, row, finish, to);
      case 6: return multiply_rows<6>(factors, count, row, finish, to);
    }
  });
}

void add_products(int pixels, const Lines& x, const Lines& y, float* out,
                  int stride) {
  add_tiles(pixels, x, y, out, stride, false);
}

void add_squares(int pixels, const Lines& x, float* out) {
  add_tiles(pixels, x, x, out, x.channels, true);
}

void add_sums(int pixels, const Lines& x, float* out) {
  for (int c = 0; c < x.channels; c++) {
    Vector sum[VECTORS] = {};
    const float* from = x.first + std::size_t(c) * IMAGES;
    for (int p = 0; p < pixels; p++, from += x.pixel)
      GNS_UNROLL for (int j = 0; j < VECTORS; j++)
        sum[j] += load(from + j * LANES);
    out[c] += sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}

}  // namespace gns
