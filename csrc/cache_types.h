// How the cache's elements become lanes and back. A further type (8 bits, say) is a further struct here.
#pragma once

#include "simd.h"

namespace headrace {
namespace {

struct CacheF16 {
    using Element = uint16_t;
    HEADRACE_INLINE f32x16 get(const Element* p) { return from_f16(p); }
    HEADRACE_INLINE void put(Element* p, f32x16 lanes) { to_f16(p, lanes); }
};

struct CacheF32 {
    using Element = float;
    HEADRACE_INLINE f32x16 get(const Element* p) { return load(p); }
    HEADRACE_INLINE void put(Element* p, f32x16 lanes) { store(p, lanes); }
};

}  // namespace
}  // namespace headrace
