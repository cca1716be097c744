// One reader for each codec: `load(row, k)` gives the 16 weights at k … k + 15 of a row as floats, k a multiple of 16,
// equal to the bit to what the `gguf` package decodes. No fused multiply-add here: scale * q - minimum rounds twice.
//
// The layouts are GGUF's (ggml's block formats), read from the reference decoder in Python's `gguf` package.
#pragma once

#include "group_scales.h"
#include "panels.h"
#include "simd.h"

namespace headrace {
namespace {

HEADRACE_INLINE float read_f16(const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, 2);
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
#elif defined(__aarch64__)
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits))), 0);
#else
    const uint16_t four[4] = {bits};
    return float_of_half(four)[0];
#endif
}

HEADRACE_INLINE f32x16 to_float(u8x16 q) { return from_i8(reinterpret_cast<i8x16>(q)); }

typedef uint16_t u16x8 __attribute__((vector_size(16)));

// (byte >> shift) & mask for each byte. x86 shifts 16 bits at least: what a neighbour shifts in is masked away.
HEADRACE_INLINE u8x16 bits_of(u8x16 bytes, size_t shift, uint8_t mask) {
    return reinterpret_cast<u8x16>(reinterpret_cast<u16x8>(bytes) >> static_cast<uint16_t>(shift)) & mask;
}
// byte << shift for bytes that stay below 256.
HEADRACE_INLINE u8x16 raised(u8x16 bytes, int shift) {
    return reinterpret_cast<u8x16>(reinterpret_cast<u16x8>(bytes) << static_cast<uint16_t>(shift));
}
HEADRACE_INLINE u8x16 low_nibbles(u8x16 bytes, size_t shift) { return bits_of(bytes, shift, 15); }

// Codecs of single values: any number of columns; `load_tail` reads the last n < 16 and pads with zeros.
struct ReadF32 {
    static f32x16 load(const uint8_t* row, size_t k) { return headrace::load(reinterpret_cast<const float*>(row) + k); }
    static f32x16 load_tail(const uint8_t* row, size_t k, int n) {
        return load_part(reinterpret_cast<const float*>(row) + k, n);
    }
};
template <f32x16 (*convert)(const uint16_t*)>
struct ReadHalf {
    static f32x16 load(const uint8_t* row, size_t k) { return convert(reinterpret_cast<const uint16_t*>(row) + k); }
    static f32x16 load_tail(const uint8_t* row, size_t k, int n) {
        uint16_t padded[16] = {};
        std::memcpy(padded, row + 2 * k, 2 * static_cast<size_t>(n));
        return convert(padded);
    }
};
using ReadF16 = ReadHalf<from_f16>;
using ReadBF16 = ReadHalf<from_bf16>;

// Codecs of blocks: whole blocks only, so there is never a tail.
struct Blocked {
    static f32x16 load_tail(const uint8_t*, size_t, int) { return zero(); }
};

// Blocks of 32: byte i of the nibbles holds values i (low) and i + 16 (high).
struct ReadQ8_0 : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 34;
        return to_float(load_bytes(block + 2 + k % 32)) * set1(read_f16(block));
    }
};
struct ReadQ4_0 : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 18;
        const u8x16 q = low_nibbles(load_bytes(block + 2), k % 32 / 4);
        return to_float(q - 8) * set1(read_f16(block));
    }
};
struct ReadQ4_1 : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 20;
        const u8x16 q = low_nibbles(load_bytes(block + 4), k % 32 / 4);
        return to_float(q) * set1(read_f16(block)) + set1(read_f16(block + 2));
    }
};

// 16 single bits, from bit 0 on, each as a byte of 0 or `value`.
HEADRACE_INLINE u8x16 spread_bits(uint16_t bits, uint8_t value) {
    const uint8_t low = static_cast<uint8_t>(bits), high = static_cast<uint8_t>(bits >> 8);
    const u8x16 bytes = {low, low, low, low, low, low, low, low, high, high, high, high, high, high, high, high};
    const u8x16 masks = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return reinterpret_cast<u8x16>((bytes & masks) != 0) & value;
}
HEADRACE_INLINE u8x16 five_bits(const uint8_t* high, const uint8_t* nibbles, size_t k) {
    uint16_t bits;
    std::memcpy(&bits, high + k % 32 / 8, 2);
    return low_nibbles(load_bytes(nibbles), k % 32 / 4) | spread_bits(bits, 16);
}
struct ReadQ5_0 : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 22;
        return to_float(five_bits(block + 2, block + 6, k) - 16) * set1(read_f16(block));
    }
};
struct ReadQ5_1 : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 24;
        return to_float(five_bits(block + 4, block + 8, k)) * set1(read_f16(block)) + set1(read_f16(block + 2));
    }
};

