#include "network.h"

#include <algorithm>
#include <new>
#include <stdexcept>

#include "layers/depthwise.h"
#include "layers/ghost.h"
#include "layers/simple.h"
#include "layers/stem.h"

namespace gns {
namespace {

constexpr int BLOCKS_AT_ONCE = 8;  // of images, in inference, at most
constexpr int BRANCHES = 3;        // of strided depthwise convolutions

void check(bool holds, const char* rule) {
  if (!holds) throw std::invalid_argument(rule);
}

}  // namespace

int Network::tensor(int height, int width, int channels) {
  int number = int(tensors_.size());
  tensors_.push_back({height, width, channels, number});
  return number;
}

// The gradient of x, and of all that share it, is that of y.
void Network::share_gradient(int x, int y) {
  for (auto& tensor : tensors_)
    if (tensor.gradient_of == x) tensor.gradient_of = y;
}

Part Network::all(int tensor) const {
  return {tensor, 0, tensors_[tensor].channels};
}

template <class L, class... Arguments>
void Network::append(std::vector<int> reads, int writes,
                     Arguments... arguments) {
  auto layer = std::make_unique<L>(arguments...);
  if constexpr (std::is_same_v<L, Ghost>) {
    layer->set_places(states_);
    states_++;
  }
  layer->place = states_++;
  layers_.push_back(std::move(layer));
  reads_.push_back(std::move(reads));
  writes_.push_back(writes);
}

Network::Network(const Plan& plan, int threads)
    : plan_(plan), threads_(threads) {
  check(plan.height > 0 && plan.width > 0 && plan.channels > 0 &&
            plan.classes > 0 && plan.stem > 0 && plan.last > 0 &&
            plan.head_units > 0,
        "sizes must be positive");
  input_ = tensor(plan.height, plan.width, plan.channels);
  stem_values_ = tensor(plan.height, plan.width, plan.stem);
  int x = tensor(plan.height, plan.width, plan.stem);
  append<Stem>({input_}, x, std::ref(places_), all(input_), all(stem_values_),
               all(x));
  for (const auto& block : plan.blocks) x = this->block(x, block);
  const Tensor map = tensors_[x];
  int y = tensor(map.height, map.width, plan.last);
  append<Pointwise>({x}, y, std::ref(places_), all(x), all(y), 1, false, true);
  x = tensor(1, 1, plan.last);
  append<Mean>({y}, x, all(y), all(x));
  y = tensor(1, 1, plan.head_units);
  append<Dense>({x}, y, std::ref(places_), all(x), all(y), true);
  logits_ = tensor(1, 1, plan.classes);
  append<Dense>({y}, logits_, std::ref(places_), all(y), all(logits_), false);
  find_lifetimes();
  std::size_t most = 0;
  for (const auto& tensor : tensors_) most = std::max(most, tensor.pixel());
  zeros_.assign(most + IMAGES, 0.f);
  watch(this);
}

Network::~Network() { unwatch(this); }

// A call of another thread is not in the child: its context is never used.
void Network::renew() {
  new (&mutex_) std::mutex;
  threads_.forget();
  pool_.renew();
}

int Network::ghost(int x, int channels, bool relu) {
  check(channels % 2 == 0, "a ghost module has an even number of channels");
  int y = tensor(tensors_[x].height, tensors_[x].width, channels);
  append<Ghost>({x}, y, std::ref(places_), all(x), all(y), relu);
  return y;
}

// y times the attention that x gives, found at half the resolution.
int Network::gate(int x, int y) {
  const Tensor map = tensors_[x];
  int height = map.height, width = map.width, channels = tensors_[y].channels;
  if (std::min(height, width) > 1) {
    check(height % 2 == 0 && width % 2 == 0, "a gate needs even sides");
    height /= 2;
    width /= 2;
    int half = tensor(height, width, map.channels);
    append<Halve>({x}, half, all(x), all(half));
    x = half;
  }
  int mixed = tensor(height, width, channels);
  append<Pointwise>({x}, mixed, std::ref(places_), all(x), all(mixed), 1,
                    false, false);
  int row = tensor(height, width, channels);
  append<Depthwise>({mixed}, row, std::ref(places_), all(mixed), all(row), 1,
                    5, 1, 1, false);
  int column = tensor(height, width, channels);
  append<Depthwise>({row}, column, std::ref(places_), all(row), all(column), 5,
                    1, 1, 1, false);
  int out = tensor(map.height, map.width, channels);
  share_gradient(y, out);
  append<Gate>({y, column}, out, all(y), all(column), all(out), false);
  return out;
}

int Network::depthwise(int x, int kernel, int stride, int branches,
                       bool scale) {
  const Tensor map = tensors_[x];
  int y = tensor((map.height - 1) / stride + 1, (map.width - 1) / stride + 1,
                 map.channels);
  append<Depthwise>({x}, y, std::ref(places_), all(x), all(y), kernel, kernel,
                    stride, branches, scale);
  return y;
}

int Network::squeeze_excite(int x, int squeeze) {
  const Tensor map = tensors_[x];
  int mean = tensor(1, 1, map.channels), reduced = tensor(1, 1, squeeze);
  int expanded = tensor(1, 1, map.channels);
  append<Mean>({x}, mean, all(x), all(mean));
  append<Dense>({mean}, reduced, std::ref(places_), all(mean), all(reduced),
                true);
  append<Dense>({reduced}, expanded, std::ref(places_), all(reduced),
                all(expanded), false);
  int y = tensor(map.height, map.width, map.channels);
  share_gradient(x, y);
  append<Gate>({x, expanded}, y, all(x), all(expanded), all(y), true);
  return y;
}

int Network::block(int x, const Plan::Block& plan) {
  check(plan.hidden > 0 && plan.out > 0 && plan.squeeze >= 0 &&
            (plan.stride == 1 || plan.stride == 2),
        "a block has positive sizes and a stride of 1 or 2");
  int y = ghost(x, plan.hidden, true);
  if (plan.gate) y = gate(x, y);
  if (plan.stride == 2) y = depthwise(y, plan.kernel, 2, BRANCHES, true);
  if (plan.squeeze) y = squeeze_excite(y, plan.squeeze);
  y = ghost(y, plan.out, false);
  // The shortcut comes last, so that backward it is first: the ghost module
  // overwrites the gradient that they share.
  int shortcut = x;
  if (plan.stride != 1 || tensors_[x].channels != plan.out) {
    int z = depthwise(x, plan.kernel, plan.stride, 1, false);
    shortcut = tensor(tensors_[z].height, tensors_[z].width, plan.out);
    append<Pointwise>({z}, shortcut, std::ref(places_), all(z), all(shortcut),
                      1, false, false);
  }
  int sum = tensor(tensors_[y].height, tensors_[y].width, plan.out);
  share_gradient(y, sum);
  if (shortcut != x) share_gradient(shortcut, sum);
  append<Add>({y, shortcut}, sum, all(y), all(shortcut), all(sum),
              shortcut == x);
  return sum;
}

void Network::find_lifetimes() {
  const int layers = int(layers_.size()), tensors = int(tensors_.size());
  std::vector<int> last_read(tensors, 0), first_write(tensors, layers);
  for (int i = 0; i < layers; i++) {
    for (int read : reads_[i]) last_read[read] = i;
    int root = tensors_[writes_[i]].gradient_of;
    first_write[root] = std::min(first_write[root], i);
  }
  last_read[logits_] = layers;
  done_inferring_.resize(layers + 1);
  done_values_.resize(layers);
  done_gradients_.resize(layers + 1);
  for (int t = 0; t < tensors; t++) {
    done_inferring_[last_read[t]].push_back(t);
    done_gradients_[first_write[t]].push_back(t);
  }
  for (int i = 0; i < layers; i++) done_values_[i].push_back(writes_[i]);
}

std::unique_ptr<Context> Network::make_context(int count) {
  std::size_t line = (16 - reinterpret_cast<std::uintptr_t>(zeros_.data()) /
                               sizeof(float) % 16) % 16;
  return std::make_unique<Context>(tensors_, states_, threads_, pool_,
                                   zeros_.data() + line, count);
}

// Images into the layout of layout.h, some pixels at a time.
void Network::pack(Context& context, const float* images) {
  View to = context.values(all(input_));
  const int channels = plan_.channels, count = context.images;
  const std::size_t image = std::size_t(to.pixels()) * channels;
  context.work.strips(to.height, [&](Strip strip) {
    for (int p = strip.top * to.width; p < strip.bottom * to.width; p++)
      for (int n = 0; n < IMAGES; n++) {
        const int number = strip.block * IMAGES + n;
        float* pixel = to.at(strip.block * to.pixels() + p) + n;
        for (int c = 0; c < channels; c++)
          pixel[c * IMAGES] =
              number < count ? images[number * image + p * channels + c] : 0.f;
      }
  });
}

void Network::run(Context& context, const float* images, float* logits) {
  pack(context, images);
  for (std::size_t i = 0; i < layers_.size(); i++) {
    layers_[i]->forward(context);
    if (context.training) continue;
    for (int tensor : done_inferring_[i]) context.drop_values(tensor);
  }
  View from = context.values(all(logits_));
  for (int n = 0; n < context.images; n++)
    for (int k = 0; k < plan_.classes; k++)
      logits[n * plan_.classes + k] =
          from.at(n / IMAGES)[k * IMAGES + n % IMAGES];
}

std::unique_ptr<Context> Network::forward(const float* parameters,
                                          const float* images, int count,
                                          float* logits, float* statistics) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto context = make_context(count);
  context->training = true;
  context->copied_parameters.assign(parameters,
                                    parameters + places_.parameters);
  context->parameters = context->copied_parameters.data();
  context->statistics = statistics;
  run(*context, images, logits);
  return context;
}

