// How weights may be stored. The one table of codecs: name, block size in values, block size in bytes.
#pragma once

#include <cstddef>
#include <string_view>

namespace headrace {

// X(identifier, name, values in a block, bytes in a block); READER in readers.h is Read##identifier.
#define HEADRACE_CODECS(X)       \
    X(F32, "f32", 1, 4)          \
    X(F16, "f16", 1, 2)          \
    X(BF16, "bf16", 1, 2)        \
    X(Q8_0, "q8_0", 32, 34)      \
    X(Q4_0, "q4_0", 32, 18)      \
    X(Q4_1, "q4_1", 32, 20)      \
    X(Q5_0, "q5_0", 32, 22)      \
    X(Q5_1, "q5_1", 32, 24)      \
    X(Q2_K, "q2_k", 256, 84)     \
    X(Q3_K, "q3_k", 256, 110)    \
    X(Q4_K, "q4_k", 256, 144)    \
    X(Q5_K, "q5_k", 256, 176)    \
    X(Q6_K, "q6_k", 256, 210)    \
    X(IQ4_NL, "iq4_nl", 32, 18)  \
    X(IQ4_XS, "iq4_xs", 256, 136) \
    X(MXFP4, "mxfp4", 32, 17)

enum class CodecId : int {
#define X(identifier, name, values, bytes) identifier,
    HEADRACE_CODECS(X)
#undef X
};

struct Codec {
    CodecId id;
    std::string_view name;
    size_t block_size;   // values
    size_t block_bytes;

    size_t row_bytes(size_t columns) const { return columns / block_size * block_bytes; }
};

#define X(identifier, name, values, bytes) +1
constexpr size_t NUM_CODECS = 0 HEADRACE_CODECS(X);
#undef X

extern const Codec CODECS[NUM_CODECS];

// The codec of that name, or nullptr.
const Codec* find_codec(std::string_view name);

}  // namespace headrace
