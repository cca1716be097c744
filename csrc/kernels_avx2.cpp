#define HEADRACE_SET kernels_avx2
#include "kernels_body.h"
