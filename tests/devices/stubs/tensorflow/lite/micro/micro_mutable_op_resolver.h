// A stand-in with the names and types that the generated code uses.
#ifndef STUB_MICRO_MUTABLE_OP_RESOLVER_H_
#define STUB_MICRO_MUTABLE_OP_RESOLVER_H_

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

#define TF_LITE_ENSURE_STATUS(a) \
  do {                           \
    const TfLiteStatus s = (a);  \
    if (s != kTfLiteOk) {        \
      return s;                  \
    }                            \
  } while (0)

namespace tflite {

struct TFLMRegistration {
  int kind;
};

inline TFLMRegistration Register_ADD_INT8() { return {8}; }
inline TFLMRegistration Register_AVERAGE_POOL_2D_INT8() { return {8}; }
inline TFLMRegistration Register_CONV_2D_INT8() { return {8}; }
inline TFLMRegistration Register_DEPTHWISE_CONV_2D_INT8() { return {8}; }
inline TFLMRegistration Register_FULLY_CONNECTED_INT8() { return {8}; }
inline TFLMRegistration Register_MAX_POOL_2D_INT8() { return {8}; }
inline TFLMRegistration Register_MUL_INT8() { return {8}; }
inline TFLMRegistration Register_SOFTMAX_INT8() { return {8}; }

class MicroOpResolver {
 public:
  int count = 0;
};

template <unsigned int size>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddAdd(const TFLMRegistration& registration) {
    return Register(registration);
  }
  TfLiteStatus AddAveragePool2D(const TFLMRegistration& registration) {
    return Register(registration);
  }
  TfLiteStatus AddConcatenation() { return Register(); }
  TfLiteStatus AddConv2D(const TFLMRegistration& registration) {
    return Register(registration);
  }
  TfLiteStatus AddDepthwiseConv2D(const TFLMRegistration& registration) {
    return Register(registration);
  }
  TfLiteStatus AddFullyConnected(const TFLMRegistration& registration) {
    return Register(registration);
  }
  TfLiteStatus AddLogistic() { return Register(); }
  TfLiteStatus AddMean() { return Register(); }
  TfLiteStatus AddMul(const TFLMRegistration& registration) {
    return Register(registration);
  }
  TfLiteStatus AddPad() { return Register(); }
  TfLiteStatus AddReshape() { return Register(); }
  TfLiteStatus AddResizeNearestNeighbor() { return Register(); }
  TfLiteStatus AddSoftmax(const TFLMRegistration& registration) {
    return Register(registration);
  }

 private:
  TfLiteStatus Register(const TFLMRegistration& registration = {0}) {
    if (registration.kind % 8) return kTfLiteError;
    return ++count > static_cast<int>(size) ? kTfLiteError : kTfLiteOk;
  }
};

}  // namespace tflite

#endif  // STUB_MICRO_MUTABLE_OP_RESOLVER_H_
