// exp, exp2, tanh, erf of 16 lanes and the activations made of them; errors below 3e-7 relative (tanh, erf: of values near 1
// absolute). The polynomials are minimax fits (Lawson's iteration on Chebyshev nodes) made for this file.
#pragma once

#include "simd.h"

namespace headrace {
namespace {

// e^x; 0 below -104, infinity above 89, NaN for NaN. Reduced by Cody and Waite's two-part ln 2.
HEADRACE_INLINE f32x16 exp(f32x16 x) {
    x = max(set1(-104.0f), min(set1(89.0f), x));
    const f32x16 n = round(x * set1(1.44269504088896f));
    f32x16 r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    f32x16 p = set1(0.0013950599823147058f);
    p = fma(p, r, set1(0.008368954062461853f));
    p = fma(p, r, set1(0.04166620597243309f));
    p = fma(p, r, set1(0.166665181517601f));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r * r, r) + set1(1.0f);
    const f32x16 half = round(n * set1(0.5f));  // two factors: 2^n alone leaves float32's range at both ends
    return (p * power_of_two(half)) * power_of_two(n - half);
}

// 2^x for x up to 0, exact at whole numbers; 0 below -126 (no subnormals, which cost microcode on some machines).
HEADRACE_INLINE f32x16 exp2(f32x16 x) {
    const f32x16 n = round(x), r = x - n;
    f32x16 p = set1(0.001326472731307149f);
    p = fma(p, r, set1(0.009671512991189957f));
    p = fma(p, r, set1(0.05550733581185341f));
    p = fma(p, r, set1(0.24022242426872253f));
    p = fma(p, r, set1(0.6931470036506653f));
    p = fma(p, r, set1(1.0f));
    return where_less(x, set1(-126.0f), zero(), p * power_of_two(n));
}

HEADRACE_INLINE f32x16 tanh(f32x16 x) {
    const f32x16 a = abs(x), z = x * x;
    f32x16 p = set1(-0.005528624635189772f);
    p = fma(p, z, set1(0.02048330567777157f));
    p = fma(p, z, set1(-0.05369296297430992f));
    p = fma(p, z, set1(0.1333089917898178f));
    p = fma(p, z, set1(-0.3333326280117035f));
    const f32x16 small = fma(p * z, x, x);
    const f32x16 large = set1(1.0f) - set1(2.0f) / (exp(a + a) + set1(1.0f));
    return where_less(a, set1(0.65f), small, with_sign_of(large, x));
}

// Below 1: x * P(x²). From there: 1 - e^(-x²) * Q(1 / (1 + x/2)).
HEADRACE_INLINE f32x16 erf(f32x16 x) {
    const f32x16 a = abs(x), z = x * x;
    f32x16 p = set1(-9.680136827228125e-06f);
    p = fma(p, z, set1(0.00011270544200669974f));
    p = fma(p, z, set1(-0.00084847112884745f));
    p = fma(p, z, set1(0.005221074912697077f));
    p = fma(p, z, set1(-0.02686544507741928f));
    p = fma(p, z, set1(0.11283782869577408f));
    p = fma(p, z, set1(-0.37612637877464294f));
    p = fma(p, z, set1(1.128379225730896f));
    const f32x16 t = set1(1.0f) / fma(a, set1(0.5f), set1(1.0f));
    f32x16 q = set1(0.11662916094064713f);
    q = fma(q, t, set1(-0.45970505475997925f));
    q = fma(q, t, set1(0.5426665544509888f));
    q = fma(q, t, set1(-0.08330341428518295f));
    q = fma(q, t, set1(0.3359069228172302f));
    q = fma(q, t, set1(0.26382988691329956f));
    q = fma(q, t, set1(0.2841184139251709f));
    q = fma(q, t, set1(-8.950542542152107e-05f));
    const f32x16 large = set1(1.0f) - exp(zero() - z) * q;
    return where_less(a, set1(1.0f), p * x, with_sign_of(large, x));
}

HEADRACE_INLINE f32x16 silu(f32x16 x) { return x / (set1(1.0f) + exp(zero() - x)); }
HEADRACE_INLINE f32x16 relu(f32x16 x) { return max(zero(), x); }
HEADRACE_INLINE f32x16 gelu(f32x16 x) {
    return (set1(0.5f) * x) * (set1(1.0f) + erf(x * set1(0.707106781186547524f)));
}
HEADRACE_INLINE f32x16 gelu_tanh(f32x16 x) {
    const f32x16 inner = set1(0.797884560802865356f) * fma((x * x) * x, set1(0.044715f), x);
    return (set1(0.5f) * x) * (set1(1.0f) + tanh(inner));
}

}  // namespace
}  // namespace headrace
