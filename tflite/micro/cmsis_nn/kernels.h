// Operators of an int8 network on a Cortex-M: convolutions by CMSIS-NN, the
// others in plain C with the integers of LiteRT's reference kernels.
#ifndef KERNELS_H_
#define KERNELS_H_

#include <stdint.h>

// Shapes are height, width, channels; a scale is a multiplier and a shift.
typedef struct {
  int32_t height, width, channels;
} Shape;

typedef struct {
  int32_t multiplier, shift;
} Scale;

typedef struct {
  Shape in, out;
  int32_t kernel_height, kernel_width, stride, pad_top, pad_left;
  int32_t in_zero, out_zero, low, high;
  const int8_t* weights;
  const int32_t* bias;
  const int32_t* multipliers;
  const int32_t* shifts;
} Conv;

// Sums and products; a second operand of 1 x 1 is spread over the image.
typedef struct {
  int32_t size, channels, zeros[2], out_zero, low, high;
  int spread;
  Scale scales[2], out_scale;
} Binary;

void RunConv(const Conv* op, const int8_t* in, int8_t* out);
void RunDepthwise(const Conv* op, const int8_t* in, int8_t* out);
void RunAveragePool(const Conv* op, const int8_t* in, int8_t* out);
void RunAdd(const Binary* op, const int8_t* a, const int8_t* b, int8_t* out);
void RunMul(const Binary* op, const int8_t* a, const int8_t* b, int8_t* out);
void RunConcat(int32_t pixels, int32_t a_channels, const int8_t* a,
               int32_t b_channels, const int8_t* b, int8_t* out);
void RunTable(int32_t size, const int8_t* table, const int8_t* in, int8_t* out);
void RunResize(const Shape* in, int32_t factor_y, int32_t factor_x,
               const int8_t* image, int8_t* out);
void RunMean(const Shape* in, int32_t in_zero, int32_t out_zero,
             const Scale* scale, const int8_t* image, int8_t* out);

// The most bytes that CMSIS-NN asked for beside inputs and outputs.
extern int32_t g_scratch_used;

#endif  // KERNELS_H_
