// Matrix times rows. Every output is the same sequence: 16 lanes over k in ascending order, one multiply-add each, then
// one tree. Tiles, chunks of k, the number of tokens and threads only say which outputs are computed side by side.
#pragma once

#include "kernels.h"
#include "readers.h"

namespace headrace {
namespace {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 4, TILE_TOKENS = 4, FUSED_ROWS = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int TILE_ROWS = 2, TILE_TOKENS = 2, FUSED_ROWS = 4;
#else  // 16 registers of four floats: one row of accumulators takes four
constexpr int TILE_ROWS = 2, TILE_TOKENS = 1, FUSED_ROWS = 2;
#endif

HEADRACE_INLINE void finish(const LinearBlock& b, size_t row, size_t token, f32x16 lanes) {
    float y = sum(lanes);
    if (b.bias) y = y + b.bias[row];
    y = y * b.scale;
    if (b.add) y = y + b.add[token * b.y_stride + row];
    b.y[token * b.y_stride + row] = y;
}

// One token: decode in registers, next to the multiply-add.
template <class Reader, int ROWS>
void one_token(const LinearBlock& b, size_t row) {
    const uint8_t* w = b.weights + row * b.row_bytes;
    f32x16 lanes[ROWS];
    for (int r = 0; r < ROWS; ++r) lanes[r] = zero();
    const size_t whole = b.columns / LANES * LANES;
    for (size_t k = 0; k < whole; k += LANES) {
        const f32x16 x = load(b.x + k);
        for (int r = 0; r < ROWS; ++r) lanes[r] = fma(Reader::load(w + r * b.row_bytes, k), x, lanes[r]);
    }
    if (const int tail = static_cast<int>(b.columns - whole)) {
        const f32x16 x = load_part(b.x + whole, tail);
        for (int r = 0; r < ROWS; ++r) lanes[r] = fma(Reader::load_tail(w + r * b.row_bytes, whole, tail), x, lanes[r]);
    }
    for (int r = 0; r < ROWS; ++r) finish(b, row + r, 0, lanes[r]);
}

// Adds ROWS × TOKENS products of `count` columns to the accumulators, which lie [row][BLOCK_TOKENS][16].
template <int ROWS, int TOKENS>
void tile(const float* w, size_t w_stride, const float* x, size_t x_stride, size_t count, float* accumulators) {
    f32x16 lanes[ROWS][TOKENS];
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < TOKENS; ++t) lanes[r][t] = load(accumulators + (r * BLOCK_TOKENS + t) * LANES);
    const size_t whole = count / LANES * LANES;
    for (size_t k = 0; k < whole; k += LANES) {
        f32x16 rows[ROWS];
        for (int r = 0; r < ROWS; ++r) rows[r] = load(w + r * w_stride + k);
        for (int t = 0; t < TOKENS; ++t) {
            const f32x16 token = load(x + t * x_stride + k);
            for (int r = 0; r < ROWS; ++r) lanes[r][t] = fma(rows[r], token, lanes[r][t]);
        }
    }
    if (const int tail = static_cast<int>(count - whole)) {
        for (int t = 0; t < TOKENS; ++t) {
            const f32x16 token = load_part(x + t * x_stride + whole, tail);
            for (int r = 0; r < ROWS; ++r)
                lanes[r][t] = fma(load_part(w + r * w_stride + whole, tail), token, lanes[r][t]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < TOKENS; ++t) store(accumulators + (r * BLOCK_TOKENS + t) * LANES, lanes[r][t]);
}

template <int ROWS>
void tile_tokens(const float* w, size_t w_stride, const LinearBlock& b, size_t k, size_t count, float* accumulators) {
    size_t t = 0;
    for (; t + TILE_TOKENS <= b.num_tokens; t += TILE_TOKENS)
        tile<ROWS, TILE_TOKENS>(w, w_stride, b.x + t * b.x_stride + k, b.x_stride, count, accumulators + t * LANES);
    for (; t < b.num_tokens; ++t)
        tile<ROWS, 1>(w, w_stride, b.x + t * b.x_stride + k, b.x_stride, count, accumulators + t * LANES);
}

template <class Reader>
void decode_columns(const uint8_t* row, size_t k, size_t count, float* out) {
    const size_t whole = count / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) store(out + i, Reader::load(row, k + i));
    if (const int tail = static_cast<int>(count - whole))
        store_part(out + whole, Reader::load_tail(row, k + whole, tail), tail);
}

template <class Reader>
void many_tokens(const LinearBlock& b) {
    constexpr bool in_place = __is_same(Reader, ReadF32);
    float* decoded = b.scratch;
    float* accumulators = b.scratch + BLOCK_ROWS * BLOCK_COLUMNS;
    std::memset(accumulators, 0, b.num_rows * BLOCK_TOKENS * LANES * sizeof(float));
    for (size_t k = 0; k < b.columns; k += BLOCK_COLUMNS) {
        const size_t count = b.columns - k < BLOCK_COLUMNS ? b.columns - k : BLOCK_COLUMNS;
        const float* w = decoded;
        size_t stride = BLOCK_COLUMNS;
        if constexpr (in_place) {
            w = reinterpret_cast<const float*>(b.weights) + k;
            stride = b.columns;
        } else {
            for (size_t r = 0; r < b.num_rows; ++r)
                decode_columns<Reader>(b.weights + r * b.row_bytes, k, count, decoded + r * BLOCK_COLUMNS);
        }
        size_t r = 0;
        for (; r + TILE_ROWS <= b.num_rows; r += TILE_ROWS)
            tile_tokens<TILE_ROWS>(w + r * stride, stride, b, k, count, accumulators + r * BLOCK_TOKENS * LANES);
        for (; r < b.num_rows; ++r)
            tile_tokens<1>(w + r * stride, stride, b, k, count, accumulators + r * BLOCK_TOKENS * LANES);
    }
    for (size_t t = 0; t < b.num_tokens; ++t)
        for (size_t r = 0; r < b.num_rows; ++r) finish(b, r, t, load(accumulators + (r * BLOCK_TOKENS + t) * LANES));
}

template <class Reader>
void linear_with(const LinearBlock& b) {
    if (b.num_tokens > 1) return many_tokens<Reader>(b);
    size_t row = 0;
    for (; row + FUSED_ROWS <= b.num_rows; row += FUSED_ROWS) one_token<Reader, FUSED_ROWS>(b, row);
    for (; row < b.num_rows; ++row) one_token<Reader, 1>(b, row);
}

void linear(const LinearBlock& b) {
    switch (b.codec) {
#define X(identifier, name, values, bytes) \
    case CodecId::identifier:              \
        return linear_with<Read##identifier>(b);
        HEADRACE_CODECS(X)
#undef X
    }
}

void decode(CodecId codec, const uint8_t* row, size_t columns, float* out) {
    switch (codec) {
#define X(identifier, name, values, bytes) \
    case CodecId::identifier:              \
        return decode_columns<Read##identifier>(row, 0, columns, out);
        HEADRACE_CODECS(X)
#undef X
    }
}

}  // namespace
}  // namespace headrace
