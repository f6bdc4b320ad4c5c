#include "orthogonal.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/products.h"

namespace gns {
namespace {

// Of a matrix from here on each product is cut for the threads; smaller ones
// are a task each.
constexpr double LARGE = 1 << 21;
constexpr int PANELS_OF_A_SUM = 8, SUMS = 8, ROWS_OF_A_TASK = 48;

// A matrix x (rows, columns) with rows <= columns, as panels (rows, IMAGES) of
// its columns, the last one filled up with zeros: to the products they look
// like pixels.
struct Size {
  int rows, columns;
  int panels() const { return (columns + IMAGES - 1) / IMAGES; }
  std::size_t panel() const { return std::size_t(rows) * IMAGES + PADDING; }
  std::size_t all() const { return panels() * panel(); }
  std::size_t square() const { return std::size_t(rows) * rows; }
  int sums() const {
    return std::min(SUMS, std::max(1, panels() / PANELS_OF_A_SUM));
  }
  double work() const { return double(square()) * columns; }
};

Size lying(const Matrix& m) {
  return {std::min(m.rows, m.columns), std::max(m.rows, m.columns)};
}

// Copies from memory's order to panels, or back.
void copy_panels(const Matrix& m, const Size& size, float* panels, bool back) {
  for (int i = 0; i < m.rows; i++)
    for (int j = 0; j < m.columns; j++) {
      float& value = m.values[std::size_t(i) * m.columns + j];
      int row = m.rows > m.columns ? j : i, column = i + j - row;
      float& place = panels[column / IMAGES * size.panel() +
                            std::size_t(row) * IMAGES + column % IMAGES];
      if (back)
        value = place;
      else
        place = value;
    }
}

class Orthogonal {
 public:
  Orthogonal(const Size& size, Threads& threads, Pool& pool)
      : size_(size),
        square_{size.rows, size.rows},
        threads_(threads),
        x_(pool, size.all()),
        y_(pool, size.all()),
        partial_(pool, size.sums() * size.square()),
        gram_(pool, size.square()),
        factor_(pool, size.square()),
        panels_(pool, square_.all()),
        squared_(pool, square_.all()) {
    x_.clear(size.all());
    panels_.clear(square_.all());
  }

  void compute(const Matrix& m, const Iteration& iteration) {
    float *x = x_.data(), *y = y_.data();
    copy_panels(m, size_, x, false);
    normalize(x);
    for (int i = 0; i < iteration.steps; i++, std::swap(x, y)) {
      multiply_by_itself(x);
      square_gram(iteration);
      apply(factor_.data(), size_, x, y);
    }
    copy_panels(m, size_, x, true);
  }

 private:
  void normalize(float* x) const {
    double total = 0;
    for (int p = 0; p < size_.panels(); p++) {
      Vector sum = Vector{};
      const float* from = x + p * size_.panel();
      for (int i = 0; i < size_.rows * VECTORS; i++, from += LANES)
        sum += load(from) * load(from);
      total += sum_of(sum);
    }
    Vector scale = splat(1.f / (std::sqrt(float(total)) + 1e-7f));
    for (int p = 0; p < size_.panels(); p++) {
      float* to = x + p * size_.panel();
      for (int i = 0; i < size_.rows * VECTORS; i++, to += LANES)
        store(to, load(to) * scale);
    }
  }

  // x x', in memory's order and as panels.
  void multiply_by_itself(const float* x) {
    const int rows = size_.rows, sums = size_.sums();
    const std::size_t square = size_.square();
    partial_.clear(sums * square);
    threads_.run(sums, [&](int i) {
      int first = i * size_.panels() / sums;
      int end = (i + 1) * size_.panels() / sums;
      add_squares(end - first, {x + first * size_.panel(), size_.panel(), rows},
                  partial_.data() + i * square);
    });
    for (int r = 0; r < rows; r++)
      for (int c = r; c < rows; c++) {
        float total = 0;
        for (int i = 0; i < sums; i++)
          total += partial_.data()[i * square + std::size_t(r) * rows + c];
        set(r, c, total);
        set(c, r, total);
      }
  }

  void set(int row, int column, float value) {
    gram_.data()[std::size_t(row) * size_.rows + column] = value;
    panels_.data()[in_panels(row, column)] = value;
  }

  std::size_t in_panels(int row, int column) const {
    return column / IMAGES * square_.panel() + std::size_t(row) * IMAGES +
           column % IMAGES;
  }

  // factor = a + b gram + c gram^2
  void square_gram(const Iteration& iteration) {
    apply(gram_.data(), square_, panels_.data(), squared_.data());
    for (int r = 0; r < size_.rows; r++) {
      std::size_t line = std::size_t(r) * size_.rows;
      for (int c = 0; c < size_.rows; c++)
        factor_.data()[line + c] =
            iteration.b * gram_.data()[line + c] +
            iteration.c * squared_.data()[in_panels(r, c)];
      factor_.data()[line + r] += iteration.a;
    }
  }

  // y = symmetric x, for panels of that size.
  void apply(const float* symmetric, const Size& size, const float* x,
             float* y) const {
    const int rows = size.rows;
    const int chunks = (rows + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
    threads_.run(size.panels() * chunks, [&](int task) {
      int row = task % chunks * ROWS_OF_A_TASK;
      std::size_t panel = task / chunks * size.panel();
      Factor factor = {symmetric + row, rows, rows, x + panel};
      multiply(&factor, 1, std::min(ROWS_OF_A_TASK, rows - row),
               Finish{nullptr, nullptr, false, false},
               y + panel + std::size_t(row) * IMAGES);
    });
  }

  const Size size_, square_;
  Threads& threads_;
  Scratch x_, y_, partial_, gram_, factor_, panels_, squared_;
};

}  // namespace

void orthogonalize(const std::vector<Matrix>& matrices,
                   const Iteration& iteration, Threads& threads, Pool& pool) {
  std::vector<Matrix> small;
  for (const Matrix& m : matrices)
    if (lying(m).work() >= LARGE)
      Orthogonal(lying(m), threads, pool).compute(m, iteration);
    else
      small.push_back(m);
  std::stable_sort(small.begin(), small.end(),
                   [](const Matrix& a, const Matrix& b) {
                     return lying(a).work() > lying(b).work();
                   });
  Threads alone(1);
  std::vector<std::unique_ptr<Orthogonal>> tasks;
  for (const Matrix& m : small)
    tasks.push_back(std::make_unique<Orthogonal>(lying(m), alone, pool));
  threads.run(int(small.size()),
              [&](int i) { tasks[i]->compute(small[i], iteration); });
}

}  // namespace gns
