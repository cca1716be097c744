// How kernels read a panel of a codec of blocks: quants of 16 rows and four columns at a time, and their scales.
#pragma once

#include "panels.h"
#include "readers.h"
#include "simd_integer.h"

namespace headrace {
namespace {

HEADRACE_INLINE f32x16 halves_at(const uint8_t* p) {
    uint16_t halves[PANEL_ROWS];
    std::memcpy(halves, p, sizeof(halves));
    return from_f16(halves);
}
HEADRACE_INLINE f32x16 bytes_at(const uint8_t* p) { return to_float(load_bytes(p)); }  // signed

template <CodecId ID>
struct PanelReader {
    static constexpr QuantForm FORM = quant_form<ID>();

    // Where block `b` of 32 columns starts; `super_at` says where the block of 256 that it lies in starts.
    HEADRACE_INLINE const uint8_t* block_at(const uint8_t* panel, size_t b) {
        const size_t supers = FORM.is_super() ? b / (SUPER_BLOCK / QUANT_BLOCK) + 1 : 0;
        return panel + b * FORM.block_bytes() + supers * FORM.super_bytes();
    }
    HEADRACE_INLINE const uint8_t* super_at(const uint8_t* block, size_t b) {
        return block - b % (SUPER_BLOCK / QUANT_BLOCK) * FORM.block_bytes() - FORM.super_bytes();
    }

    template <int WIDTH, int J>
    HEADRACE_INLINE u8x64 field(const uint8_t* plane) {
        return bits_of<WIDTH * (J / WIDTH), (1 << WIDTH) - 1>(load_64(plane + J % WIDTH * 64));
    }
    // Columns 4 J … 4 J + 3 of a block: weight / scale + offset, as bytes.
    template <int J>
    HEADRACE_INLINE u8x64 quants(const uint8_t* block) {
        const uint8_t* plane = block + FORM.scale_bytes();
        if constexpr (FORM.bits == 8) return load_64(plane + J * 64);
        if constexpr (FORM.bits == 4 && FORM.table) {
            u8x16 table;
            std::memcpy(&table, quant_table<ID>(), 16);
            return lookup_64(table, field<4, J>(plane));
        }
        if constexpr (FORM.bits == 4) return field<4, J>(plane);
        if constexpr (FORM.bits == 5) return field<4, J>(plane) | raised<4>(field<1, J>(plane + 256));
        if constexpr (FORM.bits == 6) return field<4, J>(plane) | raised<4>(field<2, J>(plane + 256));
        if constexpr (FORM.bits == 2) return field<2, J>(plane);
        if constexpr (FORM.bits == 3) return field<2, J>(plane) | raised<2>(field<1, J>(plane + 128));
    }

    // The scale of group `g` of block `b`: 16 rows.
    HEADRACE_INLINE f32x16 scale(const uint8_t* block, size_t b, size_t g) {
        if constexpr (FORM.scales == ScaleForm::exponent) {
            float scales[PANEL_ROWS];
            for (size_t row = 0; row < PANEL_ROWS; ++row) scales[row] = half_of_e8m0(block[row]);
            return load(scales);
        }
        if constexpr (!FORM.is_super()) return halves_at(block);
        const u8x16 bytes = load_bytes(block + g * PANEL_ROWS);
        return halves_at(super_at(block, b)) *
               to_float(FORM.scales == ScaleForm::super_nibbles ? bits_of(bytes, 0, 15) : bytes);
    }
    // What is added to each value of the group; only where the form has minima.
    HEADRACE_INLINE f32x16 min(const uint8_t* block, size_t b, size_t g) {
        if constexpr (FORM.scales == ScaleForm::half_min) return halves_at(block + 32);
        const f32x16 wide = zero() - halves_at(super_at(block, b) + 32);
        if constexpr (FORM.scales == ScaleForm::super_nibbles)
            return wide * to_float(bits_of(load_bytes(block + g * PANEL_ROWS), 4, 15));
        return wide * bytes_at(block + (FORM.groups() + g) * PANEL_ROWS);
    }

    // All 32 columns of block `b`, exactly: out[column][16 rows].
    static void decode(const uint8_t* block, size_t b, float* out) { decode_from<0>(block, b, out); }

private:
    template <int J>
    HEADRACE_INLINE void decode_from(const uint8_t* block, size_t b, float* out) {
        const u8x64 q = quants<J>(block);
        const size_t g = J * 4 / FORM.group;
        const f32x16 d = scale(block, b, g), offset = set1(static_cast<float>(FORM.offset));
        const f32x16 four[4] = {byte_to_float<0>(q), byte_to_float<1>(q), byte_to_float<2>(q), byte_to_float<3>(q)};
        for (int i = 0; i < 4; ++i) {
            f32x16 value = (four[i] - offset) * d;
            if constexpr (FORM.has_min()) value = value + min(block, b, g);
            store(out + (J * 4 + i) * LANES, value);
        }
        if constexpr (J < 7) decode_from<J + 1>(block, b, out);
    }
};

}  // namespace
}  // namespace headrace
