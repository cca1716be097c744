// The body of every kernels_*.cpp, which defines HEADRACE_SET as the name of its instruction set.
#include "attention.h"
#include "kernels.h"
#include "machine_limits.h"
#include "linear.h"
#include "rowwise.h"

namespace headrace {

extern const Kernels HEADRACE_SET;
const Kernels HEADRACE_SET = {
    .decode = decode,
    .decode_panel_row = decode_panel_row,
    .linear = linear,
    .quantize = quantize_row,
    .attention = attention,
    .merge_attention = merge_attention,
    .rope_write = rope_write,
    .norm = norm,
    .activate = activate,
    .scale_add = scale_add,
    .softcap = softcap,
    .largest = largest_of,
    .exp_below = exp_below,
    .read_streams = read_streams,
    .multiply_adds = multiply_adds,
    .dots = dots,
};

}  // namespace headrace
