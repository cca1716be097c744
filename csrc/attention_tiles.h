// The inner loops of attention: a few rows against a tile of keys and values, in registers.
#pragma once

#include <type_traits>

#include "cache_types.h"
#include "kernels.h"
#include "vector_math.h"

namespace headrace {
namespace {

// Vectors of 16 sums that a register tile keeps, the rows of the tallest one, and the vectors of each of its rows.
#if defined(__AVX512F__)
constexpr int ACCUMULATORS = 24, MAX_ROWS = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int ACCUMULATORS = 6, MAX_ROWS = 6;
#else
constexpr int ACCUMULATORS = 3, MAX_ROWS = 3;
#endif
constexpr int SLICE = ACCUMULATORS / MAX_ROWS;
constexpr float MINUS_INFINITY = -__builtin_huge_valf();

// The largest power of two of vectors that `rows` rows can have.
constexpr int vectors_of(int rows, int most) { return most * rows <= ACCUMULATORS ? most : vectors_of(rows, most / 2); }
constexpr int score_groups_of(int rows) { return vectors_of(rows, 4); }
constexpr int value_vectors_of(int rows) { return vectors_of(rows, 8); }

// Keys and values in scratch; other readers read the cache, and ask for the next part of it in time.
struct Widened : CacheF32 {};
template <class Reader>
constexpr bool prefetches = !std::is_same_v<Reader, Widened>;

// Keys first … last - 1 of a tile.
struct Range {
    size_t first, last;
};

// Where a tile's groups of 16 keys and their values lie in the cache; pointers only to those that are seen. `next` are
// the keys of the next tile, as far as there are any.
template <class KV>
struct TileOf {
    using Element = typename KV::Element;
    size_t start;
    const Element* keys[KEY_TILE / KEY_GROUP];
    const Element* values[KEY_TILE / KEY_GROUP];
    const Element* next[KEY_TILE / KEY_GROUP];
    const float* key_scales[KEY_TILE / KEY_GROUP];  // of 16 tokens; only where the type has them
    const float* value_scales[KEY_TILE / KEY_GROUP];

    TileOf(const AttentionBlock& b, size_t start_, Range seen) : start(start_) {
        const size_t last = end_key(static_cast<size_t>(b.positions[b.num_tokens - 1]), b.ahead, b.num_keys) - 1;
        for (size_t g = seen.first / KEY_GROUP; g * KEY_GROUP < seen.last; ++g) {
            const size_t position = start + g * KEY_GROUP, later = position + KEY_TILE;
            keys[g] = b.cache.template keys<Element>(b.table, position, b.kv_head);
            values[g] = b.cache.template value<Element>(b.table, position, b.kv_head);
            next[g] = b.cache.template keys<Element>(b.table, later <= last ? later : position, b.kv_head);
            if constexpr (KV::SCALED) {
                key_scales[g] = b.cache.key_scales(b.table, position, b.kv_head);
                value_scales[g] = b.cache.value_scales(b.table, position, b.kv_head);
            }
        }
    }
};

// Dimensions begin … end - 1 of a tile's values: of key k they lie at groups[k / 16] + k % 16 * stride.
// `next`: groups as large that are read after these.
template <class Reader>
struct ValueSlice {
    const typename Reader::Element* const* groups;
    const typename Reader::Element* const* next;
    size_t stride, begin, end;
};

// Scores of ROWS rows against GROUPS times 16 keys: lane i is key i, a chain over the head's dimensions.
// q: [dim][ROWS]. `next`: groups that are read after these.
template <class Reader, int ROWS, int GROUPS>
HEADRACE_INLINE void score(const float* q, size_t dim, const typename Reader::Element* const* keys,
                           const typename Reader::Element* const* next, float* scores) {
    f32x16 lanes[ROWS][GROUPS];
    const typename Reader::Element* group[GROUPS];
#pragma GCC unroll 4
    for (int g = 0; g < GROUPS; ++g) {
        group[g] = keys[g];
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) lanes[r][g] = zero();
    }
    for (size_t d = 0; d < dim; ++d, q += ROWS) {
        f32x16 key[GROUPS];
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; ++g) {
            key[g] = Reader::get(group[g] + d * KEY_GROUP);
            if constexpr (prefetches<Reader>) __builtin_prefetch(next[g] + d * KEY_GROUP);
        }
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; ++g) lanes[r][g] = fma(set1(q[r]), key[g], lanes[r][g]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; ++g) store(scores + r * KEY_TILE + g * KEY_GROUP, lanes[r][g]);
}

