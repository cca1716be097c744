// The body of every kernels_*.cpp, which defines HEADRACE_SET as the name of its instruction set.
#include "attention.h"
#include "kernels.h"
#include "limits.h"
#include "linear.h"
#include "rowwise.h"

namespace headrace {

extern const Kernels HEADRACE_SET;
const Kernels HEADRACE_SET = {decode,   linear,    attention, merge_attention, rope_write, norm,
                              activate, scale_add, softcap,   largest_of,      exp_below,
                              read_streams, multiply_adds};

}  // namespace headrace
