// One batch on its way through the network, and what a layer is.
#pragma once
#include <memory>
#include <vector>

#include "base/layout.h"
#include "base/memory.h"
#include "base/threads.h"

namespace gns {

// A map that a layer writes; `gradient_of` has its gradient (mostly itself).
struct Tensor {
  int height, width, channels;
  int gradient_of;
  std::size_t pixel() const {
    return std::size_t(channels) * IMAGES + PADDING;
  }
};

// Channels `first` to `first + channels` of a tensor.
struct Part {
  int tensor, first, channels;
};

// The values of one channel for all images of a block.
struct Line {
  Vector at[VECTORS];
};

// What a layer keeps from forward to backward.
struct State {
  virtual ~State() = default;
};

class Context {
 public:
  Context(const std::vector<Tensor>& tensors, int layers, Threads& threads,
          Pool& pool, const float* zeros, int images);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  View values(const Part& part);
  View gradients(const Part& part);
  // Whether the tensor's gradient has values to add to. From now on it has.
  bool has_gradient(const Part& part);
  void drop_values(int tensor) { pool.give_back(values_[tensor]); }
  void drop_gradients(int tensor) { pool.give_back(gradients_[tensor]); }

  // 1 for each image of the block, 0 where the batch has no more.
  const Vector* valid(int block) const {
    return valid_[block == work.blocks() - 1].at;
  }
  double pixels(const Part& part) const {
    return double(images) * tensors_[part.tensor].height *
           tensors_[part.tensor].width;
  }

  const int images;
  const Work work;
  Pool& pool;
  const float* const zeros;  // one pixel outside of an image
  bool training = false;
  const float* parameters = nullptr;
  float* statistics = nullptr;  // of the batch, or moving ones to read
  float* gradient = nullptr;    // of the parameters
  std::vector<std::unique_ptr<State>> states;
  std::vector<float> copied_parameters;

 private:
  View view(std::vector<Buffer>& buffers, const Part& part, int tensor);

  const std::vector<Tensor>& tensors_;
  Line valid_[2];
  std::vector<Buffer> values_, gradients_;
  std::vector<bool> begun_;
};

// Layers know their place, their maps and where their weights are; all that
// belongs to one batch is in the context.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual void forward(Context& context) const = 0;
  virtual void backward(Context& context) const = 0;
  int place = 0;

 protected:
  template <class S>
  S& new_state(Context& context) const {
    context.states[place] = std::make_unique<S>();
    return static_cast<S&>(*context.states[place]);
  }
  template <class S>
  S& state(Context& context) const {
    return static_cast<S&>(*context.states[place]);
  }
};

// Where the weights of a BatchNorm are: each `count` floats.
struct Norm {
  std::size_t gamma, beta;     // in the parameters
  std::size_t mean, variance;  // in the statistics
};

// Hands out places in the flat vectors, in the order of plan.py.
struct Places {
  std::size_t parameters = 0, statistics = 0;
  std::size_t parameter(std::size_t count) {
    return (parameters += count) - count;
  }
  Norm norm(std::size_t count) {
    Norm norm;
    norm.gamma = parameter(count);
    norm.beta = parameter(count);
    norm.mean = (statistics += count) - count;
    norm.variance = (statistics += count) - count;
    return norm;
  }
};

// Mean and variance of one channel before its BatchNorm: those given, which
// are then noted for the moving ones (unbiased), or in inference the moving.
struct Moments {
  float mean, inverse;  // inverse = 1 / sqrt(variance + epsilon)
};
Moments batch_moments(Context& context, const Norm& norm, int channel,
                      double mean, double variance, double count);
Moments moving_moments(const Context& context, const Norm& norm, int channel);

// Partial sums, by slot, of `count` floats or vectors, added in order.
class PartialSums {
 public:
  PartialSums(Context& context, int slots, std::size_t count, bool vectors);
  float* slot(int slot) const { return scratch_.data() + slot * stride_; }
  double total(std::size_t index) const;
  void totals(std::size_t first, std::size_t count, double* to) const;
  void write(Context& context, float* to) const;  // all totals

 private:
  std::size_t count_, width_, stride_;
  int slots_;
  Scratch scratch_;
};

}  // namespace gns
