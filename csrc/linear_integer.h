// Matrix times rows in integers: weights of a codec of blocks, activations of 8 bits for each 32 columns of a token.
//
// An output is a fixed sequence: for each group of 32 columns (16, where weights have a scale for so many) in ascending
// order, an exact sum of products of bytes is multiplied by the product of the weights' and the activations' scale and
// added, fused. A block's minima come after its sums, times the activations' sum. Tiles and strips only say which outputs
// are computed side by side. arXiv:2004.09602 describes the arithmetic, not this layout.
#pragma once

#include "linear_output.h"
#include "panel_readers.h"

namespace headrace {
namespace {

// Quantises 32 floats. NaN and infinity make the scale NaN.
HEADRACE_INLINE void quantize_block(const float* x, QuantizedBlock& out) {
    f32x16 low = load(x), high = load(x + LANES);
    const float most = largest(max(abs(low), abs(high)));
    const f32x16 inverse = set1(most < 1e-36f ? 0.0f : 127.0f / most);
    low = round(low * inverse);
    high = round(high * inverse);
    float low_sum = sum(low), high_sum = sum(high);  // whole and small, so exact; NaN if x has a NaN or an infinity
    out.scale = most * (1.0f / 127.0f);
    if (!(low_sum + high_sum == low_sum + high_sum)) {
        out.scale = low_sum + high_sum;
        low = high = zero();
        low_sum = high_sum = 0.0f;
    }
    to_i8(out.values, low);
    to_i8(out.values + LANES, high);
    out.minus_low_sum = -static_cast<int32_t>(low_sum);
    out.minus_high_sum = -static_cast<int32_t>(high_sum);
    out.minus_sum = out.minus_low_sum + out.minus_high_sum;
    out.scaled_sum = out.scale * (low_sum + high_sum);
}

void quantize_row(const float* x, size_t columns, QuantizedBlock* out, size_t stride) {
    for (size_t b = 0; b < columns / QUANT_BLOCK; ++b) quantize_block(x + b * QUANT_BLOCK, out[b * stride]);
}

// Adds columns 4 J … of a group to the sums of TOKENS tokens.
template <CodecId ID, int TOKENS, int J, int END>
HEADRACE_INLINE void add_group(const uint8_t* block, const QuantizedBlock* x, i32x16 (&sums)[TOKENS]) {
    const u8x64 weights = PanelReader<ID>::template quants<J>(block);
#pragma GCC unroll 16
    for (int t = 0; t < TOKENS; ++t) Dot<PanelReader<ID>::FORM.offset>::add(sums[t], weights, x[t].values + 4 * J);
    if constexpr (J + 1 < END) add_group<ID, TOKENS, J + 1, END>(block, x, sums);
}

template <CodecId ID, int TOKENS>
HEADRACE_INLINE void add_block(const uint8_t* block, size_t b, const QuantizedBlock* x, f32x16 (&out)[TOKENS]) {
    using Reader = PanelReader<ID>;
    constexpr QuantForm form = Reader::FORM;
    using D = Dot<form.offset>;
    i32x16 sums[TOKENS];
    if constexpr (form.group == QUANT_BLOCK) {
        for (int t = 0; t < TOKENS; ++t) sums[t] = D::start(x[t].minus_sum);
        add_group<ID, TOKENS, 0, 8>(block, x, sums);
        const f32x16 d = Reader::scale(block, b, 0);
        for (int t = 0; t < TOKENS; ++t) out[t] = fma(d * set1(x[t].scale), to_float(sums[t]), out[t]);
    } else {
        for (int t = 0; t < TOKENS; ++t) sums[t] = D::start(x[t].minus_low_sum);
        add_group<ID, TOKENS, 0, 4>(block, x, sums);
        const f32x16 low = Reader::scale(block, b, 0);
        for (int t = 0; t < TOKENS; ++t) {
            out[t] = fma(low * set1(x[t].scale), to_float(sums[t]), out[t]);
            sums[t] = D::start(x[t].minus_high_sum);
        }
        add_group<ID, TOKENS, 4, 8>(block, x, sums);
        const f32x16 high = Reader::scale(block, b, 1);
        for (int t = 0; t < TOKENS; ++t) out[t] = fma(high * set1(x[t].scale), to_float(sums[t]), out[t]);
    }
    if constexpr (form.has_min() && form.group == QUANT_BLOCK) {
        const f32x16 m = Reader::min(block, b, 0);
        for (int t = 0; t < TOKENS; ++t) out[t] = fma(m, set1(x[t].scaled_sum), out[t]);
    } else if constexpr (form.has_min()) {
        const f32x16 low = Reader::min(block, b, 0), high = Reader::min(block, b, 1);
        for (int t = 0; t < TOKENS; ++t) {
            const float high_sum = x[t].scale * static_cast<float>(-x[t].minus_high_sum);
            out[t] = fma(low, set1(x[t].scaled_sum - high_sum), out[t]);
            out[t] = fma(high, set1(high_sum), out[t]);
        }
    }
}

constexpr size_t PREFETCH_BYTES = 2048;  // ahead of what is read from memory

// One panel times TOKENS tokens from `token` on, which lie side by side at `x` in a strip of `strip` tokens.
template <CodecId ID, int TOKENS>
void integer_tile(const LinearBlock& b, size_t row, size_t token, const QuantizedBlock* x, size_t strip) {
    constexpr QuantForm form = PanelReader<ID>::FORM;
    f32x16 out[TOKENS];
#pragma GCC unroll 16
    for (int t = 0; t < TOKENS; ++t) out[t] = zero();
    const uint8_t* block = b.panels + row / PANEL_ROWS * b.panel_bytes;
    for (size_t k = 0; k < b.columns / QUANT_BLOCK; ++k) {
        if (form.is_super() && k % (SUPER_BLOCK / QUANT_BLOCK) == 0) block += form.super_bytes();
        for (size_t line = 0; line < form.block_bytes(); line += 64) __builtin_prefetch(block + PREFETCH_BYTES + line);
        add_block<ID, TOKENS>(block, k, x + k * strip, out);
        block += form.block_bytes();
    }
#pragma GCC unroll 16
    for (int t = 0; t < TOKENS; ++t) write_output(b, row, token + static_cast<size_t>(t), out[t]);
}

template <CodecId ID, int TOKENS>
HEADRACE_INLINE void integer_tiles(const LinearBlock& b, size_t row, size_t first, size_t strip, size_t& t) {
    for (; t + TOKENS <= strip; t += TOKENS)
        integer_tile<ID, TOKENS>(b, row, first + t, b.quantized + first * (b.columns / QUANT_BLOCK) + t, strip);
}

template <CodecId ID>
void integer_panels(const LinearBlock& b) {
    for (size_t first = 0; first < b.num_tokens; first += STRIP_TOKENS) {
        const size_t strip = b.num_tokens - first < STRIP_TOKENS ? b.num_tokens - first : STRIP_TOKENS;
        for (size_t row = 0; row < b.num_rows; row += PANEL_ROWS) {
            size_t t = 0;
#if defined(__AVX512F__)
            integer_tiles<ID, 12>(b, row, first, strip, t);
            integer_tiles<ID, 8>(b, row, first, strip, t);
            integer_tiles<ID, 4>(b, row, first, strip, t);
            integer_tiles<ID, 3>(b, row, first, strip, t);
#endif
            integer_tiles<ID, 2>(b, row, first, strip, t);
            integer_tiles<ID, 1>(b, row, first, strip, t);
        }
    }
}

}  // namespace
}  // namespace headrace
