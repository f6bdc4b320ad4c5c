#include "base/forks.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace gns {
namespace {

// Never destroyed: a process may fork until its very end.
struct Watched {
  std::mutex mutex;
  std::vector<Forked*> objects;
};

Watched& watched() {
  static Watched& found = *new Watched;
  return found;
}

// Who forks holds the list, so that the child has a whole one.
void lock() { watched().mutex.lock(); }
void unlock() { watched().mutex.unlock(); }
void renew_all() {
  for (Forked* object : watched().objects) object->renew();
  unlock();
}

}  // namespace

void watch(Forked* object) {
  static const int registered = pthread_atfork(lock, unlock, renew_all);
  (void)registered;
  std::lock_guard<std::mutex> guard(watched().mutex);
  watched().objects.push_back(object);
}

void unwatch(Forked* object) {
  std::lock_guard<std::mutex> guard(watched().mutex);
  auto& objects = watched().objects;
  objects.erase(std::remove(objects.begin(), objects.end(), object),
                objects.end());
}

}  // namespace gns