void Network::backward(Context& context, const float* dlogits,
                       float* gradient) {
  std::lock_guard<std::mutex> lock(mutex_);
  context.gradient = gradient;
  context.has_gradient(all(logits_));
  View to = context.gradients(all(logits_));
  for (int n = 0; n < context.work.blocks() * IMAGES; n++)
    for (int k = 0; k < plan_.classes; k++)
      to.at(n / IMAGES)[k * IMAGES + n % IMAGES] =
          n < context.images ? dlogits[n * plan_.classes + k] : 0.f;
  for (int i = int(layers_.size()) - 1; i >= 0; i--) {
    layers_[i]->backward(context);
    for (int tensor : done_values_[i]) context.drop_values(tensor);
    for (int tensor : done_gradients_[i]) context.drop_gradients(tensor);
  }
}

void Network::orthogonalize(const std::vector<Matrix>& matrices,
                            const Iteration& iteration) {
  std::lock_guard<std::mutex> lock(mutex_);
  gns::orthogonalize(matrices, iteration, threads_, pool_);
}

void Network::infer(const float* parameters, const float* statistics,
                    const float* images, int count, float* logits) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t image =
      std::size_t(plan_.height) * plan_.width * plan_.channels;
  // One block for each thread: more would not fit its cache from layer to
  // layer. An image's logits do not depend on the others.
  const int step = std::min(threads_.count(), BLOCKS_AT_ONCE) * IMAGES;
  for (int first = 0; first < count; first += step) {
    auto context = make_context(std::min(count - first, step));
    context->parameters = parameters;
    context->statistics = const_cast<float*>(statistics);  // only read
    run(*context, images + first * image,
        logits + std::size_t(first) * plan_.classes);
  }
}

}  // namespace gns
