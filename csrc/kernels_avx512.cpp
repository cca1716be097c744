#define HEADRACE_SET kernels_avx512
#include "kernels_body.h"
