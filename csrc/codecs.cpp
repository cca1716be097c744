#include "codecs.h"

namespace headrace {

const Codec CODECS[NUM_CODECS] = {
#define X(identifier, name, values, bytes) {CodecId::identifier, name, values, bytes},
    HEADRACE_CODECS(X)
#undef X
};

const Codec* find_codec(std::string_view name) {
    for (const Codec& codec : CODECS)
        if (codec.name == name) return &codec;
    return nullptr;
}

}  // namespace headrace
