// A stand-in: prints a line.
#ifndef STUB_MICRO_LOG_H_
#define STUB_MICRO_LOG_H_

#include <cstdio>

#define MicroPrintf(...)      \
  do {                        \
    std::printf(__VA_ARGS__); \
    std::puts("");            \
  } while (0)

#endif  // STUB_MICRO_LOG_H_
