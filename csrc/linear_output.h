// What happens to a finished sum: bias, scale, the row that it is added to.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace headrace {
namespace {

// Where in y (and `add`) a row of a token is.
HEADRACE_INLINE size_t output_at(const LinearBlock& b, size_t row, size_t token) {
    return (b.y_rows ? static_cast<size_t>(b.y_rows[token]) : token) * b.y_stride + row;
}

// Asks for all outputs, which lie far apart, while the last sums are computed.
HEADRACE_INLINE void prefetch_outputs(const LinearBlock& b) {
    for (size_t token = 0; token < b.num_tokens; ++token)
        for (size_t row = 0; row < b.num_rows; row += LANES) {
            __builtin_prefetch(b.y + output_at(b, row, token), 1, 2);
            if (b.add) __builtin_prefetch(b.add + output_at(b, row, token), 0, 2);
        }
}

// 16 rows from `row` on of one token; those behind the block's last row are dropped.
HEADRACE_INLINE void write_output(const LinearBlock& b, size_t row, size_t token, f32x16 y) {
    const int n = b.num_rows - row < LANES ? static_cast<int>(b.num_rows - row) : LANES;
    const size_t at = output_at(b, row, token);
    if (b.bias) y = y + load16(b.bias + row, n);
    y = y * set1(b.scale);
    if (b.add) y = y + load16(b.add + at, n);
    store16(b.y + at, y, n);
}

// The same of some panels side by side, of which the last may lie behind the block.
template <size_t PANELS>
HEADRACE_INLINE void write_panels(const LinearBlock& b, size_t row, size_t token, const f32x16 (&y)[PANELS]) {
    if (b.bias || b.num_rows - row < PANELS * LANES) {
        for (size_t p = 0; p < PANELS && row + p * LANES < b.num_rows; ++p) write_output(b, row + p * LANES, token, y[p]);
        return;
    }
    const size_t at = output_at(b, row, token);
#pragma GCC unroll 4
    for (size_t p = 0; p < PANELS; ++p) {
        const f32x16 scaled = y[p] * set1(b.scale);
        store(b.y + at + p * LANES, b.add ? scaled + load(b.add + at + p * LANES) : scaled);
    }
}

}  // namespace
}  // namespace headrace