// What quants of four bits stand for where a table says it.
template <CodecId ID>
HEADRACE_INLINE f32x16 from_table(u8x16 quants) {
    return to_float(lookup(load_bytes(quant_table<ID>()), quants) - static_cast<uint8_t>(quant_form<ID>().offset));
}
struct ReadIQ4_NL : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 18;
        const u8x16 q = low_nibbles(load_bytes(block + 2), k % 32 / 4);
        return from_table<CodecId::IQ4_NL>(q) * set1(read_f16(block));
    }
};
// Half of what an E8M0 byte stands for.
HEADRACE_INLINE float half_of_e8m0(uint32_t exponent) {
    const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return scale;
}

// OCP microscaling: an exponent byte and 32 E2M1 values, here doubled to be whole, with half the scale.
struct ReadMXFP4 : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 32 * 17;
        const u8x16 q = low_nibbles(load_bytes(block + 1), k % 32 / 4);
        return from_table<CodecId::MXFP4>(q) * set1(half_of_e8m0(block[0]));
    }
};

// Blocks of 256, with 16 or 8 scales of their own.
template <CodecId ID>
HEADRACE_INLINE float signed_scale(const uint8_t* block, size_t group) {
    return static_cast<float>(static_cast<int8_t>(group_scale<ID>(block, group).scale));
}
struct ReadQ2_K : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 256 * 84;
        const size_t i = k % 256;
        const uint8_t scale = block[i / 16];
        const u8x16 q = bits_of(load_bytes(block + 16 + i / 128 * 32 + i % 32), i % 128 / 32 * 2, 3);
        const float d = read_f16(block + 80) * static_cast<float>(scale & 15);
        const float m = read_f16(block + 82) * static_cast<float>(scale >> 4);
        return to_float(q) * set1(d) - set1(m);
    }
};
struct ReadQ3_K : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 256 * 110;
        const size_t i = k % 256;
        const float d = read_f16(block + 108) * signed_scale<CodecId::Q3_K>(block, i / 16);
        const u8x16 two = bits_of(load_bytes(block + 32 + i / 128 * 32 + i % 32), i % 128 / 32 * 2, 3);
        const u8x16 third = bits_of(load_bytes(block + i % 32), i / 32, 1);
        return to_float(two - raised(third ^ 1, 2)) * set1(d);
    }
};

// Of Q4_K and Q5_K.
HEADRACE_INLINE f32x16 scaled_minus_min(const uint8_t* block, size_t i, u8x16 q) {
    const GroupScale s = group_scale<CodecId::Q4_K>(block, i / 32);
    return to_float(q) * set1(read_f16(block) * static_cast<float>(s.scale)) -
           set1(read_f16(block + 2) * static_cast<float>(s.min));
}
struct ReadQ4_K : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 256 * 144;
        const size_t i = k % 256;
        return scaled_minus_min(block, i, low_nibbles(load_bytes(block + 16 + i / 64 * 32 + i % 32), i % 64 / 32 * 4));
    }
};
struct ReadQ5_K : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 256 * 176;
        const size_t i = k % 256;
        const u8x16 low = low_nibbles(load_bytes(block + 48 + i / 64 * 32 + i % 32), i % 64 / 32 * 4);
        const u8x16 fifth = bits_of(load_bytes(block + 16 + i % 32), i / 32, 1);
        return scaled_minus_min(block, i, low | raised(fifth, 4));
    }
};
struct ReadQ6_K : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 256 * 210;
        const size_t i = k % 256;
        const u8x16 low = low_nibbles(load_bytes(block + i / 128 * 64 + i % 64), i % 128 / 64 * 4);
        const uint8_t* high = block + 128 + i / 128 * 32 + i % 32;
        const u8x16 top = bits_of(load_bytes(high), i % 128 / 32 * 2, 3);
        return to_float((low | raised(top, 4)) - 32) * set1(read_f16(block + 208) * signed_scale<CodecId::Q6_K>(block, i / 16));
    }
};
struct ReadIQ4_XS : Blocked {
    static f32x16 load(const uint8_t* row, size_t k) {
        const uint8_t* block = row + k / 256 * 136;
        const size_t j = k % 256 / 32;
        const u8x16 q = low_nibbles(load_bytes(block + 8 + j * 16), k % 32 / 4);
        return from_table<CodecId::IQ4_XS>(q) * set1(read_f16(block) * signed_scale<CodecId::IQ4_XS>(block, j));
    }
};

}  // namespace
}  // namespace headrace
