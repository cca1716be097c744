#define HEADRACE_SET kernels_neon_dotprod
#include "kernels_body.h"
