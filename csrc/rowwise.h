// Norms, activations, rope and the other operations that work on one row at a time.
#pragma once

#include "cache_types.h"
#include "kernels.h"
#include "vector_math.h"

namespace headrace {
namespace {

// f(i, lanes in use) for each 16 of n.
template <class Step>
HEADRACE_INLINE void each16(size_t n, Step step) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) step(i, LANES);
    if (i < n) step(i, static_cast<int>(n - i));
}

// 1 / sqrt(mean(x²) + eps)
HEADRACE_INLINE float inverse_rms(const float* x, size_t n, float eps) {
    f32x16 squares = zero();
    each16(n, [&](size_t i, int lanes) {
        const f32x16 v = load16(x + i, lanes);
        squares = fma(v, v, squares);
    });
    return 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps);
}

// The first n lanes; zero in the others.
HEADRACE_INLINE f32x16 first_of(f32x16 v, int n) {
    float lanes[LANES];
    if (n == LANES) return v;
    store(lanes, v);
    return load_part(lanes, n);
}

struct Moments {
    float mean, inverse_deviation;
};
HEADRACE_INLINE Moments moments(const float* x, size_t n, float eps) {
    f32x16 total = zero();
    each16(n, [&](size_t i, int lanes) { total = total + load16(x + i, lanes); });
    const float mean = sum(total) / static_cast<float>(n);
    f32x16 squares = zero();
    each16(n, [&](size_t i, int lanes) {
        const f32x16 v = load16(x + i, lanes) - first_of(set1(mean), lanes);
        squares = fma(v, v, squares);
    });
    return {mean, 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps)};
}

void norm(const NormWeights& norm, const float* x, const float* add, size_t n, float* out) {
    Moments m = {0.0f, 0.0f};
    if (norm.kind == NormId::layer) m = moments(x, n, norm.eps);
    else m.inverse_deviation = inverse_rms(x, n, norm.eps);
    each16(n, [&](size_t i, int lanes) {
        f32x16 y = (load16(x + i, lanes) - set1(m.mean)) * set1(m.inverse_deviation) * load16(norm.weight + i, lanes);
        if (norm.bias) y = y + load16(norm.bias + i, lanes);
        if (add) y = y + load16(add + i, lanes);
        store16(out + i, y, lanes);
    });
}

template <f32x16 (*function)(f32x16)>
void activate_with(const float* x, const float* factor, size_t n, float* out) {
    each16(n, [&](size_t i, int lanes) {
        f32x16 y = function(load16(x + i, lanes));
        if (factor) y = y * load16(factor + i, lanes);
        store16(out + i, y, lanes);
    });
}

void activate(ActivationId kind, const float* x, const float* factor, size_t n, float* out) {
    switch (kind) {
        case ActivationId::silu: return activate_with<silu>(x, factor, n, out);
        case ActivationId::gelu: return activate_with<gelu>(x, factor, n, out);
        case ActivationId::gelu_tanh: return activate_with<gelu_tanh>(x, factor, n, out);
        case ActivationId::relu: return activate_with<relu>(x, factor, n, out);
    }
}

void scale_add(const float* x, float scale, const float* add, size_t n, float* out) {
    each16(n, [&](size_t i, int lanes) {
        f32x16 y = load16(x + i, lanes) * set1(scale);
        if (add) y = y + load16(add + i, lanes);
        store16(out + i, y, lanes);
    });
}

void softcap(const float* x, float cap, size_t n, float* out) {
    each16(n, [&](size_t i, int lanes) {
        store16(out + i, set1(cap) * tanh(load16(x + i, lanes) / set1(cap)), lanes);
    });
}

float largest_of(const float* x, size_t n) {
    f32x16 highest = set1(-__builtin_huge_valf());
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) highest = max(load(x + i), highest);
    float best = largest(highest);
    for (; i < n; ++i) best = x[i] > best ? x[i] : best;
    return best;
}

void exp_below(const float* x, float highest, size_t n, float* out) {
    const f32x16 top = set1(highest);
    each16(n, [&](size_t i, int lanes) {
        const f32x16 v = load16(x + i, lanes);
        // Where v equals the top (both may be infinite) neither comparison holds, and exp(0) is 1.
        const f32x16 below = where_less(v, top, v - top, zero());
        const f32x16 number = where_less(v, set1(__builtin_huge_valf()), set1(1.0f), zero());
        const f32x16 infinite = where_less(set1(__FLT_MAX__), v, set1(1.0f), zero());
        store16(out + i, exp(below) * max(number, infinite), lanes);
    });
}

// Rotate dimension i with i + half, as the reference does: two products and one sum, each rounded.
HEADRACE_INLINE void rotate(float* head, const RopeToken& token) {
    each16(token.half, [&](size_t i, int lanes) {
        const f32x16 first = load16(head + i, lanes), second = load16(head + i + token.half, lanes);
        const f32x16 cos = load16(token.cos + i, lanes), sin = load16(token.sin + i, lanes);
        store16(head + i, first * cos - second * sin, lanes);
        store16(head + i + token.half, second * cos + first * sin, lanes);
    });
}

