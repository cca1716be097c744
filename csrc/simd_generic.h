// The f32x16 of simd.h for x86-64 without AVX2 and any other processor: four vectors of four floats in the compilers' own
// vector types.
// Included by simd.h only, inside its namespaces.

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

struct f32x16 {
    f32x4 part[4];
};

HEADRACE_INLINE f32x16 load(const float* p) {
    f32x16 out;
    std::memcpy(&out, p, sizeof(out));
    return out;
}
HEADRACE_INLINE f32x16 load_part(const float* p, int n) {
    f32x16 out = {};
    std::memcpy(&out, p, sizeof(float) * static_cast<size_t>(n));
    return out;
}
HEADRACE_INLINE void store(float* p, f32x16 a) { std::memcpy(p, &a, sizeof(a)); }
HEADRACE_INLINE void store_part(float* p, f32x16 a, int n) { std::memcpy(p, &a, sizeof(float) * static_cast<size_t>(n)); }
HEADRACE_INLINE f32x16 set1(float x) { HEADRACE_EACH((f32x4{x, x, x, x})); }
HEADRACE_INLINE f32x16 operator+(f32x16 a, f32x16 b) { HEADRACE_EACH(a.part[i] + b.part[i]); }
HEADRACE_INLINE f32x16 operator-(f32x16 a, f32x16 b) { HEADRACE_EACH(a.part[i] - b.part[i]); }
HEADRACE_INLINE f32x16 operator*(f32x16 a, f32x16 b) { HEADRACE_EACH(a.part[i] * b.part[i]); }
HEADRACE_INLINE f32x16 operator/(f32x16 a, f32x16 b) { HEADRACE_EACH(a.part[i] / b.part[i]); }
HEADRACE_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    HEADRACE_EACH(a.part[i] * b.part[i] + c.part[i]);
}

HEADRACE_INLINE f32x4 blend(i32x4 mask, f32x4 a, f32x4 b) {
    return reinterpret_cast<f32x4>((mask & reinterpret_cast<i32x4>(a)) | (~mask & reinterpret_cast<i32x4>(b)));
}
HEADRACE_INLINE f32x16 min(f32x16 a, f32x16 b) { HEADRACE_EACH(blend(a.part[i] < b.part[i], a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 max(f32x16 a, f32x16 b) { HEADRACE_EACH(blend(a.part[i] > b.part[i], a.part[i], b.part[i])); }
HEADRACE_INLINE f32x16 where_less(f32x16 x, f32x16 y, f32x16 a, f32x16 b) {
    HEADRACE_EACH(blend(x.part[i] < y.part[i], a.part[i], b.part[i]));
}
HEADRACE_INLINE f32x16 abs(f32x16 a) {
    HEADRACE_EACH(reinterpret_cast<f32x4>(reinterpret_cast<i32x4>(a.part[i]) & INT32_MAX));
}
HEADRACE_INLINE f32x16 with_sign_of(f32x16 magnitude, f32x16 sign) {
    HEADRACE_EACH(reinterpret_cast<f32x4>((reinterpret_cast<i32x4>(magnitude.part[i]) & INT32_MAX) |
                                          (reinterpret_cast<i32x4>(sign.part[i]) & INT32_MIN)));
}
// Adding and taking away 1.5 * 2^23 leaves the nearest whole number (ties to even) of anything below 2^22.
HEADRACE_INLINE f32x16 round(f32x16 a) { HEADRACE_EACH((a.part[i] + 12582912.0f) - 12582912.0f); }
HEADRACE_INLINE f32x16 power_of_two(f32x16 n) {
    HEADRACE_EACH(reinterpret_cast<f32x4>((reinterpret_cast<i32x4>(n.part[i] + 12582912.0f) - (0x4B400000 - 127)) << 23));
}

// Four 16-bit patterns, widened to 32 bits.
HEADRACE_INLINE i32x4 widened(const uint16_t* p) {
    typedef uint16_t u16x4 __attribute__((vector_size(8)));
    u16x4 four;
    std::memcpy(&four, p, sizeof(four));
    return __builtin_convertvector(four, i32x4);
}
HEADRACE_INLINE f32x4 float_of_half(const uint16_t* p) {
    // Exponent and mantissa in float32's places, times 2^112: right for subnormals too, and wrong only for infinity and
    // NaN, whose exponent must be all ones.
    const i32x4 bits = widened(p), magnitude = (bits & 0x7FFF) << 13;
    const f32x4 scaled = reinterpret_cast<f32x4>(magnitude) * 0x1p112f;
    const i32x4 special = (bits & 0x7C00) == 0x7C00;
    const f32x4 value = blend(special, reinterpret_cast<f32x4>(magnitude | 0x7F800000), scaled);
    return reinterpret_cast<f32x4>(reinterpret_cast<i32x4>(value) | (bits & 0x8000) << 16);
}
HEADRACE_INLINE f32x16 from_f16(const uint16_t* p) { HEADRACE_EACH(float_of_half(p + 4 * i)); }
HEADRACE_INLINE uint16_t half_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
    if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7C00u);
    if (magnitude < 0x38800000u) {  // subnormal in float16: let the addition of 0.5 round at the right bit
        float value;
        std::memcpy(&value, &magnitude, 4);
        value = value + 0.5f;
        uint32_t rounded;
        std::memcpy(&rounded, &value, 4);
        return static_cast<uint16_t>(sign | (rounded - 0x3F000000u));
    }
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13));
}
HEADRACE_INLINE void to_f16(uint16_t* p, f32x16 a) {
    float values[16];
    store(values, a);
    for (int i = 0; i < 16; ++i) p[i] = half_of(values[i]);
}
HEADRACE_INLINE f32x16 from_bf16(const uint16_t* p) {
    HEADRACE_EACH(reinterpret_cast<f32x4>(widened(p + 4 * i) << 16));
}
HEADRACE_INLINE f32x16 from_i8(i8x16 v) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(v[i]);
    return load(values);
}
HEADRACE_INLINE void to_i8(int8_t* p, f32x16 a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.part[i / 4][i % 4]);
}
