// A stand-in: a model is its bytes.
#ifndef STUB_SCHEMA_GENERATED_H_
#define STUB_SCHEMA_GENERATED_H_

namespace tflite {

struct Model;

inline const Model* GetModel(const void* bytes) {
  return static_cast<const Model*>(bytes);
}

}  // namespace tflite

#endif  // STUB_SCHEMA_GENERATED_H_