// Groups first … end - 1 of the tile, GROUPS at a time, the rest in smaller steps.
template <class Reader, int ROWS, int GROUPS>
void score_groups(const float* q, size_t dim, const typename Reader::Element* const* keys,
                  const typename Reader::Element* const* next, size_t first, size_t end, float* scores) {
    for (; first + GROUPS <= end; first += GROUPS)
        score<Reader, ROWS, GROUPS>(q, dim, keys + first, next + first, scores + first * KEY_GROUP);
    if constexpr (GROUPS > 1) score_groups<Reader, ROWS, GROUPS / 2>(q, dim, keys, next, first, end, scores);
}

// VECTORS times 16 dimensions, `at` behind the slice's first: add weight * value of each key in order to ROWS rows.
template <class Reader, int ROWS, int VECTORS>
HEADRACE_INLINE void add(const float* weights, const ValueSlice<Reader>& slice, size_t at, Range keys, float* sums,
                         size_t stride) {
    f32x16 lanes[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) lanes[r][v] = load(sums + r * stride + v * LANES);
    for (size_t k = keys.first; k < keys.last;) {
        const size_t group = k / KEY_GROUP, group_end = (group + 1) * KEY_GROUP;
        const size_t last = group_end < keys.last ? group_end : keys.last;
        const size_t offset = k % KEY_GROUP * slice.stride + at;
        const auto *value = slice.groups[group] + offset, *next = slice.next[group] + offset;
        for (; k < last; ++k, value += slice.stride, next += slice.stride) {
            if constexpr (prefetches<Reader>)
#pragma GCC unroll 8
                for (size_t i = 0; i < VECTORS * LANES; i += 64 / sizeof(*next)) __builtin_prefetch(next + i);
            f32x16 sixteen[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sixteen[v] = Reader::get(value + v * LANES);
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v)
                    lanes[r][v] = fma(set1(weights[r * KEY_TILE + k]), sixteen[v], lanes[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) store(sums + r * stride + v * LANES, lanes[r][v]);
}

// All dimensions of the slice from `at` on. sums: of the rows' dimension 0, stride floats apart.
template <class Reader, int ROWS, int VECTORS>
void add_values(const float* weights, const ValueSlice<Reader>& slice, Range keys, float* sums, size_t stride,
                size_t at = 0) {
    const size_t dims = slice.end - slice.begin;
    for (; at + VECTORS * LANES <= dims; at += VECTORS * LANES)
        add<Reader, ROWS, VECTORS>(weights, slice, at, keys, sums + slice.begin + at, stride);
    if constexpr (VECTORS > 1)
        if (at < dims) add_values<Reader, ROWS, VECTORS / 2>(weights, slice, keys, sums, stride, at);
}

// Groups first … end - 1 of the tile's keys as floats.
template <class KV>
void widen_keys(const TileOf<KV>& tile, size_t first, size_t end, size_t dim, float* wide, const float** keys) {
    for (size_t g = first; g < end; ++g, wide += dim * KEY_GROUP) {
        keys[g] = wide;
        for (size_t i = 0; i < dim * KEY_GROUP; i += LANES) store(wide + i, KV::get(tile.keys[g] + i));
    }
}

// Dimensions begin … end - 1 of the seen keys' values as floats: [KEY_TILE][SLICE * LANES].
template <class KV>
void widen_values(const TileOf<KV>& tile, Range seen, size_t begin, size_t end, size_t stride, float* wide,
                  const float** values) {
    constexpr size_t WIDTH = SLICE * LANES;
    for (size_t g = 0; g < KEY_TILE / KEY_GROUP; ++g) values[g] = wide + g * KEY_GROUP * WIDTH;
    for (size_t k = seen.first; k < seen.last; ++k) {
        const auto* value = tile.values[k / KEY_GROUP] + k % KEY_GROUP * stride;
        for (size_t d = begin; d < end; d += LANES) store(wide + k * WIDTH + d - begin, KV::get(value + d));
    }
}

}  // namespace
}  // namespace headrace
