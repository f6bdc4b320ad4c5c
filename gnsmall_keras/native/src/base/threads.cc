#include "base/threads.h"

#include <unistd.h>

#include <algorithm>

#include "base/denormals.h"

namespace gns {
namespace {

constexpr int SPINS = 20000;  // some tens of microseconds

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Threads::Threads(int count) : count_(std::max(1, count)) { start(); }

Threads::~Threads() {
  if (process_ != getpid()) {  // of another process: nothing to join
    for (auto& worker : workers_) worker.detach();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    round_++;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Threads::start() {
  process_ = getpid();
  unsigned seen = round_;
  for (int i = 1; i < count_; i++)
    workers_.emplace_back([this, seen] { work(seen); });
}

void Threads::work(unsigned seen) {
  FlushedDenormals flushed;
  for (;;) {
    for (int i = 0; i < SPINS && round_ == seen; i++) pause_briefly();
    if (round_ == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return round_ != seen; });
    }
    seen = round_;
    if (stop_) return;
    take_tasks();
    busy_--;
  }
}

void Threads::take_tasks() {
  for (int i; (i = next_++) < tasks_;) (*task_)(i);
}

void Threads::run(int count, const std::function<void(int)>& task) {
  if (count_ == 1 || count == 1) {
    for (int i = 0; i < count; i++) task(i);
    return;
  }
  if (process_ != getpid()) {  // after a fork
    for (auto& worker : workers_) worker.detach();
    workers_.clear();
    start();
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    tasks_ = count;
    next_ = 0;
    busy_ = count_ - 1;
    round_++;
  }
  wake_.notify_all();
  take_tasks();
  for (int i = 0; busy_; i++) {
    if (i < SPINS)
      pause_briefly();
    else
      std::this_thread::yield();
  }
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
