// Matrix times rows in float32: every weight decoded exactly, lane = row of a panel. An output is one chain of fused
// multiply-adds over each 256 columns, and the sum of those in order; tiles only say which outputs are computed side by side.
#pragma once

#include <algorithm>

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

// A chunk of columns of a piece's tokens: stride floats apart.
struct FloatRows {
    const float* x;
    size_t stride;
};

// A tile's sums stay in registers: panels times tokens, besides a column of each panel. Few tokens read more panels at a
// time, since their chains are short of work.
#if defined(__AVX512F__)
constexpr int FLOAT_PANELS = 2, FLOAT_TOKENS = 12, FEW_PANELS = 4, FEW_TOKENS = 4;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int FLOAT_PANELS = 1, FLOAT_TOKENS = 6, FEW_PANELS = 4, FEW_TOKENS = 1;
#else
constexpr int FLOAT_PANELS = 1, FLOAT_TOKENS = 2, FEW_PANELS = 2, FEW_TOKENS = 1;
#endif

// The products of `count` columns from `k` on of PANELS panels side by side: sink(token, 16 sums of each panel).
//
// Three tokens share a pointer, from which the others are one and two strides away: a pointer each would be more than
// there are registers. GCC must not see that the pointers are related, or it makes twelve of the four again.
template <CodecId ID, int PANELS, int TOKENS, class Sink>
void float_tile(const uint8_t* const* panels, size_t k, size_t count, FloatRows rows, const Sink& sink) {
    constexpr size_t column_bytes = LANES * (ID == CodecId::F32 ? 4 : 2);
    constexpr int POINTERS = (TOKENS + 2) / 3;
    const float* from[POINTERS];
#pragma GCC unroll 4
    for (int i = 0; i < POINTERS; ++i) from[i] = rows.x + static_cast<size_t>(3 * i) * rows.stride;
    const uint8_t* at[PANELS];
    f32x16 sums[PANELS][TOKENS];
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p) {
        at[p] = panels[p] + k * column_bytes;
#pragma GCC unroll 12
        for (int t = 0; t < TOKENS; ++t) sums[p][t] = zero();
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < count; ++i) {
        f32x16 column[PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
            column[p] = column_of<ID>(at[p], i);
            __builtin_prefetch(at[p] + (i + BLOCK_COLUMNS) * column_bytes, 0, 2);  // the next chunk, after other panels
        }
#pragma GCC unroll 12
        for (int t = 0; t < TOKENS; ++t) {
            const f32x16 value = set1(from[t / 3][static_cast<size_t>(t % 3) * rows.stride]);
#pragma GCC unroll 4
            for (int p = 0; p < PANELS; ++p) sums[p][t] = fma(column[p], value, sums[p][t]);
        }
#pragma GCC unroll 4
        for (int pointer = 0; pointer < POINTERS; ++pointer) {
            ++from[pointer];
            asm("" : "+r"(from[pointer]));
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < TOKENS; ++t) {
        f32x16 of_token[PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) of_token[p] = sums[p][t];
        sink(static_cast<size_t>(t), of_token);
    }
}

// The tile of that many tokens.
template <CodecId ID, int PANELS, int TOKENS, class Sink>
HEADRACE_INLINE void float_tile_of(size_t tokens, const uint8_t* const* panels, size_t k, size_t count, FloatRows rows,
                                   const Sink& sink) {
    if (tokens == TOKENS) return float_tile<ID, PANELS, TOKENS>(panels, k, count, rows, sink);
    if constexpr (TOKENS > 1) float_tile_of<ID, PANELS, TOKENS - 1>(tokens, panels, k, count, rows, sink);
}

// Adds a tile's sums to totals [tokens][BLOCK_ROWS].
struct AddToTotals {
    float* totals;

    template <size_t PANELS>
    __attribute__((always_inline)) void operator()(size_t token, const f32x16 (&sums)[PANELS]) const {
        float* total = totals + token * BLOCK_ROWS;
#pragma GCC unroll 4
        for (size_t p = 0; p < PANELS; ++p) store(total + p * LANES, load(total + p * LANES) + sums[p]);
    }
};

// All tokens times `count` columns from `k` on of PANELS panels, cut into tiles of about the same size.
template <CodecId ID, int PANELS, int TOKENS>
void float_tiles(const LinearBlock& b, const uint8_t* const* panels, size_t k, size_t count, FloatRows rows, float* totals) {
    const size_t tiles = (b.num_tokens + TOKENS - 1) / TOKENS;
    for (size_t tile = 0; tile < tiles; ++tile) {
        const size_t t = b.num_tokens * tile / tiles, end = b.num_tokens * (tile + 1) / tiles;
        const FloatRows of_tile = {rows.x + t * rows.stride, rows.stride};
        const AddToTotals sink{totals + t * BLOCK_ROWS};
        float_tile_of<ID, PANELS, TOKENS>(end - t, panels, k, count, of_tile, sink);
    }
}