HEADRACE_INLINE void norm_heads(float* x, size_t heads, size_t dim, const float* weight, const RopeToken& token) {
    if (token.norm == QkNormId::none) return;
    const bool full = token.norm == QkNormId::full;
    const size_t rows = full ? 1 : heads, n = full ? heads * dim : dim;
    for (size_t row = 0; row < rows; ++row) {
        const float inverse = inverse_rms(x + row * n, n, token.eps);
        float* of_row = x + row * n;
        each16(n, [&](size_t i, int lanes) {
            store16(of_row + i, load16(of_row + i, lanes) * set1(inverse) * load16(weight + i, lanes), lanes);
        });
    }
}

// Asks for the lines that `write_key` will touch: each holds one number of it only.
template <class KV>
void prefetch_keys(const RopeToken& token) {
    using Element = typename KV::Element;
    for (size_t head = 0; head < token.cache.num_kv_heads; ++head) {
        const Element* keys = token.cache.keys<Element>(token.table, token.position / KEY_GROUP * KEY_GROUP, head);
        for (size_t i = 0; i < token.cache.head_dim * KEY_GROUP; i += 64 / sizeof(Element)) __builtin_prefetch(keys + i, 1);
    }
}

template <class KV>
void write_key(const RopeToken& token, const float* key, size_t kv_head) {
    using Element = typename KV::Element;
    const size_t dim = token.cache.head_dim, lane = token.position % KEY_GROUP;
    Element* keys = token.cache.keys<Element>(token.table, token.position - lane, kv_head) + lane;
    each16(dim, [&](size_t d, int lanes) {
        Element sixteen[LANES];
        KV::put(sixteen, load16(key + d, lanes));
        for (int i = 0; i < lanes; ++i) keys[(d + static_cast<size_t>(i)) * KEY_GROUP] = sixteen[i];
    });
}

// Values are padded to whole vectors with zeros.
template <class KV>
void write_value(const RopeToken& token, const float* value, size_t kv_head) {
    auto* out = token.cache.value<typename KV::Element>(token.table, token.position, kv_head);
    each16(token.cache.head_dim, [&](size_t d, int lanes) { KV::put(out + d, load16(value + d, lanes)); });
}

// Turns a head into whole numbers from -127 to 127; returns what they are to be multiplied with. NaN and infinity make
// that NaN, and the numbers zero.
HEADRACE_INLINE float quantize_head(float* x, size_t dim) {
    f32x16 top = zero(), nothing = zero();
    each16(dim, [&](size_t i, int lanes) {
        const f32x16 v = load16(x + i, lanes);
        top = max(abs(v), top);
        nothing = fma(v, zero(), nothing);
    });
    const float most = largest(top), check = sum(nothing);
    const bool is_finite = check == 0.0f;
    const f32x16 inverse = set1(is_finite && most >= 1e-36f ? 127.0f / most : 0.0f);
    each16(dim, [&](size_t i, int lanes) {
        store16(x + i, is_finite ? round(load16(x + i, lanes) * inverse) : zero(), lanes);
    });
    return is_finite ? most * (1.0f / 127.0f) : check;
}

template <class KV>
void write_heads(const RopeToken& token, float* k, float* v) {
    const CacheView& cache = token.cache;
    for (size_t head = 0; head < cache.num_kv_heads; ++head, k += cache.head_dim, v += cache.head_dim) {
        if constexpr (KV::SCALED) {
            hadamard(k, cache.head_dim);
            hadamard(v, cache.head_dim);
            *cache.key_scales(token.table, token.position, head) = quantize_head(k, cache.head_dim);
            *cache.value_scales(token.table, token.position, head) = quantize_head(v, cache.head_dim);
        }
        write_key<KV>(token, k, head);
        write_value<KV>(token, v, head);
    }
}

void rope_write(const RopeToken& token) {
    const size_t dim = token.cache.head_dim, kv_heads = token.cache.num_kv_heads;
    float* q = token.qkv;
    float* k = q + token.num_heads * dim;
    float* v = k + kv_heads * dim;
    for_cache(token.cache.type, [&]<class KV>() { prefetch_keys<KV>(token); });
    norm_heads(q, token.num_heads, dim, token.q_weight, token);
    norm_heads(k, kv_heads, dim, token.k_weight, token);
    if (token.cos)
        for (size_t head = 0; head < token.num_heads + kv_heads; ++head) rotate(q + head * dim, token);
    std::memcpy(token.q_out, q, token.num_heads * dim * sizeof(float));
    for_cache(token.cache.type, [&]<class KV>() { write_heads<KV>(token, k, v); });
}

}  // namespace
}  // namespace headrace
