#include "base/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gns {
namespace {

constexpr std::size_t HUGE_PAGE = std::size_t(1) << 21, LINE = 64;
// Sizes are rounded up to four steps in each power of two: a step asks for what
// the one before gave back, to the buffer.
std::size_t rounded(std::size_t floats) {
  std::size_t step = 1024;
  while (8 * step <= floats) step *= 2;
  return (floats + step - 1) / step * step;
}

}  // namespace

Pool::~Pool() {
  for (auto& buffer : free_) std::free(buffer.allocation);
}

Buffer Pool::take(std::size_t floats) {
  std::lock_guard<std::mutex> lock(mutex_);
  floats = rounded(floats);
  // The one given back last is most likely in a cache.
  for (auto it = free_.rbegin(); it != free_.rend(); ++it)
    if (it->floats == floats) {
      Buffer found = *it;
      free_.erase(std::next(it).base());
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
  made.floats = floats;
  return made;
}

void Pool::give_back(Buffer& buffer) noexcept {
  if (!buffer.allocation) return;
  std::lock_guard<std::mutex> lock(mutex_);
  try {
    free_.push_back(buffer);
  } catch (const std::bad_alloc&) {
    std::free(buffer.allocation);
  }
  buffer = Buffer{};
}

// Where another thread was at the list, it may be half written.
void Pool::renew() {
  if (!mutex_.try_lock()) new (&free_) std::vector<Buffer>;
  new (&mutex_) std::mutex;
}

void Scratch::clear(std::size_t floats) {
  std::memset(buffer_.data, 0, floats * sizeof(float));
}

}  // namespace gns
