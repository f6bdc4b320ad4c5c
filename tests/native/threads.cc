// Threads that are few, or whose tasks fail. Prints what is wrong.
#include "base/threads.h"

#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <thread>

static int wrong = 0;

static void check(bool holds, const char* rule) {
  if (holds) return;
  std::printf("%s\n", rule);
  wrong++;
}

static bool adds_up(gns::Threads& threads) {
  std::atomic<int> sum{0};
  threads.run(100, [&](int i) { sum += i; });
  return sum == 4950;
}

static void fail_anywhere(int count) {
  gns::Threads threads(count);
  for (int round = 0; round < 100; round++) {
    bool caught = false;
    try {
      threads.run(20, [](int i) {
        if (i % 7 == 6) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    check(caught, "an error of a task comes from `run`");
    check(adds_up(threads), "threads go on after an error");
  }
}

// The calling thread waits, so that another one takes the task that fails.
static void fail_on_a_worker() {
  gns::Threads threads(2);
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> failed{false};
  bool caught = false;
  try {
    threads.run(2, [&](int) {
      if (std::this_thread::get_id() == caller) {
        while (!failed) std::this_thread::yield();
      } else {
        failed = true;
        throw std::runtime_error("of a worker");
      }
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  check(caught, "an error of a worker comes from `run`");
}

// Their stacks have 8 MB each: there is room for a few, or for none.
static void few(long megabytes) {
  long pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (!file || std::fscanf(file, "%ld", &pages) != 1) return;
  std::fclose(file);
  rlimit before, limit;
  getrlimit(RLIMIT_AS, &before);
  limit = before;
  limit.rlim_cur = pages * 4096 + (megabytes << 20);
  setrlimit(RLIMIT_AS, &limit);
  {
    gns::Threads threads(2000000000);
    for (int round = 0; round < 10; round++)
      check(adds_up(threads), "fewer threads do all");
  }
  setrlimit(RLIMIT_AS, &before);
}

int main() {
  few(1);
  few(40);
  for (int count : {1, 2, 5}) fail_anywhere(count);
  fail_on_a_worker();
  return wrong != 0;
}
