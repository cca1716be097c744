// 64 unsigned bytes and 16 sums of 32 bits: the integer side of simd.h. Everything here is exact, so every instruction
// set gives the same.
#pragma once

#include "simd.h"

namespace headrace {
namespace {

#if defined(__AVX512F__)

struct u8x64 {
    __m512i v;
};
struct i32x16 {
    __m512i v;
};
HEADRACE_INLINE u8x64 load_64(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
HEADRACE_INLINE u8x64 operator|(u8x64 a, u8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
// (byte >> SHIFT) & MASK; whatever a neighbour shifts in is masked away.
template <int SHIFT, int MASK>
HEADRACE_INLINE u8x64 bits_of(u8x64 a) {
    return {_mm512_and_si512(SHIFT ? _mm512_srli_epi16(a.v, SHIFT) : a.v, _mm512_set1_epi8(MASK))};
}
// byte << SHIFT for bytes that stay below 256.
template <int SHIFT>
HEADRACE_INLINE u8x64 raised(u8x64 a) {
    return {_mm512_slli_epi16(a.v, SHIFT)};
}
HEADRACE_INLINE u8x64 lookup_64(u8x16 table, u8x64 index) {
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(reinterpret_cast<__m128i>(table)), index.v)};
}
HEADRACE_INLINE i32x16 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
template <int SHIFT>
HEADRACE_INLINE i32x16 shifted_left(i32x16 a) {
    return {_mm512_slli_epi32(a.v, SHIFT)};
}
HEADRACE_INLINE f32x16 to_float(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
// Byte BYTE of each group of four, as a float.
template <int BYTE>
HEADRACE_INLINE f32x16 byte_to_float(u8x64 a) {
    const __m512i shifted = BYTE ? _mm512_srli_epi32(a.v, 8 * BYTE) : a.v;
    return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)))};
}

#elif defined(__AVX2__)

struct u8x64 {
    __m256i lo, hi;
};
struct i32x16 {
    __m256i lo, hi;
};
HEADRACE_INLINE __m256i load_32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
HEADRACE_INLINE u8x64 load_64(const uint8_t* p) { return {load_32(p), load_32(p + 32)}; }
HEADRACE_INLINE u8x64 operator|(u8x64 a, u8x64 b) {
    return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
template <int SHIFT, int MASK>
HEADRACE_INLINE u8x64 bits_of(u8x64 a) {
    const __m256i mask = _mm256_set1_epi8(MASK);
    return {_mm256_and_si256(SHIFT ? _mm256_srli_epi16(a.lo, SHIFT) : a.lo, mask),
            _mm256_and_si256(SHIFT ? _mm256_srli_epi16(a.hi, SHIFT) : a.hi, mask)};
}
template <int SHIFT>
HEADRACE_INLINE u8x64 raised(u8x64 a) {
    return {_mm256_slli_epi16(a.lo, SHIFT), _mm256_slli_epi16(a.hi, SHIFT)};
}
HEADRACE_INLINE u8x64 lookup_64(u8x16 table, u8x64 index) {
    const __m256i both = _mm256_broadcastsi128_si256(reinterpret_cast<__m128i>(table));
    return {_mm256_shuffle_epi8(both, index.lo), _mm256_shuffle_epi8(both, index.hi)};
}
HEADRACE_INLINE i32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
template <int SHIFT>
HEADRACE_INLINE i32x16 shifted_left(i32x16 a) {
    return {_mm256_slli_epi32(a.lo, SHIFT), _mm256_slli_epi32(a.hi, SHIFT)};
}
HEADRACE_INLINE f32x16 to_float(i32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
template <int BYTE>
HEADRACE_INLINE f32x16 byte_to_float(u8x64 a) {
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(a.lo, 8 * BYTE), mask)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(a.hi, 8 * BYTE), mask))};
}

#elif defined(__aarch64__)
#include "simd_integer_neon.h"
#else

