// Paged attention with an online softmax over tiles of KEY_TILE keys, begun anew at every KEY_SPAN keys, both aligned
// at absolute positions; the spans' sums are merged in order of position. A row (one query head of one token) goes
// through its own keys in this order, whatever other rows share the loads and whoever computes the spans.
//
// Scores are in units of log 2: the queries are multiplied once by scale * log2(e), and exponentials are powers of two.
#pragma once

#include <type_traits>

#include "attention_tiles.h"

namespace headrace {
namespace {

constexpr float LOG2_E = 1.44269504088896f;

// One call's rows and scratch.
struct Piece {
    const AttentionBlock& b;
    size_t rows, row_floats;
    float* wide;         // a slice of keys or values as floats
    float* scores;       // [rows][KEY_TILE]: scores, then their exponentials
    float* q;            // register tile by register tile, [head_dim][rows of the tile], scaled
    int32_t* positions;  // [rows]
};

// What a row at `position` sees of the tile that begins at `start`.
HEADRACE_INLINE Range visible(const AttentionBlock& b, int32_t position_of_row, size_t start) {
    const size_t position = static_cast<size_t>(position_of_row), from = first_key(position, b.window);
    const size_t end = end_key(position, b.ahead, b.num_keys);
    const size_t first = from > start ? from - start : 0, last = end < start ? 0 : end - start;
    return {first < KEY_TILE ? first : KEY_TILE, last < KEY_TILE ? last : KEY_TILE};
}

// Rows are in order of position: the first sees the earliest keys, the last the latest.
HEADRACE_INLINE Range seen_by_any(const Piece& p, size_t row, size_t rows, size_t start) {
    return {visible(p.b, p.positions[row], start).first, visible(p.b, p.positions[row + rows - 1], start).last};
}
HEADRACE_INLINE Range seen_by_all(const Piece& p, size_t row, size_t rows, size_t start) {
    return {visible(p.b, p.positions[row + rows - 1], start).first, visible(p.b, p.positions[row], start).last};
}

template <int ROWS, int... FEWER, class Call>
HEADRACE_INLINE size_t call_with_rows(size_t left, const Call& call) {
    if constexpr (ROWS <= MAX_ROWS)
        if (left >= ROWS) return call(std::integral_constant<int, ROWS>{}), ROWS;
    if constexpr (sizeof...(FEWER) > 0) return call_with_rows<FEWER...>(left, call);
    return 1;
}

// call(first row, number of rows as a type) for each register tile.
template <class Call>
HEADRACE_INLINE void each_row_tile(size_t rows, const Call& call) {
    for (size_t row = 0; row < rows;)
        row += call_with_rows<12, 8, 6, 4, 3, 2, 1>(rows - row, [&](auto count) { call(row, count); });
}

void pack_queries(const Piece& p) {
    const AttentionBlock& b = p.b;
    const size_t dim = b.cache.head_dim;
    const bool is_mixed = b.cache.type == KVType::q8;
    const float unit = is_mixed ? 1.0f / static_cast<float>(hadamard_size(dim)) : 1.0f;  // a power of two
    const float factor = (b.softcap > 0 ? b.scale / b.softcap : b.scale * LOG2_E) * unit;
    each_row_tile(p.rows, [&](size_t row, auto count) {
        for (int r = 0; r < count; ++r) {
            const size_t token = (row + r) / b.group;
            const float* q = b.q + token * b.stride + (row + r) % b.group * dim;
            if (is_mixed) {
                std::memcpy(p.wide, q, dim * sizeof(float));
                hadamard(p.wide, dim);
                q = p.wide;
            }
            p.positions[row + r] = b.positions[token];
            for (size_t d = 0; d < dim; ++d) p.q[row * dim + d * count + r] = q[d] * factor;
        }
    });
}

// The tile's scores: straight from the cache for one register tile, else from slices turned into floats for all rows.
template <class KV>
void score_tile(const Piece& p, const TileOf<KV>& tile, Range all) {
    const size_t dim = p.b.cache.head_dim, end = (all.last + KEY_GROUP - 1) / KEY_GROUP;
    if (p.rows <= MAX_ROWS) {
        return each_row_tile(p.rows, [&](size_t row, auto count) {
            score_groups<KV, count, score_groups_of(count)>(p.q + row * dim, dim, tile.keys, tile.values,
                                                            all.first / KEY_GROUP, end, p.scores + row * KEY_TILE);
        });
    }
    for (size_t g = all.first / KEY_GROUP; g < end; g += SLICE) {
        const size_t slice_end = g + SLICE < end ? g + SLICE : end;
        const float* keys[KEY_TILE / KEY_GROUP];
        widen_keys<KV>(tile, g, slice_end, dim, p.wide, keys);
        each_row_tile(p.rows, [&](size_t row, auto count) {
            const Range seen = seen_by_any(p, row, count, tile.start);
            if (seen.first >= slice_end * KEY_GROUP || seen.last <= g * KEY_GROUP) return;
            score_groups<Widened, count, SLICE>(p.q + row * dim, dim, keys, keys, g, slice_end,
                                                p.scores + row * KEY_TILE);
        });
    }
}

// Scale, cap and mask one row's scores, turn them into exponentials below the new maximum, add these up, and make them
// the weights of the values.
template <class KV>
void soften(const Piece& p, const TileOf<KV>& tile, size_t row, Range seen, float* state) {
    alignas(64) static constexpr float INDEX[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float* scores = p.scores + row * KEY_TILE;
    float* sums = state + p.b.cache.padded_dim;
    float* highest_so_far = sums + LANES;
    const f32x16 never = set1(MINUS_INFINITY), first = set1(static_cast<float>(seen.first));
    const f32x16 last = set1(static_cast<float>(seen.last));
    f32x16 highest = never;
    const size_t begin = seen.first / KEY_GROUP * KEY_GROUP;
    for (size_t k = begin; k < seen.last; k += KEY_GROUP) {
        f32x16 s = load(scores + k);
        if constexpr (KV::SCALED) s = s * load(tile.key_scales[k / KEY_GROUP]);
        if (p.b.softcap > 0) s = set1(p.b.softcap * LOG2_E) * tanh(s);
        if (k < seen.first || k + KEY_GROUP > seen.last) {
            const f32x16 index = load(INDEX) + set1(static_cast<float>(k));
            s = where_less(index, first, never, where_less(index, last, s, never));
        }
        store(scores + k, s);
        highest = max(s, highest);
    }
    const float before = *highest_so_far, tile_highest = largest(highest);
    const float now = tile_highest > before ? tile_highest : before;
    if (now != before) {  // else the factor is 1
        const f32x16 factor = exp2(set1(before - now));
        for (float* v = state; v <= sums; v += LANES) store(v, load(v) * factor);
        *highest_so_far = now;
    }
    f32x16 total = load(sums);
    for (size_t k = begin; k < seen.last; k += KEY_GROUP) {
        const f32x16 e = exp2(load(scores + k) - set1(now));
        if constexpr (KV::SCALED) store(scores + k, e * load(tile.value_scales[k / KEY_GROUP]));
        else store(scores + k, e);
        total = total + e;
    }
    store(sums, total);
}

// exponential * value of each key that a row of the register tile sees, in order: keys that all see are added for all
// rows at once, the others row by row, since a zero times what a row must not see may be NaN.
template <class Reader, int ROWS, int VECTORS>
void add_seen(const Piece& p, size_t row, size_t start, const ValueSlice<Reader>& slice, float* states) {
    const float* weights = p.scores + row * KEY_TILE;
    float* state = states + row * p.row_floats;
    const Range all = seen_by_all(p, row, ROWS, start);
    const bool shared = all.first < all.last;
    const auto add_alone = [&](size_t r, size_t first, size_t last) {
        if (first < last)
            add_values<Reader, 1, VECTORS>(weights + r * KEY_TILE, slice, {first, last}, state + r * p.row_floats, 0);
    };
    for (size_t r = 0; ROWS > 1 && r < ROWS; ++r) {
        const Range seen = visible(p.b, p.positions[row + r], start);
        add_alone(r, seen.first, shared ? all.first : seen.last);
    }
    if (shared) add_values<Reader, ROWS, VECTORS>(weights, slice, all, state, p.row_floats);
    for (size_t r = 0; ROWS > 1 && shared && r < ROWS; ++r)
        add_alone(r, all.last, visible(p.b, p.positions[row + r], start).last);
}

template <class KV>
void add_tile(const Piece& p, const TileOf<KV>& tile, Range all, float* states) {
    const size_t dim = p.b.cache.padded_dim;
    if (p.rows <= MAX_ROWS) {
        return each_row_tile(p.rows, [&](size_t row, auto count) {
            add_seen<KV, count, value_vectors_of(count)>(p, row, tile.start, {tile.values, tile.next, dim, 0, dim},
                                                         states);
        });
    }
    for (size_t d = 0; d < dim; d += SLICE * LANES) {
        const size_t end = d + SLICE * LANES < dim ? d + SLICE * LANES : dim;
        const float* values[KEY_TILE / KEY_GROUP];
        widen_values<KV>(tile, all, d, end, dim, p.wide, values);
        each_row_tile(p.rows, [&](size_t row, auto count) {
            add_seen<Widened, count, SLICE>(p, row, tile.start, {values, values, SLICE * LANES, d, end}, states);
        });
    }
}

template <class KV>
void attend_tile(const Piece& p, size_t start, float* states) {
    const Range all = seen_by_any(p, 0, p.rows, start);
    if (all.first >= all.last) return;
    const TileOf<KV> tile(p.b, start, all);
    score_tile<KV>(p, tile, all);
    for (size_t row = 0; row < p.rows; ++row) {
        const Range seen = visible(p.b, p.positions[row], start);
        if (seen.first < seen.last) soften<KV>(p, tile, row, seen, states + row * p.row_floats);
    }
    add_tile<KV>(p, tile, all, states);
}

// states: [rows][row_floats]
template <class KV>
void attend_span(const Piece& p, size_t span, float* states) {
    for (size_t row = 0; row < p.rows; ++row) {
        float* state = states + row * p.row_floats;
        std::memset(state, 0, p.row_floats * sizeof(float));
        state[p.b.cache.padded_dim + LANES] = MINUS_INFINITY;
    }
    for (size_t tile = 0; tile < KEY_SPAN; tile += KEY_TILE) attend_tile<KV>(p, span * KEY_SPAN + tile, states);
}

HEADRACE_INLINE size_t first_span_of(const Piece& p, size_t row) {
    return first_key(static_cast<size_t>(p.positions[row]), p.b.window) / KEY_SPAN;
}
HEADRACE_INLINE size_t last_span_of(const Piece& p, size_t row) {
    return (end_key(static_cast<size_t>(p.positions[row]), p.b.ahead, p.b.num_keys) - 1) / KEY_SPAN;
}

// Take a span into the rows that see it: the first that a row sees is taken as it is.
void merge_span(const Piece& p, size_t span, const float* partials, float* totals) {
    const size_t highest = p.row_floats - LANES;
    for (size_t row = 0; row < p.rows; ++row) {
        const float* partial = partials + row * p.row_floats;
        float* total = totals + row * p.row_floats;
        if (span < first_span_of(p, row) || span > last_span_of(p, row)) continue;
        if (span == first_span_of(p, row)) {
            std::memcpy(total, partial, p.row_floats * sizeof(float));
            continue;
        }
        const float before = total[highest], other = partial[highest], now = before > other ? before : other;
        const f32x16 keep = exp2(set1(before - now)), take = exp2(set1(other - now));
        for (size_t i = 0; i < highest; i += LANES)
            store(total + i, fma(load(partial + i), take, load(total + i) * keep));
        total[highest] = now;
    }
}

void write_rows(const Piece& p, const float* totals) {
    const size_t dim = p.b.cache.head_dim;
    for (size_t row = 0; row < p.rows; ++row) {
        const float* values = totals + row * p.row_floats;
        float* out = p.b.out + row / p.b.group * p.b.stride + row % p.b.group * dim;
        const f32x16 total = set1(sum(load(values + p.b.cache.padded_dim)));
        for (size_t d = 0; d < dim; d += LANES)
            store_part(out + d, load(values + d) / total, dim - d < LANES ? static_cast<int>(dim - d) : LANES);
        if (p.b.cache.type != KVType::q8) continue;
        hadamard(out, dim);
        const f32x16 unit = set1(1.0f / static_cast<float>(hadamard_size(dim)));
        for (size_t d = 0; d + LANES <= dim; d += LANES) store(out + d, load(out + d) * unit);
    }
}

template <class KV>
void attend(const Piece& p, float* totals, float* states) {
    if (p.b.partials) {
        for (size_t span = p.b.first_span; span < p.b.end_span; ++span)
            attend_span<KV>(p, span, p.b.partials + (span - p.b.first_span) * p.rows * p.row_floats);
        return;
    }
    attend_span<KV>(p, p.b.first_span, totals);
    for (size_t span = p.b.first_span + 1; span < p.b.end_span; ++span) {
        attend_span<KV>(p, span, states);
        merge_span(p, span, states, totals);
    }
    write_rows(p, totals);
}

// totals and states follow the other parts of the scratch.
Piece piece_of(const AttentionBlock& b) {
    const size_t rows = b.num_tokens * b.group;
    float* scores = b.scratch + wide_floats(b.cache.head_dim);
    float* q = scores + rows * (KEY_TILE + 2 * attention_row_floats(b.cache.padded_dim));
    int32_t* positions = reinterpret_cast<int32_t*>(q + rows * b.cache.head_dim);
    return {b, rows, attention_row_floats(b.cache.padded_dim), b.scratch, scores, q, positions};
}

void attention(const AttentionBlock& b) {
    const Piece p = piece_of(b);
    float* totals = p.scores + p.rows * KEY_TILE;
    float* states = totals + p.rows * p.row_floats;
    pack_queries(p);
    for_cache(b.cache.type, [&]<class KV>() { attend<KV>(p, totals, states); });
}

void merge_attention(const AttentionBlock& b) {
    const Piece p = piece_of(b);
    float* totals = p.scores + p.rows * KEY_TILE;
    for (size_t row = 0; row < p.rows; ++row) p.positions[row] = b.positions[row / b.group];
    for (size_t span = b.first_span; span < b.end_span; ++span)
        merge_span(p, span, b.partials + (span - b.first_span) * p.rows * p.row_floats, totals);
    write_rows(p, totals);
}

}  // namespace
}  // namespace headrace
