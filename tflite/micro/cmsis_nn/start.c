// Vectors and start of the program, for the emulated board.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern char __data_start[], __data_end[], __data_load[];
extern char __bss_start__[], __bss_end__[], __stack[];

int main(void);
void initialise_monitor_handles(void);

void Reset(void) {
  *(volatile uint32_t*)0xE000ED88 |= 0xF << 20;  // the floating-point unit
  memcpy(__data_start, __data_load, __data_end - __data_start);
  memset(__bss_start__, 0, __bss_end__ - __bss_start__);
  initialise_monitor_handles();
  exit(main());
}

static void Fault(void) { _Exit(3); }

__attribute__((section(".vectors"), used)) static void* const g_vectors[] = {
    __stack, (void*)Reset, (void*)Fault, (void*)Fault,
    (void*)Fault, (void*)Fault, (void*)Fault};
