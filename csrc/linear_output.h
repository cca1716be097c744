// What happens to a finished sum: bias, scale, the row that it is added to.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace headrace {
namespace {

// 16 rows from `row` on of one token; those behind the block's last row are dropped.
HEADRACE_INLINE void write_output(const LinearBlock& b, size_t row, size_t token, f32x16 y) {
    const int n = b.num_rows - row < LANES ? static_cast<int>(b.num_rows - row) : LANES;
    const size_t at = (b.y_rows ? static_cast<size_t>(b.y_rows[token]) : token) * b.y_stride + row;
    if (b.bias) y = y + load16(b.bias + row, n);
    y = y * set1(b.scale);
    if (b.add) y = y + load16(b.add + at, n);
    store16(b.y + at, y, n);
}

}  // namespace
}  // namespace headrace
