// Muon's step: matrices with their singular values made nearly one.
#pragma once
#include <vector>

#include "base/memory.h"
#include "base/threads.h"

namespace gns {

// Newton and Schulz's iteration x = (a + b x x' + c (x x')^2) x.
struct Iteration {
  float a, b, c;
  int steps;
};

// A matrix (rows, columns) in memory's order.
struct Matrix {
  float* values;
  int rows, columns;
};

// Divides each matrix by its norm and iterates, in place. Results do not depend
// on the number of threads.
void orthogonalize(const std::vector<Matrix>& matrices,
                   const Iteration& iteration, Threads& threads, Pool& pool);

}  // namespace gns
