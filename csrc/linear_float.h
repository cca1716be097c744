// Matrix times rows in float32: every weight decoded exactly, lane = row of the panel. An output is one chain of fused
// multiply-adds over each 256 columns, and the sum of those in order.
#pragma once

#include "linear_output.h"
#include "panel_readers.h"

namespace headrace {
namespace {

template <CodecId ID>
HEADRACE_INLINE f32x16 column_of(const uint8_t* panel, size_t k) {
    if constexpr (ID == CodecId::F32) return load(reinterpret_cast<const float*>(panel) + k * LANES);
    if constexpr (ID == CodecId::F16) return from_f16(reinterpret_cast<const uint16_t*>(panel) + k * LANES);
    if constexpr (ID == CodecId::BF16) return from_bf16(reinterpret_cast<const uint16_t*>(panel) + k * LANES);
}

// Columns k … k + count - 1 of a panel as floats, out[column][16 rows]; k is a multiple of QUANT_BLOCK.
template <CodecId ID>
void decode_columns_of_panel(const uint8_t* panel, size_t k, size_t count, float* out) {
    if constexpr (is_float(ID)) {
        for (size_t i = 0; i < count; ++i) store(out + i * LANES, column_of<ID>(panel, k + i));
    } else {
        using Reader = PanelReader<ID>;
        for (size_t b = k / QUANT_BLOCK; b * QUANT_BLOCK < k + count; ++b)
            Reader::decode(Reader::block_at(panel, b), b, out + (b * QUANT_BLOCK - k) * LANES);
    }
}

#if defined(__AVX512F__)
constexpr int FLOAT_TOKENS = 12;
#else
constexpr int FLOAT_TOKENS = 4;
#endif

// Adds the products of `count` columns to the totals [TOKENS][16].
template <int TOKENS>
void float_tile(const float* w, const float* x, size_t x_stride, size_t count, float* totals) {
    f32x16 lanes[TOKENS];
    for (int t = 0; t < TOKENS; ++t) lanes[t] = zero();
    for (size_t k = 0; k < count; ++k) {
        const f32x16 column = load(w + k * LANES);
        for (int t = 0; t < TOKENS; ++t) lanes[t] = fma(column, set1(x[t * x_stride + k]), lanes[t]);
    }
    for (int t = 0; t < TOKENS; ++t) store(totals + t * LANES, load(totals + t * LANES) + lanes[t]);
}

template <CodecId ID>
void float_panel(const LinearBlock& b, size_t row) {
    const uint8_t* panel = b.panels + row / PANEL_ROWS * b.panel_bytes;
    float* decoded = b.scratch;
    float* totals = b.scratch + BLOCK_COLUMNS * PANEL_ROWS;
    std::memset(totals, 0, b.num_tokens * LANES * sizeof(float));
    for (size_t k = 0; k < b.columns; k += BLOCK_COLUMNS) {
        const size_t count = b.columns - k < BLOCK_COLUMNS ? b.columns - k : BLOCK_COLUMNS;
        const float* w = decoded;
        if constexpr (ID == CodecId::F32) w = reinterpret_cast<const float*>(panel) + k * LANES;
        else decode_columns_of_panel<ID>(panel, k, count, decoded);
        size_t t = 0;
        for (; t + FLOAT_TOKENS <= b.num_tokens; t += FLOAT_TOKENS)
            float_tile<FLOAT_TOKENS>(w, b.x + t * b.columns + k, b.columns, count, totals + t * LANES);
        for (; t < b.num_tokens; ++t) float_tile<1>(w, b.x + t * b.columns + k, b.columns, count, totals + t * LANES);
    }
    for (size_t t = 0; t < b.num_tokens; ++t) write_output(b, row, t, load(totals + t * LANES));
}

template <CodecId ID>
void float_panels(const LinearBlock& b) {
    for (size_t row = 0; row < b.num_rows; row += PANEL_ROWS) float_panel<ID>(b, row);
}

}  // namespace
}  // namespace headrace
