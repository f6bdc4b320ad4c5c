// What forward and backward of cheap.h share.
#pragma once
#include "layers/cheap.h"
#include "base/moments.h"

namespace gns {

constexpr int MIDDLE = TAPS / 2, CHANNELS_OF_A_TASK = 16;

// Coefficients of one channel for the gradient of its input.
struct InputGradient {
  float kernel[TAPS];  // of dy, turned by half a circle
  WindowGradient window;
};

// One branch of one channel: its taps and the places of its BatchNorm.
struct Cheap::Branch {
  float taps[TAPS];
  const Norm* norm;
  int index;  // in the norm's arrays
};

struct Cheap::Saved : State {
  std::vector<WindowMoments> moments;          // (channels,)
  std::vector<float> kernel, bias;             // K (channels, 9), B (channels,)
  std::vector<float> mean, inverse;            // (channels, branches + 2)
  std::vector<InputGradient> input;            // (channels,), backward
};

}  // namespace gns
