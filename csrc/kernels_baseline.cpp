#define HEADRACE_SET kernels_baseline
#include "kernels_body.h"
