// Packed weights: panels of 16 rows, in which one load feeds 16 rows. Which values a panel holds and where they lie.
//
// Codecs of single values (f32, f16, bf16): [columns][16 rows].
// Codecs of blocks, for each block of 32 columns: its scales and minima, 16 rows side by side, then its quants. A quant is
// an unsigned number of BITS bits, cut into planes of 4, 2 and 1 bits (or one of 8). A plane of W bits is W vectors of 64
// bytes: byte 4 r + i of vector v holds, from its lowest bits up, fields f = 0, 1, …: column 4 (v + W f) + i of row r.
// So a field is four columns of 16 rows, as one multiply-add of bytes reads them. Codecs with scales for 256 columns have
// these first, then eight blocks. Nothing of a value is lost; a matrix is as large as in its file, or some percent larger.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codecs.h"

namespace headrace {

constexpr size_t PANEL_ROWS = 16;
constexpr size_t QUANT_BLOCK = 32;   // columns with a scale for their activations
constexpr size_t SUPER_BLOCK = 256;  // columns that share the first level of two-level scales

// How a block of 32 columns stores what its quants are multiplied by, for each row.
enum class ScaleForm {
    half,           // float16
    half_min,       // float16 scale, float16 minimum (added)
    exponent,       // a byte, E8M0 of a doubled value
    super,          // float16 for 256 columns; int8 for each group
    super_min,      // float16 scale and minimum (subtracted) for 256; a byte of each for each group
    super_nibbles,  // the same, scale and minimum of a group in one byte
};

// weight = scale * (table[quant] or quant - offset) (± minimum), one scale for each `group` columns.
struct QuantForm {
    int bits;
    size_t group;
    int offset;
    ScaleForm scales;
    bool table;

    constexpr size_t groups() const { return QUANT_BLOCK / group; }
    constexpr bool is_super() const { return scales >= ScaleForm::super; }
    constexpr bool has_min() const {
        return scales == ScaleForm::half_min || scales == ScaleForm::super_min || scales == ScaleForm::super_nibbles;
    }
    constexpr size_t quant_bytes() const { return PANEL_ROWS * QUANT_BLOCK / 8 * static_cast<size_t>(bits); }
    // Bytes before a block's quants.
    constexpr size_t scale_bytes() const {
        switch (scales) {
            case ScaleForm::half: return PANEL_ROWS * 2;
            case ScaleForm::half_min: return PANEL_ROWS * 4;
            case ScaleForm::exponent: return PANEL_ROWS;
            case ScaleForm::super: return PANEL_ROWS * groups();
            case ScaleForm::super_min: return PANEL_ROWS * groups() * 2;
            case ScaleForm::super_nibbles: return PANEL_ROWS * groups();
        }
        return 0;
    }
    constexpr size_t block_bytes() const { return scale_bytes() + quant_bytes(); }
    // Bytes before the eight blocks of 256 columns.
    constexpr size_t super_bytes() const { return is_super() ? PANEL_ROWS * (has_min() ? 4 : 2) : 0; }
    constexpr size_t panel_bytes(size_t columns) const {
        return columns / QUANT_BLOCK * block_bytes() + (is_super() ? columns / SUPER_BLOCK * super_bytes() : 0);
    }
};

// The form of each codec of blocks.
template <CodecId ID>
constexpr QuantForm quant_form() {
    switch (ID) {
        case CodecId::Q8_0: return {8, 32, 128, ScaleForm::half, false};
        case CodecId::Q4_0: return {4, 32, 8, ScaleForm::half, false};
        case CodecId::Q4_1: return {4, 32, 0, ScaleForm::half_min, false};
        case CodecId::Q5_0: return {5, 32, 16, ScaleForm::half, false};
        case CodecId::Q5_1: return {5, 32, 0, ScaleForm::half_min, false};
        case CodecId::Q2_K: return {2, 16, 0, ScaleForm::super_nibbles, false};
        case CodecId::Q3_K: return {3, 16, 4, ScaleForm::super, false};
        case CodecId::Q4_K: return {4, 32, 0, ScaleForm::super_min, false};
        case CodecId::Q5_K: return {5, 32, 0, ScaleForm::super_min, false};
        case CodecId::Q6_K: return {6, 16, 32, ScaleForm::super, false};
        case CodecId::IQ4_NL: return {4, 32, 128, ScaleForm::half, true};
        case CodecId::IQ4_XS: return {4, 32, 128, ScaleForm::super, true};
        case CodecId::MXFP4: return {4, 32, 16, ScaleForm::exponent, true};
        case CodecId::F32:
        case CodecId::F16:
        case CodecId::BF16: break;
    }
    return {0, 32, 0, ScaleForm::half, false};
}

constexpr bool is_float(CodecId id) { return id == CodecId::F32 || id == CodecId::F16 || id == CodecId::BF16; }

// What a quant of four bits stands for, plus the form's offset.
constexpr uint8_t IQ4_TABLE[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t MXFP4_TABLE[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};
template <CodecId ID>
constexpr const uint8_t* quant_table() {
    return ID == CodecId::MXFP4 ? MXFP4_TABLE : IQ4_TABLE;
}

// Calls visit<ID>() for the codec.
template <class Visit>
auto for_codec(CodecId id, const Visit& visit) {
    switch (id) {
#define X(identifier, name, values, bytes) \
    case CodecId::identifier: return visit.template operator()<CodecId::identifier>();
        HEADRACE_CODECS(X)
#undef X
    }
    __builtin_unreachable();
}

// Bytes of a panel of that many columns.
size_t panel_bytes(CodecId id, size_t columns);
// Packs up to 16 rows of a file, `row_bytes` apart, into a panel; rows that are not there become zeros.
void pack_panel(CodecId id, const uint8_t* rows, size_t row_bytes, size_t num_rows, size_t columns, uint8_t* panel);

// 32 columns of one token as the integer kernels read them: value = scale * int8, rounded to nearest, ties to even.
//
// A NaN or an infinity in the 32 makes the scale NaN, and with it every output of the token; all below 1e-36 is zero.
struct QuantizedBlock {
    float scale;
    float scaled_sum;        // scale * Σ values
    int32_t minus_sum;       // -Σ values
    int32_t minus_low_sum;   // -Σ of the first 16
    int32_t minus_high_sum;  // -Σ of the last 16
    int8_t values[QUANT_BLOCK];
};

// Tokens are quantised in strips of up to 12: block b of token t lies at strip_start + b * tokens of the strip + t % 12.
constexpr size_t STRIP_TOKENS = 12;

}  // namespace headrace
