// What is made anew in a child of a fork.
//
// A fork copies all memory, but of the threads only the one that forks. In the
// child a mutex that another thread held stays locked, and a condition variable
// counts sleepers who never wake: who destroys it waits for them. So the child
// abandons both as they are, and makes others.
#pragma once

namespace gns {

class Forked {
 public:
  // In the child, where there is one thread, before any other code runs.
  virtual void renew() = 0;

 protected:
  ~Forked() = default;
};

// From its construction, which is over, until its destruction, which begins.
void watch(Forked* object);
void unwatch(Forked* object);

}  // namespace gns
