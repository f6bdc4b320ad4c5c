#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gns {
namespace {

constexpr std::size_t HUGE_PAGE = std::size_t(1) << 21, LINE = 64;
// A free buffer may be this many times as large as asked for.
constexpr double TOO_LARGE = 1.5;

}  // namespace

Pool::~Pool() {
  for (auto& buffer : free_) std::free(buffer.allocation);
}

Buffer Pool::take(std::size_t floats) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it)
    if (it->floats >= floats && it->floats <= TOO_LARGE * floats + 4096 &&
        (best == free_.end() || it->floats < best->floats))
      best = it;
  if (best != free_.end()) {
    Buffer found = *best;
    *best = free_.back();
    free_.pop_back();
    return found;
  }
  // Buffers begin at different cache sets, or two maps read and written side
  // by side would meet in the same ones.
  std::size_t offset = made_++ * 5 % 61 * LINE;
  std::size_t bytes = floats * sizeof(float) + offset;
  std::size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 4096;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* allocation = std::aligned_alloc(alignment, bytes);
  if (!allocation) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == HUGE_PAGE) madvise(allocation, bytes, MADV_HUGEPAGE);
#endif
  Buffer made;
  made.allocation = allocation;
  made.data = reinterpret_cast<float*>(static_cast<char*>(allocation) + offset);
  made.floats = (bytes - offset) / sizeof(float);
  return made;
}

void Pool::give_back(Buffer& buffer) {
  if (!buffer.allocation) return;
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(buffer);
  buffer = Buffer{};
}

void Scratch::clear(std::size_t floats) {
  std::memset(buffer_.data, 0, floats * sizeof(float));
}

}  // namespace gns