// One chunk of columns of the block; codecs of blocks are decoded once for all tokens. A panel that is missing repeats the
// last, and its sums are never written out.
template <CodecId ID, int PANELS, int TOKENS>
void float_chunk(const LinearBlock& b, size_t k, size_t count, FloatRows rows, float* totals) {
    const size_t num_panels = (b.num_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    for (size_t first = 0; first < num_panels; first += PANELS) {
        float* sums = totals + first * PANEL_ROWS;
        const uint8_t* panels[PANELS];
        for (size_t p = 0; p < PANELS; ++p)
            panels[p] = b.panels + std::min(first + p, num_panels - 1) * b.panel_bytes;
        if constexpr (is_float(ID)) {
            float_tiles<ID, PANELS, TOKENS>(b, panels, k, count, rows, sums);
        } else {
            static_assert(PANELS * BLOCK_COLUMNS * PANEL_ROWS <= FLOAT_SLAB);
            for (size_t p = 0; p < PANELS; ++p) {
                float* decoded = b.scratch + p * BLOCK_COLUMNS * PANEL_ROWS;
                decode_columns_of_panel<ID>(panels[p], k, count, decoded);
                panels[p] = reinterpret_cast<const uint8_t*>(decoded);
            }
            float_tiles<CodecId::F32, PANELS, TOKENS>(b, panels, 0, count, rows, sums);
        }
    }
}

// Columns k … k + count - 1 of the tokens, where they lie, if they lie side by side; rows that are a multiple of 4 KiB long
// would drive each other out of the first cache, and are copied too.
HEADRACE_INLINE FloatRows columns_of_tokens(const LinearBlock& b, size_t k, size_t count, float* copies) {
    if (!b.x_rows && b.columns * sizeof(float) % 4096) return {b.x + k, b.columns};
    for (size_t t = 0; t < b.num_tokens; ++t) {
        const float* from = b.x + (b.x_rows ? static_cast<size_t>(b.x_rows[t]) : t) * b.columns + k;
        std::memcpy(copies + t * FLOAT_X_STRIDE, from, count * sizeof(float));
    }
    return {copies, FLOAT_X_STRIDE};
}

// Writes a tile's sums to the block's output; its panels begin at row `first_row`. Like a total, a sum is added to a zero,
// which makes one of -0 (products too small for a float) a 0.
struct WriteOutput {
    const LinearBlock& block;
    size_t first_row;

    template <size_t PANELS>
    __attribute__((always_inline)) void operator()(size_t token, const f32x16 (&sums)[PANELS]) const {
        f32x16 totals[PANELS];
#pragma GCC unroll 4
        for (size_t p = 0; p < PANELS; ++p) totals[p] = zero() + sums[p];
        write_panels(block, first_row, token, totals);
    }
};

// Few tokens times a matrix of one chunk of columns, such as an adapter's second one: the sums never leave the registers.
template <CodecId ID>
void float_narrow(const LinearBlock& b) {
    const FloatRows rows = columns_of_tokens(b, 0, b.columns, b.scratch + FLOAT_SLAB);
    const size_t num_panels = (b.num_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    for (size_t first = 0; first < num_panels; first += FEW_PANELS) {
        const uint8_t* panels[FEW_PANELS];
        for (size_t p = 0; p < FEW_PANELS; ++p) panels[p] = b.panels + std::min(first + p, num_panels - 1) * b.panel_bytes;
        const WriteOutput sink{b, first * PANEL_ROWS};
        float_tile_of<ID, FEW_PANELS, FEW_TOKENS>(b.num_tokens, panels, 0, b.columns, rows, sink);
    }
}

template <CodecId ID>
void float_panels(const LinearBlock& b) {
    if constexpr (is_float(ID))
        if (b.columns <= BLOCK_COLUMNS && b.num_tokens <= FEW_TOKENS) return float_narrow<ID>(b);
    float* copies = b.scratch + FLOAT_SLAB;
    float* totals = copies + BLOCK_TOKENS * FLOAT_X_STRIDE;
    std::memset(totals, 0, b.num_tokens * BLOCK_ROWS * sizeof(float));
    for (size_t k = 0; k < b.columns; k += BLOCK_COLUMNS) {
        const size_t count = b.columns - k < BLOCK_COLUMNS ? b.columns - k : BLOCK_COLUMNS;
        const FloatRows rows = columns_of_tokens(b, k, count, copies);
        if (k + count == b.columns) prefetch_outputs(b);
        if constexpr (is_float(ID)) {
            if (b.num_rows <= PANEL_ROWS) {  // such as an adapter's
                float_chunk<ID, 1, FLOAT_TOKENS>(b, k, count, rows, totals);
                continue;
            }
            if (b.num_tokens <= FEW_TOKENS) {
                float_chunk<ID, FEW_PANELS, FEW_TOKENS>(b, k, count, rows, totals);
                continue;
            }
        }
        float_chunk<ID, FLOAT_PANELS, FLOAT_TOKENS>(b, k, count, rows, totals);
    }
    for (size_t t = 0; t < b.num_tokens; ++t)
        for (size_t row = 0; row < b.num_rows; row += PANEL_ROWS)
            write_output(b, row, t, load(totals + t * BLOCK_ROWS + row));
}

}  // namespace
}  // namespace headrace
