// What Python calls, by ctypes. Sizes are checked there.
#include <cstdio>
#include <exception>

#include "network.h"

using gns::Context;
using gns::Network;

namespace {

// Of the last call on this thread that failed.
thread_local char message[256];

template <class Do>
auto guarded(Do what) noexcept -> decltype(what()) {
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

// numbers: see Plan. nullptr: gns_error() says why.
Network* gns_create(const int* numbers, int blocks, int threads) {
  return guarded([&] {
    gns::Plan plan = {numbers[0], numbers[1], numbers[2], numbers[3],
                      numbers[4], numbers[5], numbers[6], {}};
    for (int i = 0; i < blocks; i++) {
      const int* b = numbers + 7 + 6 * i;
      plan.blocks.push_back({b[0], b[1], b[2], b[3], b[4], b[5]});
    }
    return new Network(plan, threads);
  });
}

void gns_destroy(Network* network) { delete network; }

long gns_parameters(const Network* network) {
  return long(network->parameter_count());
}

long gns_statistics(const Network* network) {
  return long(network->statistics_count());
}

Context* gns_forward(Network* network, const float* parameters,
                     const float* images, int count, float* logits,
                     float* statistics) {
  return guarded([&] {
    return network->forward(parameters, images, count, logits, statistics)
        .release();
  });
}

// 1, or 0 if it failed. The context is used up, but still to be freed.
int gns_backward(Network* network, Context* context, const float* dlogits,
                 float* gradient) {
  return guarded([&] {
    network->backward(*context, dlogits, gradient);
    return 1;
  });
}

void gns_free_context(Context* context) { delete context; }

int gns_infer(Network* network, const float* parameters,
              const float* statistics, const float* images, int count,
              float* logits) {
  return guarded([&] {
    network->infer(parameters, statistics, images, count, logits);
    return 1;
  });
}

}  // extern "C"
