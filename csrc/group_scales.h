// The scales of 16 or 32 columns inside GGUF's blocks of 256: packed in their own ways, read by whoever packs panels and
// whoever reads rows as a file has them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codecs.h"

namespace headrace {
namespace {

struct GroupScale {
    uint8_t scale, min;
};

// The byte-sized scale (and minimum) of group `g` of 256 columns.
template <CodecId ID>
GroupScale group_scale(const uint8_t* block, size_t g) {
    if constexpr (ID == CodecId::Q2_K) return {block[g], 0};
    if constexpr (ID == CodecId::Q6_K) return {block[192 + g], 0};
    if constexpr (ID == CodecId::Q3_K) {
        const uint8_t* s = block + 96;
        const int low = s[g % 8] >> (g / 8 * 4) & 15, high = s[8 + g % 4] >> (g / 4 * 2) & 3;
        return {static_cast<uint8_t>((low | high << 4) - 32), 0};
    }
    if constexpr (ID == CodecId::IQ4_XS) {
        const int low = block[4 + g / 2] >> (g % 2 * 4) & 15, high = (block[2] | block[3] << 8) >> (2 * g) & 3;
        return {static_cast<uint8_t>((low | high << 4) - 32), 0};
    }
    if constexpr (ID == CodecId::Q4_K || ID == CodecId::Q5_K) {
        const uint8_t* s = block + 4;
        if (g < 4) return {static_cast<uint8_t>(s[g] & 63), static_cast<uint8_t>(s[4 + g] & 63)};
        return {static_cast<uint8_t>((s[4 + g] & 15) | (s[g - 4] >> 2 & 48)),
                static_cast<uint8_t>(s[4 + g] >> 4 | (s[g] >> 2 & 48))};
    }
    return {};
}

}  // namespace
}  // namespace headrace
