// What Python calls, by ctypes. Sizes are checked there.
#include <cstdio>
#include <exception>
#include <memory>

#include "base/denormals.h"
#include "network.h"

using gns::Context;
using gns::Network;

// What Python holds. Python's garbage collector may drop a network before its
// contexts, whose buffers go back to the network's pool: each context keeps the
// network alive.
using Owner = std::shared_ptr<Network>;
struct Pass {
  Owner network;
  std::unique_ptr<Context> context;  // destroyed before the network
};

namespace {

// Of the last call on this thread that failed.
thread_local char message[256];

template <class Do>
auto guarded(Do what) noexcept -> decltype(what()) {
  gns::FlushedDenormals flushed;
  try {
    return what();
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
    return {};
  }
}

}  // namespace

extern "C" {

const char* gns_error() { return message; }

int gns_images_of_a_block() { return gns::IMAGES; }

// For NumPy's part of a step on this thread; returns what was set before.
int gns_flush_denormals(int on) { return gns::flush_denormals(on); }

// numbers: see Plan. nullptr: gns_error() says why.
Owner* gns_create(const int* numbers, int blocks, int threads) {
  return guarded([&] {
    gns::Plan plan = {numbers[0], numbers[1], numbers[2], numbers[3],
                      numbers[4], numbers[5], numbers[6], {}};
    for (int i = 0; i < blocks; i++) {
      const int* b = numbers + 7 + 6 * i;
      plan.blocks.push_back({b[0], b[1], b[2], b[3], b[4], b[5]});
    }
    return new Owner(std::make_shared<Network>(plan, threads));
  });
}

void gns_destroy(Owner* network) { delete network; }

long gns_parameters(const Owner* network) {
  return long((*network)->parameter_count());
}

long gns_statistics(const Owner* network) {
  return long((*network)->statistics_count());
}

Pass* gns_forward(Owner* network, const float* parameters,
                  const float* images, int count, float* logits,
                  float* statistics) {
  return guarded([&] {
    auto context =
        (*network)->forward(parameters, images, count, logits, statistics);
    return new Pass{*network, std::move(context)};
  });
}

// 1, or 0 if it failed. The context is used up, but still to be freed.
int gns_backward(Owner* network, Pass* pass, const float* dlogits,
                 float* gradient) {
  return guarded([&] {
    (*network)->backward(*pass->context, dlogits, gradient);
    return 1;
  });
}

void gns_free_context(Pass* pass) { delete pass; }

int gns_infer(Owner* network, const float* parameters,
              const float* statistics, const float* images, int count,
              float* logits) {
  return guarded([&] {
    (*network)->infer(parameters, statistics, images, count, logits);
    return 1;
  });
}

// shapes: (rows, columns) of each matrix; values: all, one after another.
int gns_orthogonalize(Owner* network, float* values, const int* shapes,
                      int count, float a, float b, float c, int steps) {
  return guarded([&] {
    std::vector<gns::Matrix> matrices;
    for (int i = 0; i < count; i++) {
      matrices.push_back({values, shapes[2 * i], shapes[2 * i + 1]});
      values += std::size_t(shapes[2 * i]) * shapes[2 * i + 1];
    }
    (*network)->orthogonalize(matrices, {a, b, c, steps});
    return 1;
  });
}

}  // extern "C"
