// A stand-in that has a classifier's two tensors: the score of class i is the
// input's value i.
#ifndef STUB_MICRO_INTERPRETER_H_
#define STUB_MICRO_INTERPRETER_H_

#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

struct TfLiteTensor {
  union {
    std::int8_t* int8;
  } data;
};

namespace tflite {

class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver& resolver,
                   std::uint8_t* arena, std::size_t arena_size)
      : count_(resolver.count), size_(arena_size) {
    tensor_.data.int8 = reinterpret_cast<std::int8_t*>(arena);
  }
  TfLiteStatus AllocateTensors() {
    return count_ > 0 && size_ > 3072 ? kTfLiteOk : kTfLiteError;
  }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  TfLiteTensor* input(std::size_t) { return &tensor_; }
  TfLiteTensor* output(std::size_t) { return &tensor_; }

 private:
  int count_;
  std::size_t size_;
  TfLiteTensor tensor_;
};

}  // namespace tflite

#endif  // STUB_MICRO_INTERPRETER_H_
