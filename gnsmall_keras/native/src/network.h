// The whole network of models/ghostnet.py, built from a plan.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "base/context.h"
#include "base/forks.h"
#include "orthogonal.h"

namespace gns {

// Numbers of the plan, in the order of plan.py: first these, then for each
// block (kernel, hidden, out, squeeze, stride, gate).
struct Plan {
  struct Block {
    int kernel, hidden, out, squeeze, stride, gate;
  };
  int height, width, channels, classes, stem, last, head_units;
  std::vector<Block> blocks;
};

class Network final : public Forked {
 public:
  Network(const Plan& plan, int threads);
  ~Network();
  void renew() override;

  std::size_t parameter_count() const { return places_.parameters; }
  std::size_t statistics_count() const { return places_.statistics; }

  // images: (count, height, width, channels); logits: (count, classes).
  std::unique_ptr<Context> forward(const float* parameters,
                                   const float* images, int count,
                                   float* logits, float* statistics);
  void backward(Context& context, const float* dlogits, float* gradient);
  void infer(const float* parameters, const float* statistics,
             const float* images, int count, float* logits);
  // By this network's threads; matrices need not be its own.
  void orthogonalize(const std::vector<Matrix>& matrices,
                     const Iteration& iteration);

 private:
  int tensor(int height, int width, int channels);
  Part all(int tensor) const;
  void share_gradient(int x, int y);
  template <class L, class... Arguments>
  void append(std::vector<int> reads, int writes, Arguments... arguments);
  int ghost(int x, int channels, bool relu);
  int gate(int x, int y);
  int depthwise(int x, int kernel, int stride, int branches, bool scale);
  int squeeze_excite(int x, int squeeze);
  int block(int x, const Plan::Block& plan);
  void find_lifetimes();
  std::unique_ptr<Context> make_context(int count);
  void run(Context& context, const float* images, float* logits);
  void pack(Context& context, const float* images);

  const Plan plan_;
  std::mutex mutex_;  // one call at a time
  Threads threads_;
  Pool pool_;
  std::vector<float> zeros_;
  Places places_;
  std::vector<Tensor> tensors_;
  std::vector<std::unique_ptr<Layer>> layers_;
  int states_ = 0;
  std::vector<std::vector<int>> reads_;  // tensors by layer
  std::vector<int> writes_;
  // Tensors that nobody needs any more after a layer: their values after
  // `forward` of an inference, values and gradients after `backward`.
  std::vector<std::vector<int>> done_inferring_, done_values_, done_gradients_;
  int input_, stem_values_, logits_;
};

}  // namespace gns
