// How the cache's elements become lanes and back. A further type is a further struct here.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace headrace {
namespace {

struct CacheF16 {
    using Element = uint16_t;
    static constexpr bool SCALED = false;
    HEADRACE_INLINE f32x16 get(const Element* p) { return from_f16(p); }
    HEADRACE_INLINE void put(Element* p, f32x16 lanes) { to_f16(p, lanes); }
};

struct CacheF32 {
    using Element = float;
    static constexpr bool SCALED = false;
    HEADRACE_INLINE f32x16 get(const Element* p) { return load(p); }
    HEADRACE_INLINE void put(Element* p, f32x16 lanes) { store(p, lanes); }
};

// Whole numbers from -127 to 127; a token's scale is multiplied into its score and into its weight.
struct CacheQ8 {
    using Element = int8_t;
    static constexpr bool SCALED = true;
    HEADRACE_INLINE f32x16 get(const Element* p) {
        i8x16 bytes;
        std::memcpy(&bytes, p, sizeof(bytes));
        return from_i8(bytes);
    }
    HEADRACE_INLINE void put(Element* p, f32x16 lanes) { to_i8(p, lanes); }
};

// How many numbers, 16 apart, `hadamard` mixes: the largest power of two that divides a head's whole vectors.
constexpr size_t hadamard_size(size_t dim) {
    const size_t vectors = dim % LANES ? 1 : dim / LANES;
    return vectors & (~vectors + 1);
}

// A Walsh-Hadamard transform over numbers 16 apart, so that a dimension far larger than the others does not take their
// bits (arXiv:2404.00456). Twice is a factor of hadamard_size: queries and keys go through it alike, which leaves their
// products as they were; values go through it when they are written, and their sums once more.
HEADRACE_INLINE void hadamard(float* x, size_t dim) {
    const size_t size = hadamard_size(dim);
    for (size_t from = 0; from < dim; from += size * LANES)
        for (size_t half = 1; half < size; half *= 2)
            for (size_t i = 0; i < size; ++i) {
                if (i & half) continue;
                float *low = x + from + i * LANES, *high = low + half * LANES;
                const f32x16 a = load(low), b = load(high);
                store(low, a + b);
                store(high, a - b);
            }
}

// Calls visit<KV>() for the type.
template <class Visit>
HEADRACE_INLINE void for_cache(KVType type, const Visit& visit) {
    switch (type) {
        case KVType::f16: return visit.template operator()<CacheF16>();
        case KVType::f32: return visit.template operator()<CacheF32>();
        case KVType::q8: return visit.template operator()<CacheQ8>();
    }
}

}  // namespace
}  // namespace headrace