struct u8x64 {
    u8x16 part[4];
};
struct i32x16 {
    i32x4 part[4];
};
HEADRACE_INLINE u8x64 load_64(const uint8_t* p) {
    return {{load_bytes(p), load_bytes(p + 16), load_bytes(p + 32), load_bytes(p + 48)}};
}
HEADRACE_INLINE u8x64 operator|(u8x64 a, u8x64 b) {
    for (int i = 0; i < 4; ++i) a.part[i] |= b.part[i];
    return a;
}
template <int SHIFT, int MASK>
HEADRACE_INLINE u8x64 bits_of(u8x64 a) {
    for (int i = 0; i < 4; ++i) a.part[i] = (a.part[i] >> SHIFT) & static_cast<uint8_t>(MASK);
    return a;
}
template <int SHIFT>
HEADRACE_INLINE u8x64 raised(u8x64 a) {
    for (int i = 0; i < 4; ++i) a.part[i] = a.part[i] << SHIFT;
    return a;
}
HEADRACE_INLINE u8x64 lookup_64(u8x16 table, u8x64 index) {
    for (int i = 0; i < 4; ++i) index.part[i] = lookup(table, index.part[i]);
    return index;
}
HEADRACE_INLINE i32x16 set1_i32(int32_t x) {
    const i32x4 four = {x, x, x, x};
    return {{four, four, four, four}};
}
template <int SHIFT>
HEADRACE_INLINE i32x16 shifted_left(i32x16 a) {
    for (int i = 0; i < 4; ++i) a.part[i] = a.part[i] << SHIFT;
    return a;
}
HEADRACE_INLINE f32x16 to_float(i32x16 a) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(a.part[i / 4][i % 4]);
    return load(values);
}
template <int BYTE>
HEADRACE_INLINE f32x16 byte_to_float(u8x64 a) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(a.part[i / 4][i % 4 * 4 + BYTE]);
    return load(values);
}

#endif

// Whether one instruction multiplies unsigned weights by signed activations without a limit on the products.
#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool MIXED_SIGNS = true;
#else
constexpr bool MIXED_SIGNS = false;
#endif

// How a group's sums start and grow: lane r gets Σ (weight - OFFSET) * activation over four weights of row r at a time.
//
// `weights` are unsigned bytes, `minus_sum` is -Σ activations of the whole group, activations are from -127 to 127.
// OFFSET is a power of two (or 0); with an OFFSET below 128, weights are below 128 too.
template <int OFFSET>
struct Dot {
    // Weights become signed bytes: two products of up to 128 * 127 fit 16 bits.
    static constexpr bool SIGNED = OFFSET == 128 && !MIXED_SIGNS;

    static constexpr int shift() {
        int bits = 0;
        while ((1 << bits) < OFFSET) ++bits;
        return bits;
    }
    HEADRACE_INLINE i32x16 start(int32_t minus_sum) {
        return OFFSET && !SIGNED ? shifted_left<shift()>(set1_i32(minus_sum)) : set1_i32(0);
    }
#if defined(__AVX512VNNI__)
    HEADRACE_INLINE void add(i32x16& sums, u8x64 weights, const int8_t* four) {
        int32_t bits;
        std::memcpy(&bits, four, 4);
        sums.v = _mm512_dpbusd_epi32(sums.v, weights.v, _mm512_set1_epi32(bits));
    }
#elif defined(__AVX512F__)
    HEADRACE_INLINE void add(i32x16& sums, u8x64 weights, const int8_t* four) {
        int32_t bits;
        std::memcpy(&bits, four, 4);
        __m512i x = _mm512_set1_epi32(bits), w = weights.v;
        if (SIGNED) {
            w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
            x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
            w = _mm512_abs_epi8(w);
        }
        const __m512i pairs = _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1));
        sums.v = _mm512_add_epi32(sums.v, pairs);
    }
#elif defined(__AVX2__)
    HEADRACE_INLINE __m256i products(__m256i w, __m256i x) {
        if (SIGNED) {
            w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            x = _mm256_sign_epi8(x, w);
            w = _mm256_abs_epi8(w);
        }
        return _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
    }
    HEADRACE_INLINE void add(i32x16& sums, u8x64 weights, const int8_t* four) {
        int32_t bits;
        std::memcpy(&bits, four, 4);
        const __m256i x = _mm256_set1_epi32(bits);
        sums.lo = _mm256_add_epi32(sums.lo, products(weights.lo, x));
        sums.hi = _mm256_add_epi32(sums.hi, products(weights.hi, x));
    }
#elif defined(__aarch64__)
    HEADRACE_INLINE void add(i32x16& sums, u8x64 weights, const int8_t* four) {
        const int8x16_t x = four_in_every_word(four);
        for (int i = 0; i < 4; ++i) {
            const uint8x16_t w = SIGNED ? veorq_u8(weights.part[i], vdupq_n_u8(128)) : weights.part[i];
            sums.part[i] = dot(sums.part[i], w, x);
        }
    }
#else
    HEADRACE_INLINE void add(i32x16& sums, u8x64 weights, const int8_t* four) {
        for (int row = 0; row < 16; ++row)
            for (int i = 0; i < 4; ++i) {
                const int weight = weights.part[row / 4][row % 4 * 4 + i] - (SIGNED ? 128 : 0);
                sums.part[row / 4][row % 4] += weight * four[i];
            }
    }
#endif
};

}  // namespace
}  // namespace headrace
