#include "os/interrupt.h"

_Thread_local void (*interrupt_hook)(void);
void (*interrupt_elsewhere)(void);
