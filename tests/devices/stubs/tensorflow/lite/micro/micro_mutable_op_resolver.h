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

class MicroOpResolver {
 public:
  int count = 0;
};

template <unsigned int size>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddAdd() { return Register(); }
  TfLiteStatus AddAveragePool2D() { return Register(); }
  TfLiteStatus AddConcatenation() { return Register(); }
  TfLiteStatus AddConv2D() { return Register(); }
  TfLiteStatus AddDepthwiseConv2D() { return Register(); }
  TfLiteStatus AddFullyConnected() { return Register(); }
  TfLiteStatus AddLogistic() { return Register(); }
  TfLiteStatus AddMean() { return Register(); }
  TfLiteStatus AddMul() { return Register(); }
  TfLiteStatus AddPad() { return Register(); }
  TfLiteStatus AddReshape() { return Register(); }
  TfLiteStatus AddResizeNearestNeighbor() { return Register(); }
  TfLiteStatus AddSoftmax() { return Register(); }

 private:
  TfLiteStatus Register() {
    return ++count > static_cast<int>(size) ? kTfLiteError : kTfLiteOk;
  }
};

}  // namespace tflite

#endif  // STUB_MICRO_MUTABLE_OP_RESOLVER_H_
