#define HEADRACE_SET kernels_avx512vnni
#include "kernels_body.h"
