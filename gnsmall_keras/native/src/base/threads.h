// Threads, and the fixed way in which work is cut for them.
#pragma once
#include <functional>

namespace gns {

// Threads that are made once, at the first call that has work for several, and
// take tasks by number. Where the system has no more threads there are fewer.
class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // Calls task(0), ..., task(count - 1), each once, on any thread. Where one
  // throws, some are left out, and the error comes from here.
  void run(int count, const std::function<void(int)>& task);

  // In a child of a fork, which has none of the threads: others are made.
  void forget();

 private:
  class Crew;

  const int count_;
  int limit_;             // of spinning
  Crew* crew_ = nullptr;  // beside the thread that calls
};

// A batch is cut into strips of rows of one block. The cut, and the order in
// which sums over strips are added, do not depend on the number of threads:
// neither do the results.
struct Strip {
  int block, top, bottom;  // rows top <= y < bottom
};

constexpr int STRIPS = 8;  // of a block, at most
constexpr int SLOTS = 16;  // partial sums, at most
constexpr int PIXELS_OF_A_RANGE = 16;  // at least, if there are as many

class Work {
 public:
  Work(Threads& threads, int blocks) : threads_(threads), blocks_(blocks) {}

  int blocks() const { return blocks_; }
  int slots(int height) const;

  // do_strip(strip) for all strips of maps of that height.
  void strips(int height, const std::function<void(Strip)>& do_strip) const;

  // do_strip(slot, strip): one slot's strips one after another, in order.
  void sums(int height,
            const std::function<void(int, Strip)>& do_strip) const;

  // do_range(slot, first, count) for ranges of all pixels of maps of that
  // size, in memory's order and long enough to sum products over.
  int range_slots(int pixels_of_a_block) const;
  void ranges(int pixels_of_a_block,
              const std::function<void(int, int, int)>& do_range) const;

  void tasks(int count, const std::function<void(int)>& task) const {
    threads_.run(count, task);
  }

  // do_part(first, end) for all of `count` things, so many in a task.
  template <class Part>
  void parts(int count, int of_a_task, Part do_part) const {
    threads_.run((count + of_a_task - 1) / of_a_task, [&](int task) {
      int first = task * of_a_task;
      do_part(first, first + of_a_task < count ? first + of_a_task : count);
    });
  }

 private:
  Strip strip(int height, int index) const;

  Threads& threads_;
  int blocks_;
};

}  // namespace gns
