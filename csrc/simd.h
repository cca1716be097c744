// A vector of 16 floats, the same to its user on every instruction set.
//
// The number of lanes and the order of every reduction are fixed, so a kernel written with it gives the same bits with
// AVX2, AVX-512 and NEON. Without a fused multiply-add (the x86-64 baseline) `fma` rounds twice.
//
// Included only by kernels_*.cpp: all of it has internal linkage, since each of those is compiled for another machine.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define HEADRACE_INLINE static inline __attribute__((always_inline))

namespace headrace {
namespace {

constexpr int LANES = 16;

typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

HEADRACE_INLINE u8x16 load_bytes(const uint8_t* from) {
    u8x16 v;
    std::memcpy(&v, from, 16);
    return v;
}

#if defined(__AVX512F__)

struct f32x16 {
    __m512 v;
};
HEADRACE_INLINE __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
HEADRACE_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
HEADRACE_INLINE f32x16 load_part(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
HEADRACE_INLINE void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
HEADRACE_INLINE void store_part(float* p, f32x16 a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
HEADRACE_INLINE f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
HEADRACE_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
HEADRACE_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
HEADRACE_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
HEADRACE_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
HEADRACE_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Of two lanes of which one is NaN, min and max give the second.
HEADRACE_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
HEADRACE_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
HEADRACE_INLINE f32x16 abs(f32x16 a) { return {_mm512_abs_ps(a.v)}; }
HEADRACE_INLINE f32x16 with_sign_of(f32x16 magnitude, f32x16 sign) {
    const __m512i bit = _mm512_set1_epi32(INT32_MIN);
    const __m512i m = _mm512_andnot_epi32(bit, _mm512_castps_si512(magnitude.v));
    return {_mm512_castsi512_ps(_mm512_or_epi32(m, _mm512_and_epi32(bit, _mm512_castps_si512(sign.v))))};
}
HEADRACE_INLINE f32x16 round(f32x16 a) { return {_mm512_roundscale_ps(a.v, 0)}; }
// less ? a : b, where less says x < y; false if either is NaN.
HEADRACE_INLINE f32x16 where_less(f32x16 x, f32x16 y, f32x16 a, f32x16 b) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v)};
}
// 2^n for whole n from -126 to 127.
HEADRACE_INLINE f32x16 power_of_two(f32x16 n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
HEADRACE_INLINE f32x16 from_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HEADRACE_INLINE void to_f16(uint16_t* p, f32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
HEADRACE_INLINE f32x16 from_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
HEADRACE_INLINE f32x16 from_i8(i8x16 v) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(v)))};
}
// Whole numbers from -128 to 127.
HEADRACE_INLINE void to_i8(int8_t* p, f32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct f32x16 {
    __m256 lo, hi;
};
HEADRACE_INLINE f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HEADRACE_INLINE f32x16 load_part(const float* p, int n) {
    alignas(32) float padded[16] = {};
    std::memcpy(padded, p, sizeof(float) * static_cast<size_t>(n));
    return load(padded);
}
HEADRACE_INLINE void store(float* p, f32x16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
HEADRACE_INLINE void store_part(float* p, f32x16 a, int n) {
    alignas(32) float padded[16];
    store(padded, a);
    std::memcpy(p, padded, sizeof(float) * static_cast<size_t>(n));
}
HEADRACE_INLINE f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HEADRACE_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
HEADRACE_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
HEADRACE_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
HEADRACE_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
HEADRACE_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
HEADRACE_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
HEADRACE_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
HEADRACE_INLINE f32x16 abs(f32x16 a) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(bit, a.lo), _mm256_andnot_ps(bit, a.hi)};
}
HEADRACE_INLINE f32x16 with_sign_of(f32x16 magnitude, f32x16 sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    const f32x16 m = abs(magnitude);
    return {_mm256_or_ps(m.lo, _mm256_and_ps(bit, sign.lo)), _mm256_or_ps(m.hi, _mm256_and_ps(bit, sign.hi))};
}
HEADRACE_INLINE f32x16 round(f32x16 a) { return {_mm256_round_ps(a.lo, 0), _mm256_round_ps(a.hi, 0)}; }
HEADRACE_INLINE f32x16 where_less(f32x16 x, f32x16 y, f32x16 a, f32x16 b) {
    return {_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(x.lo, y.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(x.hi, y.hi, _CMP_LT_OQ))};
}
HEADRACE_INLINE __m256 power_of_two_half(__m256 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
HEADRACE_INLINE f32x16 power_of_two(f32x16 n) { return {power_of_two_half(n.lo), power_of_two_half(n.hi)}; }
HEADRACE_INLINE f32x16 from_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
HEADRACE_INLINE void to_f16(uint16_t* p, f32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
HEADRACE_INLINE __m256 from_bf16_half(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
HEADRACE_INLINE f32x16 from_bf16(const uint16_t* p) { return {from_bf16_half(p), from_bf16_half(p + 8)}; }
HEADRACE_INLINE f32x16 from_i8(i8x16 v) {
    const __m128i bytes = reinterpret_cast<__m128i>(v);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
}
HEADRACE_INLINE __m128i to_i16_half(__m256 a) {
    const __m256i words = _mm256_cvtps_epi32(a);
    return _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
HEADRACE_INLINE void to_i8(int8_t* p, f32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(to_i16_half(a.lo), to_i16_half(a.hi)));
}

#else

// Four vectors of four floats, each from an expression of its index i.
#define HEADRACE_EACH(expression)                               \
    do {                                                        \
        f32x16 out;                                             \
        for (int i = 0; i < 4; ++i) out.part[i] = (expression); \
        return out;                                             \
    } while (0)
#if defined(__aarch64__)
#include "simd_neon.h"
#else
#include "simd_generic.h"
#endif
#undef HEADRACE_EACH

#endif

// The first n lanes, from 1 to 16; zero in the others.
HEADRACE_INLINE f32x16 load16(const float* p, int n) { return n == LANES ? load(p) : load_part(p, n); }
HEADRACE_INLINE void store16(float* p, f32x16 a, int n) { n == LANES ? store(p, a) : store_part(p, a, n); }

// table[index] for each byte; indices below 16.
HEADRACE_INLINE u8x16 lookup(u8x16 table, u8x16 index) {
#if defined(__SSSE3__)
    return reinterpret_cast<u8x16>(_mm_shuffle_epi8(reinterpret_cast<__m128i>(table), reinterpret_cast<__m128i>(index)));
#elif defined(__aarch64__)
    return reinterpret_cast<u8x16>(vqtbl1q_u8(reinterpret_cast<uint8x16_t>(table), reinterpret_cast<uint8x16_t>(index)));
#else
    u8x16 out;
    for (int i = 0; i < 16; ++i) out[i] = table[index[i]];
    return out;
#endif
}

// ((l0 + l8) + (l4 + l12)) + … : a tree that halves the vector four times, the same on every instruction set.
HEADRACE_INLINE float sum(f32x16 a) {
#if defined(__AVX512F__) || defined(__AVX2__)
#if defined(__AVX512F__)
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
#else
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
#endif
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#elif defined(__aarch64__)
    const float32x4_t four = sum_of_four(a);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
#else
    float v[16];
    store(v, a);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) v[i] = v[i] + v[i + width];
    return v[0];
#endif
}

// The largest lane; lanes must not be NaN.
HEADRACE_INLINE float largest(f32x16 a) {
#if defined(__AVX512F__) || defined(__AVX2__)
#if defined(__AVX512F__)
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
#else
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
#endif
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#elif defined(__aarch64__)
    return vmaxvq_f32(greatest_of_four(a));
#else
    float v[16];
    store(v, a);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) v[i] = v[i] > v[i + width] ? v[i] : v[i + width];
    return v[0];
#endif
}

HEADRACE_INLINE f32x16 zero() { return set1(0.0f); }

}  // namespace
}  // namespace headrace
