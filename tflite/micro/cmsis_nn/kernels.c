#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#include "arm_nnfunctions.h"
#include "arm_nnsupportfunctions.h"

#define SCRATCH_BYTES 16384
#define ADD_LEFT_SHIFT 20

int32_t g_scratch_used;
static int8_t g_scratch[SCRATCH_BYTES] __attribute__((aligned(16)));

static cmsis_nn_context Scratch(int32_t bytes) {
  if (bytes > SCRATCH_BYTES) abort();
  if (bytes > g_scratch_used) g_scratch_used = bytes;
  const cmsis_nn_context context = {g_scratch, bytes};
  return context;
}

static cmsis_nn_dims Dims(const Shape* shape) {
  const cmsis_nn_dims dims = {1, shape->height, shape->width, shape->channels};
  return dims;
}

static int8_t Clamp(int32_t value, int32_t low, int32_t high) {
  return (int8_t)(value < low ? low : value > high ? high : value);
}

void RunConv(const Conv* op, const int8_t* in, int8_t* out) {
  const cmsis_nn_conv_params params = {-op->in_zero,
                                       op->out_zero,
                                       {op->stride, op->stride},
                                       {op->pad_left, op->pad_top},
                                       {1, 1},
                                       {op->low, op->high}};
  const cmsis_nn_per_channel_quant_params scales = {
      (int32_t*)op->multipliers, (int32_t*)op->shifts};
  const cmsis_nn_dims from = Dims(&op->in), to = Dims(&op->out);
  const cmsis_nn_dims filter = {to.c, op->kernel_height, op->kernel_width,
                                from.c};
  const cmsis_nn_dims bias = {1, 1, 1, to.c};
  const cmsis_nn_context context = Scratch(
      arm_convolve_wrapper_s8_get_buffer_size(&params, &from, &filter, &to));
  if (arm_convolve_wrapper_s8(&context, &params, &scales, &from, in, &filter,
                              op->weights, &bias, op->bias, &to, out))
    abort();
}

void RunDepthwise(const Conv* op, const int8_t* in, int8_t* out) {
  const cmsis_nn_dw_conv_params params = {
      -op->in_zero,
      op->out_zero,
      op->out.channels / op->in.channels,
      {op->stride, op->stride},
      {op->pad_left, op->pad_top},
      {1, 1},
      {op->low, op->high}};
  const cmsis_nn_per_channel_quant_params scales = {
      (int32_t*)op->multipliers, (int32_t*)op->shifts};
  const cmsis_nn_dims from = Dims(&op->in), to = Dims(&op->out);
  const cmsis_nn_dims filter = {1, op->kernel_height, op->kernel_width, to.c};
  const cmsis_nn_dims bias = {1, 1, 1, to.c};
  const cmsis_nn_context context =
      Scratch(arm_depthwise_conv_wrapper_s8_get_buffer_size(&params, &from,
                                                            &filter, &to));
  if (arm_depthwise_conv_wrapper_s8(&context, &params, &scales, &from, in,
                                    &filter, op->weights, &bias, op->bias, &to,
                                    out))
    abort();
}

void RunAveragePool(const Conv* op, const int8_t* in, int8_t* out) {
  const cmsis_nn_pool_params params = {{op->stride, op->stride},
                                       {op->pad_left, op->pad_top},
                                       {op->low, op->high}};
  const cmsis_nn_dims from = Dims(&op->in), to = Dims(&op->out);
  const cmsis_nn_dims filter = {1, op->kernel_height, op->kernel_width, 1};
  const cmsis_nn_context context =
      Scratch(arm_avgpool_s8_get_buffer_size(to.w, from.c));
  if (arm_avgpool_s8(&context, &params, &from, in, &filter, &to, out)) abort();
}

void RunAdd(const Binary* op, const int8_t* a, const int8_t* b, int8_t* out) {
  const Scale* scales = op->scales;
  for (int32_t i = 0; i < op->size; ++i) {
    const int32_t left = (a[i] - op->zeros[0]) * (1 << ADD_LEFT_SHIFT);
    const int32_t right = (b[i] - op->zeros[1]) * (1 << ADD_LEFT_SHIFT);
    const int32_t sum =
        arm_nn_requantize(left, scales[0].multiplier, scales[0].shift) +
        arm_nn_requantize(right, scales[1].multiplier, scales[1].shift);
    const int32_t scaled = arm_nn_requantize(sum, op->out_scale.multiplier,
                                             op->out_scale.shift);
    out[i] = Clamp(scaled + op->out_zero, op->low, op->high);
  }
}

void RunMul(const Binary* op, const int8_t* a, const int8_t* b, int8_t* out) {
  for (int32_t i = 0; i < op->size; i += op->channels) {
    const int8_t* factors = op->spread ? b : b + i;
    for (int32_t c = 0; c < op->channels; ++c) {
      const int32_t product =
          (a[i + c] - op->zeros[0]) * (factors[c] - op->zeros[1]);
      const int32_t scaled = arm_nn_requantize(
          product, op->out_scale.multiplier, op->out_scale.shift);
      out[i + c] = Clamp(scaled + op->out_zero, op->low, op->high);
    }
  }
}

void RunConcat(int32_t pixels, int32_t a_channels, const int8_t* a,
               int32_t b_channels, const int8_t* b, int8_t* out) {
  for (int32_t i = 0; i < pixels; ++i) {
    memcpy(out, a + i * a_channels, a_channels);
    memcpy(out + a_channels, b + i * b_channels, b_channels);
    out += a_channels + b_channels;
  }
}

void RunTable(int32_t size, const int8_t* table, const int8_t* in,
              int8_t* out) {
  for (int32_t i = 0; i < size; ++i) out[i] = table[in[i] + 128];
}

void RunResize(const Shape* in, int32_t factor_y, int32_t factor_x,
               const int8_t* image, int8_t* out) {
  const int32_t channels = in->channels;
  for (int32_t y = 0; y < in->height * factor_y; ++y) {
    const int8_t* row = image + y / factor_y * in->width * channels;
    for (int32_t x = 0; x < in->width * factor_x; ++x) {
      memcpy(out, row + x / factor_x * channels, channels);
      out += channels;
    }
  }
}

void RunMean(const Shape* in, int32_t in_zero, int32_t out_zero,
             const Scale* scale, const int8_t* image, int8_t* out) {
  const int32_t pixels = in->height * in->width;
  for (int32_t c = 0; c < in->channels; ++c) {
    int32_t sum = 0;
    for (int32_t i = 0; i < pixels; ++i) sum += image[i * in->channels + c];
    const int32_t scaled = arm_nn_requantize(sum - pixels * in_zero,
                                             scale->multiplier, scale->shift);
    out[c] = Clamp(scaled + out_zero, -128, 127);
  }
}
