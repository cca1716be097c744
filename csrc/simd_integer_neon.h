// The integer vectors of simd_integer.h for arm64. Included by it only, inside its namespaces.

struct u8x64 {
    uint8x16_t part[4];
};
struct i32x16 {
    int32x4_t part[4];
};
HEADRACE_INLINE u8x64 load_64(const uint8_t* p) { return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}}; }
HEADRACE_INLINE u8x64 operator|(u8x64 a, u8x64 b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vorrq_u8(a.part[i], b.part[i]);
    return a;
}
template <int SHIFT, int MASK>
HEADRACE_INLINE u8x64 bits_of(u8x64 a) {
    for (int i = 0; i < 4; ++i) {
        if constexpr (SHIFT > 0) a.part[i] = vshrq_n_u8(a.part[i], SHIFT);
        if constexpr (MASK != 255 >> SHIFT) a.part[i] = vandq_u8(a.part[i], vdupq_n_u8(MASK));
    }
    return a;
}
template <int SHIFT>
HEADRACE_INLINE u8x64 raised(u8x64 a) {
    for (int i = 0; i < 4; ++i) a.part[i] = vshlq_n_u8(a.part[i], SHIFT);
    return a;
}
HEADRACE_INLINE u8x64 lookup_64(u8x16 table, u8x64 index) {
    for (int i = 0; i < 4; ++i) index.part[i] = vqtbl1q_u8(reinterpret_cast<uint8x16_t>(table), index.part[i]);
    return index;
}
HEADRACE_INLINE i32x16 set1_i32(int32_t x) {
    const int32x4_t four = vdupq_n_s32(x);
    return {{four, four, four, four}};
}
template <int SHIFT>
HEADRACE_INLINE i32x16 shifted_left(i32x16 a) {
    for (int i = 0; i < 4; ++i) a.part[i] = vshlq_n_s32(a.part[i], SHIFT);
    return a;
}
HEADRACE_INLINE f32x16 to_float(i32x16 a) {
    f32x16 out;
    for (int i = 0; i < 4; ++i) out.part[i] = vcvtq_f32_s32(a.part[i]);
    return out;
}
template <int BYTE>
HEADRACE_INLINE f32x16 byte_to_float(u8x64 a) {
    f32x16 out;
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t words = vshlq_n_u32(vreinterpretq_u32_u8(a.part[i]), 24 - 8 * BYTE);
        out.part[i] = vcvtq_f32_u32(vshrq_n_u32(words, 24));
    }
    return out;
}

HEADRACE_INLINE int8x16_t four_in_every_word(const int8_t* four) {
    int32_t bits;
    std::memcpy(&bits, four, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}

// sums + the products of four bytes of each row. Without i8mm weights are taken as signed: at most 128 * 127 in magnitude,
// two of which fit 16 bits.
HEADRACE_INLINE int32x4_t dot(int32x4_t sums, uint8x16_t weights, int8x16_t x) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_s32(sums, weights, x);
#elif defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sums, vreinterpretq_s8_u8(weights), x);
#else
    const int8x16_t w = vreinterpretq_s8_u8(weights);
    return vpadalq_s16(sums, vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)));
#endif
}
