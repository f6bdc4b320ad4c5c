// Classifies one image with TensorFlow Lite for Microcontrollers.
//
// model.h and model.cc are made by `gnsmall c-array`.

#include <cstdint>
#include <cstdio>

#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

alignas(16) std::uint8_t g_arena[kArenaBytes];

// Reads raw bytes, RGB or grey, from standard input; on a device, take the
// camera's.
bool ReadImage(std::int8_t* values) {
  for (int i = 0; i < kHeight * kWidth * kChannels; ++i) {
    const int pixel = std::getchar();
    if (pixel == EOF) return false;
    values[i] = static_cast<std::int8_t>(pixel - 128);
  }
  return true;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  OpResolver resolver;
  if (RegisterOps(resolver) != kTfLiteOk) return 1;
  tflite::MicroInterpreter interpreter(tflite::GetModel(g_model), resolver,
                                       g_arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("error: the arena is too small, or an operator has no kernel");
    return 1;
  }
  if (!ReadImage(interpreter.input(0)->data.int8)) {
    MicroPrintf("error: an image has %d bytes", kHeight * kWidth * kChannels);
    return 1;
  }
  if (interpreter.Invoke() != kTfLiteOk) return 1;
  const std::int8_t* scores = interpreter.output(0)->data.int8;
  int best = 0;
  for (int i = 1; i < kClasses; ++i) {
    if (scores[i] > scores[best]) best = i;
  }
  MicroPrintf("%s: %d", g_labels[best], scores[best]);
  return 0;
}
