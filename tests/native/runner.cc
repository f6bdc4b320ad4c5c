// Runs the cases of cases.txt without Python: under sanitizers, or on another
// processor. See reference.py, which writes them.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

extern "C" {
struct Network;
struct Context;
const char* gns_error();
int gns_images_of_a_block();
Network* gns_create(const int* numbers, int blocks, int threads);
void gns_destroy(Network*);
long gns_parameters(const Network*);
long gns_statistics(const Network*);
Context* gns_forward(Network*, const float*, const float*, int, float*, float*);
int gns_backward(Network*, Context*, const float*, float*);
void gns_free_context(Context*);
int gns_infer(Network*, const float*, const float*, const float*, int, float*);
int gns_orthogonalize(Network*, float*, const int*, int, float, float, float,
                      int);
}

typedef std::vector<float> Floats;
constexpr int PROJECTIONS = 8;
// Of float32, where a rounding error may turn a ReLU off.
constexpr double TOLERANCE = 2e-3;
constexpr int MATRICES = 5;
constexpr int SHAPES[] = {3, 5, 70, 33, 70, 33, 1, 9, 150, 170};

// Floats in [-1/2, 1/2).
static Floats numbers(std::size_t count, std::uint32_t seed, float factor = 1) {
  Floats found(count);
  for (std::size_t i = 0; i < count; i++) {
    std::uint32_t h = std::uint32_t(i) + seed * 0x9E3779B9u;
    h = (h ^ h >> 16) * 0x7FEB352Du;
    h = (h ^ h >> 15) * 0x846CA68Bu;
    h = h ^ h >> 16;
    found[i] = float((h >> 8) / 16777216. - .5) * factor;
  }
  return found;
}

struct Results {
  Floats logits, statistics, gradient, inferred, orthogonal;
};

// Two steps whose contexts live together, then an inference.
static bool run(const std::vector<int>& sizes, int threads, Results& results) {
  const int batch = sizes[0], blocks = sizes[1], *plan = &sizes[2];
  const std::size_t image = std::size_t(plan[0]) * plan[1] * plan[2];
  Network* network = gns_create(plan, blocks, threads);
  if (!network) return false;
  Floats parameters = numbers(gns_parameters(network), 1);
  Floats images = numbers(batch * image, 2, 4.f);
  Floats dlogits = numbers(std::size_t(batch) * plan[3], 3);
  for (float& d : dlogits) d /= float(batch);
  Floats moving = numbers(gns_statistics(network), 4);
  for (float& m : moving) m = std::fabs(m) + .5f;
  results.logits.resize(dlogits.size());
  results.inferred.resize(dlogits.size());
  results.statistics.resize(moving.size());
  results.gradient.resize(parameters.size());
  Floats again(parameters.size());
  std::size_t values = 0;
  for (int i = 0; i < MATRICES; i++) values += SHAPES[2 * i] * SHAPES[2 * i + 1];
  results.orthogonal = numbers(values, 5);
  Context* contexts[2];
  for (Context*& context : contexts)
    context = gns_forward(network, parameters.data(), images.data(), batch,
                          results.logits.data(), results.statistics.data());
  bool done = contexts[0] && contexts[1] &&
              gns_backward(network, contexts[1], dlogits.data(),
                           again.data()) &&
              gns_backward(network, contexts[0], dlogits.data(),
                           results.gradient.data()) &&
              gns_infer(network, parameters.data(), moving.data(),
                        images.data(), batch, results.inferred.data()) &&
              gns_orthogonalize(network, results.orthogonal.data(), SHAPES,
                                MATRICES, 3.4445f, -4.775f, 2.0315f, 5);
  for (Context* context : contexts) gns_free_context(context);
  gns_destroy(network);
  return done && again == results.gradient;
}

static bool agrees(const char* name, const Floats& found, std::istream& line) {
  double length = 0, worst = 0, wanted[PROJECTIONS];
  for (double& value : wanted) line >> value;
  line >> length;
  for (int i = 0; i < PROJECTIONS; i++) {
    Floats direction = numbers(found.size(), 100 + i);
    double product = 0;
    for (std::size_t n = 0; n < found.size(); n++)
      product += double(found[n]) * direction[n];
    worst = std::fmax(worst, std::fabs(product - wanted[i]) / length);
  }
  std::printf("  %-10s differs by %.1e\n", name, worst);
  return bool(line) && worst < TOLERANCE;
}

int main(int count, char** arguments) {
  std::ifstream file(count > 1 ? arguments[1] : "tests/native/cases.txt");
  std::string line;
  int failed = 0, cases = 0;
  std::printf("%d images in a block\n", gns_images_of_a_block());
  while (std::getline(file, line)) {
    std::istringstream first(line);
    std::vector<int> sizes;
    for (int size; first >> size;) sizes.push_back(size);
    Results one, three;
    if (!run(sizes, 1, one) || !run(sizes, 3, three)) {
      std::printf("case %d failed: %s\n", cases, gns_error());
      return 1;
    }
    std::printf("case %d, a batch of %d\n", cases++, sizes[0]);
    const char* names[] = {"logits", "statistics", "gradient", "inference",
                           "orthogonal"};
    const Floats* found[] = {&one.logits, &one.statistics, &one.gradient,
                             &one.inferred, &one.orthogonal};
    for (int i = 0; i < 5 && std::getline(file, line); i++) {
      std::istringstream wanted(line);
      failed += !agrees(names[i], *found[i], wanted);
    }
    if (one.logits != three.logits || one.statistics != three.statistics ||
        one.gradient != three.gradient || one.inferred != three.inferred ||
        one.orthogonal != three.orthogonal) {
      std::printf("  three threads give other results than one\n");
      failed++;
    }
  }
  if (!cases || failed) std::printf("FAILED\n");
  return !cases || failed;
}
