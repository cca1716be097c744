// Matrix times rows. What an output goes through is fixed by the weight's codec; tiles, chunks of k, the number of tokens
// and threads only say which outputs are computed side by side.
#pragma once

#include "kernels.h"
#include "linear_float.h"
#include "linear_integer.h"

namespace headrace {
namespace {

template <CodecId ID>
void linear_with(const LinearBlock& b) {
    if constexpr (is_float(ID)) {
        float_panels<ID>(b);
    } else {
        if (b.quantized) integer_panels<ID>(b);
        else float_panels<ID>(b);
    }
}

void linear(const LinearBlock& b) {
    for_codec(b.codec, [&]<CodecId ID>() { linear_with<ID>(b); });
}

// A row as a file has it.
template <class Reader>
void decode_columns(const uint8_t* row, size_t columns, float* out) {
    const size_t whole = columns / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) store(out + i, Reader::load(row, i));
    if (const int tail = static_cast<int>(columns - whole))
        store_part(out + whole, Reader::load_tail(row, whole, tail), tail);
}

void decode(CodecId codec, const uint8_t* row, size_t columns, float* out) {
    switch (codec) {
#define X(identifier, name, values, bytes) \
    case CodecId::identifier: return decode_columns<Read##identifier>(row, columns, out);
        HEADRACE_CODECS(X)
#undef X
    }
}

void decode_panel_row(CodecId codec, const uint8_t* panel, size_t row, size_t columns, float* out) {
    for_codec(codec, [&]<CodecId ID>() {
        float chunk[QUANT_BLOCK * LANES];
        for (size_t k = 0; k < columns; k += QUANT_BLOCK) {
            const size_t count = columns - k < QUANT_BLOCK ? columns - k : QUANT_BLOCK;
            decode_columns_of_panel<ID>(panel, k, count, chunk);
            for (size_t i = 0; i < count; ++i) out[k + i] = chunk[i * LANES + row];
        }
    });
}

}  // namespace
}  // namespace headrace
