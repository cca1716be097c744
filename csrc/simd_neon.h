// The f32x16 of simd.h for arm64: four vectors of four floats. Included by simd.h only, inside its namespaces.

struct f32x16 {
    float32x4_t part[4];
};

HEADRACE_INLINE f32x16 load(const float* p) { HEADRACE_EACH(vld1q_f32(p + 4 * i)); }
HEADRACE_INLINE void store(float* p, f32x16 a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.part[i]);
}
HEADRACE_INLINE f32x16 load_part(const float* p, int n) {
    float padded[16] = {};
    std::memcpy(padded, p, sizeof(float) * static_cast<size_t>(n));
    return load(padded);
}
HEADRACE_INLINE void store_part(float* p, f32x16 a, int n) {
    float padded[16];
    store(padded, a);
    std::memcpy(p, padded, sizeof(float) * static_cast<size_t>(n));
}
HEADRACE_INLINE f32x16 set1(float x) { HEADRACE_EACH(vdupq_n_f32(x)); }
HEADRACE_INLINE f32x16 operator+(f32x16 a, f32x16 b) { HEADRACE_EACH(vaddq_f32(a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 operator-(f32x16 a, f32x16 b) { HEADRACE_EACH(vsubq_f32(a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 operator*(f32x16 a, f32x16 b) { HEADRACE_EACH(vmulq_f32(a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 operator/(f32x16 a, f32x16 b) { HEADRACE_EACH(vdivq_f32(a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { HEADRACE_EACH(vfmaq_f32(c.part[i], a.part[i], b.part[i])); }
// Not vminq and vmaxq: of two lanes of which one is NaN these give NaN, and of zeros the negative or the positive one.
HEADRACE_INLINE float32x4_t greater(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
HEADRACE_INLINE f32x16 where_less(f32x16 x, f32x16 y, f32x16 a, f32x16 b) {
    HEADRACE_EACH(vbslq_f32(vcltq_f32(x.part[i], y.part[i]), a.part[i], b.part[i]));
}
HEADRACE_INLINE f32x16 min(f32x16 a, f32x16 b) { return where_less(a, b, a, b); }
HEADRACE_INLINE f32x16 max(f32x16 a, f32x16 b) { HEADRACE_EACH(greater(a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 abs(f32x16 a) { HEADRACE_EACH(vabsq_f32(a.part[i])); }
HEADRACE_INLINE f32x16 with_sign_of(f32x16 magnitude, f32x16 sign) {
    HEADRACE_EACH(vbslq_f32(vdupq_n_u32(0x80000000u), sign.part[i], magnitude.part[i]));
}
HEADRACE_INLINE f32x16 round(f32x16 a) { HEADRACE_EACH(vrndnq_f32(a.part[i])); }
HEADRACE_INLINE f32x16 power_of_two(f32x16 n) {
    HEADRACE_EACH(vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.part[i]), vdupq_n_s32(127)), 23)));
}
HEADRACE_INLINE f32x16 from_f16(const uint16_t* p) {
    HEADRACE_EACH(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
HEADRACE_INLINE void to_f16(uint16_t* p, f32x16 a) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.part[i])));
}
HEADRACE_INLINE f32x16 from_bf16(const uint16_t* p) {
    HEADRACE_EACH(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
HEADRACE_INLINE f32x16 from_i8(i8x16 v) {
    const int8x16_t bytes = reinterpret_cast<int8x16_t>(v);
    const int16x8_t halves[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)};
    HEADRACE_EACH(vcvtq_f32_s32(vmovl_s16(i % 2 ? vget_high_s16(halves[i / 2]) : vget_low_s16(halves[i / 2]))));
}
HEADRACE_INLINE void to_i8(int8_t* p, f32x16 a) {
    for (int half = 0; half < 2; ++half) {
        const int16x4_t low = vmovn_s32(vcvtq_s32_f32(a.part[2 * half])), high = vmovn_s32(vcvtq_s32_f32(a.part[2 * half + 1]));
        vst1_s8(p + 8 * half, vmovn_s16(vcombine_s16(low, high)));
    }
}
// The first 8 lanes with the last 8, then 4 with 4.
HEADRACE_INLINE float32x4_t sum_of_four(f32x16 a) {
    return vaddq_f32(vaddq_f32(a.part[0], a.part[2]), vaddq_f32(a.part[1], a.part[3]));
}
HEADRACE_INLINE float32x4_t greatest_of_four(f32x16 a) {
    return greater(greater(a.part[0], a.part[2]), greater(a.part[1], a.part[3]));
}
