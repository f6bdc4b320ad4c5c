#include "base/moments.h"

#include <cstdlib>

namespace gns {
namespace {

int row_of(int tap) { return tap / 3 - 1; }
int column_of(int tap) { return tap % 3 - 1; }

// The edge that a tap does not read, or -1.
int row_edge(int row) { return row > 0 ? TOP : row < 0 ? BOTTOM : -1; }
int column_edge(int column) {
  return column > 0 ? LEFT : column < 0 ? RIGHT : -1;
}
int corner_of(int row_edge, int column_edge) {
  return 2 * (column_edge == RIGHT) + (row_edge == BOTTOM);
}

}  // namespace

void share_one_row(double* sums) {
  for (int i = 0; i < EDGE; i++)
    sums[EDGES + EDGE * BOTTOM + i] = sums[EDGES + EDGE * TOP + i];
  for (int side = LEFT; side <= RIGHT; side++)
    for (int i = 0; i < 2; i++)
      sums[CORNERS + 2 * corner_of(BOTTOM, side) + i] =
          sums[CORNERS + 2 * corner_of(TOP, side) + i];
}

WindowMoments window_moments(const double* sums, double count) {
  WindowMoments found;
  double mean[TAPS];
  for (int t = 0; t < TAPS; t++) {
    int above = row_edge(row_of(t)), beside = column_edge(column_of(t));
    double sum = sums[SUM];
    if (above >= 0) sum -= sums[EDGES + EDGE * above];
    if (beside >= 0) sum -= sums[EDGES + EDGE * beside];
    if (above >= 0 && beside >= 0)
      sum += sums[CORNERS + 2 * corner_of(above, beside)];
    mean[t] = sum / count;
    found.mean[t] = float(mean[t]);
  }
  for (int t = 0; t < TAPS; t++)
    for (int u = t; u < TAPS; u++) {
      int down = row_of(u) - row_of(t), along = column_of(u) - column_of(t);
      double sum = sums[LAGS + (down == 0   ? along
                                : down == 1 ? 5 + along
                                            : 10 + along)];
      int above = down == 0 ? row_edge(row_of(t)) : -1;
      int beside = along == 0 ? column_edge(column_of(t)) : -1;
      if (above >= 0) sum -= sums[EDGES + EDGE * above + 1 + std::abs(along)];
      if (beside >= 0) sum -= sums[EDGES + EDGE * beside + 1 + down];
      if (above >= 0 && beside >= 0)
        sum += sums[CORNERS + 2 * corner_of(above, beside) + 1];
      found.covariance[t][u] = found.covariance[u][t] =
          float(sum / count - mean[t] * mean[u]);
    }
  return found;
}

WindowGradient window_gradient(const float* dmean,
                               const float (*dcovariance)[TAPS],
                               const WindowMoments& moments, double count) {
  WindowGradient found = {};
  const float part = float(1 / count);
  for (int t = 0; t < TAPS; t++) {
    int above = row_edge(row_of(t)), beside = column_edge(column_of(t));
    float bias = dmean[t];
    for (int u = 0; u < TAPS; u++)
      bias -= 2 * dcovariance[t][u] * moments.mean[u];
    bias *= part;
    found.bias += bias;
    if (above >= 0) found.edge_bias[above] -= bias;
    if (beside >= 0) found.edge_bias[beside] -= bias;
    if (above >= 0 && beside >= 0)
      found.corner_bias[corner_of(above, beside)] += bias;
    for (int u = 0; u < TAPS; u++) {
      int down = row_of(u) - row_of(t), along = column_of(u) - column_of(t);
      float factor = 2 * part * dcovariance[t][u];
      found.lags[(down + 2) * 5 + along + 2] += factor;
      if (above >= 0 && down == 0) found.edge[above][along + 2] -= factor;
      if (beside >= 0 && along == 0) found.edge[beside][down + 2] -= factor;
      if (above >= 0 && beside >= 0 && t == u)
        found.corner[corner_of(above, beside)] += factor;
    }
  }
  return found;
}

void join_one_row(WindowGradient& gradient) {
  gradient.edge_bias[TOP] += gradient.edge_bias[BOTTOM];
  for (int i = 0; i < 5; i++)
    gradient.edge[TOP][i] += gradient.edge[BOTTOM][i];
  for (int side = LEFT; side <= RIGHT; side++) {
    const int top = corner_of(TOP, side), bottom = corner_of(BOTTOM, side);
    gradient.corner[top] += gradient.corner[bottom];
    gradient.corner_bias[top] += gradient.corner_bias[bottom];
  }
}

}  // namespace gns
