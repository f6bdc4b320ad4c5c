// Classifies images of a file on the host, by semihosting, and counts.
//
// The emulator's clock goes one nanosecond on with an instruction
// (-icount shift=0); SysTick counts its 25 MHz, so a tick is 40 instructions.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"
#include "network.h"

#define SYST_CSR (*(volatile uint32_t*)0xE000E010)
#define SYST_RVR (*(volatile uint32_t*)0xE000E014)
#define SYST_CVR (*(volatile uint32_t*)0xE000E018)
#define SYSTICK_LAST 0xFFFFFF
#define INSTRUCTIONS_A_TICK 40

static int8_t g_pixels[INPUT_BYTES];
static int8_t g_scores[OUTPUT_BYTES];

int main(void) {
  FILE* images = fopen("images.bin", "rb");
  FILE* scores = fopen("scores.bin", "wb");
  if (!images || !scores) return 1;
  while (fread(g_pixels, 1, INPUT_BYTES, images) == INPUT_BYTES) {
    SYST_RVR = SYSTICK_LAST;
    SYST_CVR = 0;
    SYST_CSR = 5;  // the processor's clock, without interrupts
    RunNetwork(g_pixels, g_scores);
    const uint32_t ticks = SYSTICK_LAST - SYST_CVR;
    if (SYST_CSR & 0x10000) return 2;  // it went round
    printf("instructions %lu\n", (unsigned long)ticks * INSTRUCTIONS_A_TICK);
    fwrite(g_scores, 1, OUTPUT_BYTES, scores);
  }
  printf("scratch %ld\n", (long)g_scratch_used);
  fclose(scores);
  return 0;
}
