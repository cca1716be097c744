#define HEADRACE_SET kernels_neon_i8mm
#include "kernels_body.h"
