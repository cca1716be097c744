// Paged attention with an online softmax over tiles of KEY_TILE keys aligned at absolute positions. A row (one query head of
// one token) goes through its own tiles in order, whatever other rows share the loads.
#pragma once

#include "cache_types.h"
#include "kernels.h"
#include "vector_math.h"

namespace headrace {
namespace {

#if defined(__AVX512F__)
constexpr int SCORE_GROUPS = 2, VALUE_VECTORS = 4;
#else
constexpr int SCORE_GROUPS = 1, VALUE_VECTORS = 1;
#endif
constexpr int ATTENTION_ROWS = 4;
constexpr float MINUS_INFINITY = -__builtin_huge_valf();

// What one row sees of a tile: keys first … last - 1 of its KEY_TILE.
struct Range {
    size_t first, last;
};

struct AttentionState {
    float* scores;   // [rows][KEY_TILE]: scores, then their exponentials
    float* values;   // [rows][padded_dim]: Σ exponential * value
    float* sums;     // [rows][16]: lanes of Σ exponential
    float* highest;  // [rows]: the largest score so far
    float* rescale;  // [rows]: what this tile's rows multiply the earlier sums by
};

HEADRACE_INLINE const float* query(const AttentionBlock& b, size_t row) {
    return b.q + row / b.group * b.stride + row % b.group * b.cache.head_dim;
}

HEADRACE_INLINE Range visible(const AttentionBlock& b, size_t row, size_t tile) {
    const size_t position = static_cast<size_t>(b.positions[row / b.group]);
    const size_t from = b.window && position + 1 > b.window ? position + 1 - b.window : 0;
    const size_t start = tile * KEY_TILE;
    const size_t first = from > start ? from - start : 0;
    const size_t last = position < start ? 0 : position + 1 - start;
    return {first < KEY_TILE ? first : KEY_TILE, last < KEY_TILE ? last : KEY_TILE};
}

// Scores of ROWS rows from `row` on, against GROUPS times 16 keys: lane i is key i, a chain over the head's dimensions.
template <class KV, int ROWS, int GROUPS>
void score(const AttentionBlock& b, size_t row, const typename KV::Element* const* keys, float* scores) {
    f32x16 lanes[ROWS][GROUPS];
    const float* q[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        q[r] = query(b, row + r);
        for (int g = 0; g < GROUPS; ++g) lanes[r][g] = zero();
    }
    for (size_t d = 0; d < b.cache.head_dim; ++d)
        for (int g = 0; g < GROUPS; ++g) {
            const f32x16 key = KV::get(keys[g] + d * KEY_GROUP);
            for (int r = 0; r < ROWS; ++r) lanes[r][g] = fma(set1(q[r][d]), key, lanes[r][g]);
        }
    for (int r = 0; r < ROWS; ++r)
        for (int g = 0; g < GROUPS; ++g) store(scores + r * KEY_TILE + g * KEY_GROUP, lanes[r][g]);
}

template <class KV, int ROWS, int GROUPS>
void score_tile(const AttentionBlock& b, size_t row, const typename KV::Element* const* keys, Range seen,
                float* scores) {
    size_t g = seen.first / KEY_GROUP;
    const size_t end = (seen.last + KEY_GROUP - 1) / KEY_GROUP;
    for (; g + GROUPS <= end; g += GROUPS) score<KV, ROWS, GROUPS>(b, row, keys + g, scores + g * KEY_GROUP);
    for (; g < end; ++g) score<KV, ROWS, 1>(b, row, keys + g, scores + g * KEY_GROUP);
}

// Scale, cap and mask one row's scores, turn them into exponentials below the new maximum, and add them up.
void soften(const AttentionBlock& b, const AttentionState& state, size_t row, Range seen) {
    alignas(64) static constexpr float INDEX[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float* scores = state.scores + row * KEY_TILE;
    const f32x16 never = set1(MINUS_INFINITY), first = set1(static_cast<float>(seen.first));
    const f32x16 last = set1(static_cast<float>(seen.last));
    f32x16 highest = never;
    const size_t begin = seen.first / KEY_GROUP * KEY_GROUP;
    for (size_t k = begin; k < seen.last; k += KEY_GROUP) {
        f32x16 s = load(scores + k) * set1(b.scale);
        if (b.softcap > 0) s = set1(b.softcap) * tanh(s / set1(b.softcap));
        if (k < seen.first || k + KEY_GROUP > seen.last) {
            const f32x16 index = load(INDEX) + set1(static_cast<float>(k));
            s = where_less(index, first, never, where_less(index, last, s, never));
        }
        store(scores + k, s);
        highest = max(s, highest);
    }
    const float before = state.highest[row], tile_highest = largest(highest);
    const float now = tile_highest > before ? tile_highest : before;
    const f32x16 rescale = exp(set1(before - now));
    f32x16 sums = load(state.sums + row * LANES) * rescale;
    for (size_t k = begin; k < seen.last; k += KEY_GROUP) {
        const f32x16 e = exp(load(scores + k) - set1(now));
        store(scores + k, e);
        sums = sums + e;
    }
    store(state.sums + row * LANES, sums);
    state.highest[row] = now;
    float factor[16];
    store(factor, rescale);
    state.rescale[row] = factor[0];
}

// VECTORS times 16 dimensions of ROWS rows: rescale, then add exponential * value of each seen key in order.
template <class KV, int ROWS, int VECTORS>
HEADRACE_INLINE void add_values(const AttentionState& state, size_t row, const typename KV::Element* const* values,
                                size_t padded_dim, size_t d, Range seen) {
    f32x16 lanes[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v)
            lanes[r][v] = load(state.values + (row + r) * padded_dim + d + v * LANES) * set1(state.rescale[row + r]);
    for (size_t k = seen.first; k < seen.last; ++k) {
        const auto* value = values[k / KEY_GROUP] + k % KEY_GROUP * padded_dim + d;
        for (int v = 0; v < VECTORS; ++v) {
            const f32x16 sixteen = KV::get(value + v * LANES);
            for (int r = 0; r < ROWS; ++r)
                lanes[r][v] = fma(set1(state.scores[(row + r) * KEY_TILE + k]), sixteen, lanes[r][v]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) store(state.values + (row + r) * padded_dim + d + v * LANES, lanes[r][v]);
}

template <class KV, int ROWS, int VECTORS>
void add_all_values(const AttentionState& state, size_t row, const typename KV::Element* const* values, size_t dim,
                    Range seen) {
    size_t d = 0;
    for (; d + VECTORS * LANES <= dim; d += VECTORS * LANES)
        add_values<KV, ROWS, VECTORS>(state, row, values, dim, d, seen);
    for (; d < dim; d += LANES) add_values<KV, ROWS, 1>(state, row, values, dim, d, seen);
}

template <class KV, int ROWS>
void attend_tile(const AttentionBlock& b, const AttentionState& state, size_t row, size_t tile) {
    Range seen[ROWS], all = {KEY_TILE, 0};
    bool alike = true;
    for (int r = 0; r < ROWS; ++r) {
        seen[r] = visible(b, row + r, tile);
        if (seen[r].first < seen[r].last) {
            all.first = seen[r].first < all.first ? seen[r].first : all.first;
            all.last = seen[r].last > all.last ? seen[r].last : all.last;
        }
        alike = alike && seen[r].first == seen[0].first && seen[r].last == seen[0].last;
    }
    if (all.first >= all.last) return;
    using Element = typename KV::Element;
    const Element* keys[KEY_TILE / KEY_GROUP] = {};
    const Element* values[KEY_TILE / KEY_GROUP] = {};
    for (size_t g = all.first / KEY_GROUP; g * KEY_GROUP < all.last; ++g) {
        const size_t position = tile * KEY_TILE + g * KEY_GROUP;
        keys[g] = b.cache.template keys<Element>(b.table, position, b.kv_head);
        values[g] = b.cache.template value<Element>(b.table, position, b.kv_head);
    }
    score_tile<KV, ROWS, ROWS == 1 ? 4 : SCORE_GROUPS>(b, row, keys, all, state.scores + row * KEY_TILE);
    for (int r = 0; r < ROWS; ++r)
        if (seen[r].first < seen[r].last) soften(b, state, row + r, seen[r]);
    if (alike) return add_all_values<KV, ROWS, ROWS == 1 ? 4 : VALUE_VECTORS>(state, row, values, b.cache.padded_dim, all);
    for (int r = 0; r < ROWS; ++r)
        if (seen[r].first < seen[r].last)
            add_all_values<KV, 1, 4>(state, row + r, values, b.cache.padded_dim, seen[r]);
}

void write_rows(const AttentionBlock& b, const AttentionState& state, size_t rows) {
    const size_t dim = b.cache.head_dim;
    for (size_t row = 0; row < rows; ++row) {
        const f32x16 total = set1(sum(load(state.sums + row * LANES)));
        float* out = b.out + (query(b, row) - b.q);
        const float* values = state.values + row * b.cache.padded_dim;
        for (size_t d = 0; d < dim; d += LANES)
            store_part(out + d, load(values + d) / total, dim - d < LANES ? static_cast<int>(dim - d) : LANES);
    }
}

template <class KV>
void attend(const AttentionBlock& b) {
    const size_t rows = b.num_tokens * b.group, dim = b.cache.padded_dim;
    AttentionState state;
    state.scores = b.scratch;
    state.values = state.scores + rows * KEY_TILE;
    state.sums = state.values + rows * dim;
    state.highest = state.sums + rows * LANES;
    state.rescale = state.highest + rows;
    std::memset(state.values, 0, rows * (dim + LANES) * sizeof(float));
    for (size_t row = 0; row < rows; ++row) state.highest[row] = MINUS_INFINITY;
    const size_t first = static_cast<size_t>(b.positions[0]), last = static_cast<size_t>(b.positions[b.num_tokens - 1]);
    const size_t from = b.window && first + 1 > b.window ? first + 1 - b.window : 0;
    for (size_t tile = from / KEY_TILE; tile <= last / KEY_TILE; ++tile) {
        size_t row = 0;
        for (; row + ATTENTION_ROWS <= rows; row += ATTENTION_ROWS) attend_tile<KV, ATTENTION_ROWS>(b, state, row, tile);
        for (; row + 2 <= rows; row += 2) attend_tile<KV, 2>(b, state, row, tile);
        for (; row < rows; ++row) attend_tile<KV, 1>(b, state, row, tile);
    }
    write_rows(b, state, rows);
}

void attention(const AttentionBlock& b) { b.cache.type == KVType::f16 ? attend<CacheF16>(b) : attend<CacheF32>(b); }

}  // namespace
}  // namespace headrace
