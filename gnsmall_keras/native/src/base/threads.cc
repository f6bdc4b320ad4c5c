#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/denormals.h"

namespace gns {
namespace {

constexpr int MOST = 1024;  // threads: there are no machines for more

// Of waiting by spinning, in nanoseconds: longer than most waits.
constexpr int LONGEST_SPIN = 400000, SHORTEST_SPIN = 1000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for a condition: first by spinning, then asleep. Where waits are longer
// than any spinning, others have need of the core (a second process with as many
// threads): each halves the time of spinning, and some fifty that are not double
// it. One thread alone waits long some times a step, of hundreds.
template <class Condition>
void wait_for(Condition condition, int& limit, std::mutex& mutex,
              std::condition_variable& changed) {
  using Clock = std::chrono::steady_clock;
  using Nanoseconds = std::chrono::nanoseconds;
  const auto began = Clock::now();
  bool met = false;
  while (!met && Clock::now() < began + Nanoseconds(limit))
    for (int i = 0; i < 16 && !(met = condition()); i++) pause_briefly();
  if (!met) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, condition);
  }
  if (Clock::now() < began + Nanoseconds(LONGEST_SPIN))
    limit = std::min(limit + limit / 64, LONGEST_SPIN);
  else
    limit = std::max(limit / 2, SHORTEST_SPIN);
}

}  // namespace

// The threads beside the one that calls, and what all share.
class Threads::Crew {
 public:
  explicit Crew(int count);
  ~Crew();

  bool is_empty() const { return workers_.empty(); }
  void run(int count, const std::function<void(int)>& task, int& limit);

 private:
  void work();
  void take_tasks();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> next_{0}, busy_{0};
  std::atomic<bool> stop_{false};
  int tasks_ = 0;
  const std::function<void(int)>* task_ = nullptr;
  std::exception_ptr error_;  // the first one of a round
};

// An error from here on would destroy what the first threads wait on.
Threads::Crew::Crew(int count) {
  try {
    workers_.reserve(count);
    while (int(workers_.size()) < count)
      workers_.emplace_back([this] { work(); });
  } catch (const std::exception&) {
    // No more threads, or no memory for them: those that there are do all.
  }
}

Threads::Crew::~Crew() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    round_++;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Threads::Crew::work() {
  FlushedDenormals flushed;
  int limit = LONGEST_SPIN;
  unsigned seen = 0;
  auto begun = [&] { return round_ != seen; };
  for (;;) {
    wait_for(begun, limit, mutex_, wake_);
    seen = round_;
    if (stop_) return;
    take_tasks();
    if (!--busy_) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
  }
}

void Threads::Crew::take_tasks() {
  try {
    for (int i; (i = next_++) < tasks_;) (*task_)(i);
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
    next_ = tasks_;
  }
}

void Threads::Crew::run(int count, const std::function<void(int)>& task,
                        int& limit) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    tasks_ = count;
    next_ = 0;
    busy_ = int(workers_.size());
    round_++;
  }
  wake_.notify_all();
  take_tasks();
  wait_for([&] { return !busy_; }, limit, mutex_, done_);
  // Not before all have left the task, which is the caller's.
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

Threads::Threads(int count)
    : count_(std::min(std::max(1, count), MOST)), limit_(LONGEST_SPIN) {}

Threads::~Threads() { delete crew_; }

void Threads::forget() { crew_ = nullptr; }

void Threads::run(int count, const std::function<void(int)>& task) {
  if (count_ > 1 && count > 1 && !crew_) crew_ = new Crew(count_ - 1);
  if (count_ > 1 && count > 1 && !crew_->is_empty()) {
    crew_->run(count, task, limit_);
    return;
  }
  for (int i = 0; i < count; i++) task(i);
}

int Work::slots(int height) const {
  return std::min(SLOTS, blocks_ * std::min(height, STRIPS));
}

Strip Work::strip(int height, int index) const {
  int count = std::min(height, STRIPS), i = index % count;
  return {index / count, i * height / count, (i + 1) * height / count};
}

void Work::strips(int height,
                  const std::function<void(Strip)>& do_strip) const {
  threads_.run(blocks_ * std::min(height, STRIPS),
               [&](int i) { do_strip(strip(height, i)); });
}

void Work::sums(int height,
                const std::function<void(int, Strip)>& do_strip) const {
  long count = blocks_ * std::min(height, STRIPS), slots = this->slots(height);
  threads_.run(int(slots), [&](int slot) {
    for (long i = slot * count / slots; i < (slot + 1) * count / slots; i++)
      do_strip(slot, strip(height, int(i)));
  });
}

int Work::range_slots(int pixels_of_a_block) const {
  int most = blocks_ * pixels_of_a_block / PIXELS_OF_A_RANGE;
  return std::max(1, std::min(SLOTS, most));
}

void Work::ranges(int pixels_of_a_block,
                  const std::function<void(int, int, int)>& do_range) const {
  long count = long(blocks_) * pixels_of_a_block;
  long slots = range_slots(pixels_of_a_block);
  threads_.run(int(slots), [&](int slot) {
    long first = slot * count / slots, end = (slot + 1) * count / slots;
    do_range(slot, int(first), int(end - first));
  });
}

}  // namespace gns
