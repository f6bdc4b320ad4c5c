// Mean and second moments of the nine values under a 3 x 3 window that stands
// on every pixel, zeros outside of the image; and the gradient through them.
//
// They follow from sums over the image of x[p] and of x[p] x[p + lag], less
// what windows do not read at the border. The tap (r, c) of a window reads all
// pixels but those of the first row (r = 1) or the last (r = -1), likewise for
// columns; two taps leave out a product only where they leave out the same
// row or column, and then the lag lies along it. So the sums, of a channel:
#pragma once

namespace gns {

enum {
  SUM = 0,              // of all x[p]
  LAGS = SUM + 1,       // 13: (0, 0..2), (1, -2..2), (2, -2..2)
  EDGES = LAGS + 13,    // of the first and last row and column, four times:
  EDGE = 4,             //   the sum, and products at lags 0, 1, 2 along it
  CORNERS = EDGES + 4 * EDGE,  // of the four corners: x, x * x
  WINDOW_SUMS = CORNERS + 8
};
enum { TOP, BOTTOM, LEFT, RIGHT };  // edges; corner = 2 * right + bottom

constexpr int TAPS = 9;

// Of one channel.
struct WindowMoments {
  float mean[TAPS], covariance[TAPS][TAPS];
};
// Where the first row is the last as well, its sums as TOP are also BOTTOM's.
void share_one_row(double* sums);
WindowMoments window_moments(const double* sums, double count);

// dx[p] = bias + sum over 5 x 5 lags of lags[.] x[p + lag], and on an edge or
// corner also what stands there: biases, and 5 lags along the edge.
struct WindowGradient {
  float lags[25], bias;
  float edge[4][5], edge_bias[4];
  float corner[4], corner_bias[4];
};
// From the gradients of the mean and of the covariance (symmetric).
WindowGradient window_gradient(const float* dmean,
                               const float (*dcovariance)[TAPS],
                               const WindowMoments& moments, double count);
// Where the first row is the last as well, TOP stands for both.
void join_one_row(WindowGradient& gradient);

}  // namespace gns
