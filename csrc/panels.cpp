#include "panels.h"

#include <cstring>

#include "group_scales.h"

namespace headrace {

namespace {

uint32_t word_at(const uint8_t* bytes, size_t index) {
    uint32_t word;
    std::memcpy(&word, bytes + 4 * index, 4);
    return word;
}

constexpr uint32_t each(uint32_t byte) { return byte * 0x01010101u; }

// Four columns to a word: those of block `i` of 32 within the codec's own block, as unsigned quants.
struct Words {
    uint32_t of[8];
};

Words nibbles(const uint8_t* bytes) {
    Words q;
    for (size_t j = 0; j < 4; ++j) {
        q.of[j] = word_at(bytes, j) & each(15);
        q.of[j + 4] = word_at(bytes, j) >> 4 & each(15);
    }
    return q;
}

Words bits(const uint8_t* bytes, size_t shift, uint32_t mask) {
    Words q;
    for (size_t j = 0; j < 8; ++j) q.of[j] = word_at(bytes, j) >> shift & each(mask);
    return q;
}

Words with_high(Words low, Words high, int shift) {
    for (size_t j = 0; j < 8; ++j) low.of[j] |= high.of[j] << shift;
    return low;
}

// Bit n of `mask` as byte n.
Words spread(const uint8_t* mask) {
    const uint32_t all = word_at(mask, 0);
    Words q;
    for (size_t j = 0; j < 8; ++j) q.of[j] = (all >> (4 * j) & 15) * 0x00204081u & each(1);
    return q;
}

template <CodecId ID>
Words quants(const uint8_t* block, size_t i) {
    if constexpr (ID == CodecId::Q8_0) {
        Words q = bits(block + 2, 0, 255);
        for (uint32_t& word : q.of) word ^= each(128);
        return q;
    }
    if constexpr (ID == CodecId::Q4_0 || ID == CodecId::IQ4_NL) return nibbles(block + 2);
    if constexpr (ID == CodecId::Q4_1) return nibbles(block + 4);
    if constexpr (ID == CodecId::MXFP4) return nibbles(block + 1);
    if constexpr (ID == CodecId::IQ4_XS) return nibbles(block + 8 + i * 16);
    if constexpr (ID == CodecId::Q5_0) return with_high(nibbles(block + 6), spread(block + 2), 4);
    if constexpr (ID == CodecId::Q5_1) return with_high(nibbles(block + 8), spread(block + 4), 4);
    if constexpr (ID == CodecId::Q2_K) return bits(block + 16 + i / 4 * 32, i % 4 * 2, 3);
    if constexpr (ID == CodecId::Q3_K) return with_high(bits(block + 32 + i / 4 * 32, i % 4 * 2, 3), bits(block, i, 1), 2);
    if constexpr (ID == CodecId::Q4_K) return bits(block + 16 + i / 2 * 32, i % 2 * 4, 15);
    if constexpr (ID == CodecId::Q5_K)
        return with_high(bits(block + 48 + i / 2 * 32, i % 2 * 4, 15), bits(block + 16, i, 1), 4);
    if constexpr (ID == CodecId::Q6_K)
        return with_high(bits(block + i / 4 * 64 + i % 2 * 32, i % 4 / 2 * 4, 15),
                         bits(block + 128 + i / 4 * 32, i % 4 * 2, 3), 4);
}

// Writes row `row` of the plane that holds WIDTH bits of each quant from bit LOWEST up.
template <int WIDTH, int LOWEST>
void put_plane(const Words& q, size_t row, uint8_t* to) {
#pragma GCC unroll 8
    for (int v = 0; v < WIDTH; ++v) {
        uint32_t word = 0;
#pragma GCC unroll 8
        for (int f = 0; f < 8 / WIDTH; ++f)
            word |= (q.of[v + WIDTH * f] >> LOWEST & each((1u << WIDTH) - 1)) << (WIDTH * f);
        std::memcpy(to + v * 64 + 4 * row, &word, 4);
    }
}

// Writes row `row` of a block of quants: planes of 4, 2 and 1 bits as BITS has them, or one of 8.
template <int BITS>
void put_quants(const Words& q, size_t row, uint8_t* to) {
    if constexpr (BITS & 8) return put_plane<8, 0>(q, row, to);
    if constexpr (BITS & 4) put_plane<4, 0>(q, row, to);
    if constexpr (BITS & 2) put_plane<2, BITS & 4>(q, row, to + (BITS & 4) * 64);
    if constexpr (BITS & 1) put_plane<1, BITS & 6>(q, row, to + (BITS & 6) * 64);
}

// Where a block of 256 has its float16 scale; the minimum follows it.
template <CodecId ID>
constexpr size_t super_scale_at() {
    switch (ID) {
        case CodecId::Q2_K: return 80;
        case CodecId::Q3_K: return 108;
        case CodecId::Q6_K: return 208;
        default: return 0;
    }
}

template <CodecId ID>
void put_block(const uint8_t* block, size_t i, size_t row, uint8_t* to) {
    constexpr QuantForm form = quant_form<ID>();
    if constexpr (form.scales == ScaleForm::half) std::memcpy(to + 2 * row, block, 2);
    if constexpr (form.scales == ScaleForm::half_min) {
        std::memcpy(to + 2 * row, block, 2);
        std::memcpy(to + 32 + 2 * row, block + 2, 2);
    }
    if constexpr (form.scales == ScaleForm::exponent) to[row] = block[0];
    if constexpr (form.is_super())
        for (size_t g = 0; g < form.groups(); ++g) {
            const GroupScale s = group_scale<ID>(block, i * form.groups() + g);
            to[g * PANEL_ROWS + row] = s.scale;
            if constexpr (form.scales == ScaleForm::super_min) to[(form.groups() + g) * PANEL_ROWS + row] = s.min;
        }
    put_quants<form.bits>(quants<ID>(block, i), row, to + form.scale_bytes());
}

template <CodecId ID>
void pack_blocks(const uint8_t* rows, size_t row_bytes, size_t num_rows, size_t columns, uint8_t* panel) {
    constexpr QuantForm form = quant_form<ID>();
    const Codec& codec = CODECS[static_cast<size_t>(ID)];
    constexpr size_t blocks = form.is_super() ? SUPER_BLOCK / QUANT_BLOCK : 1;
    const size_t step = form.super_bytes() + blocks * form.block_bytes();
    for (size_t b = 0; b < columns / codec.block_size; ++b)
        for (size_t row = 0; row < num_rows; ++row) {
            const uint8_t* block = rows + row * row_bytes + b * codec.block_bytes;
            uint8_t* to = panel + b * step;
            if constexpr (form.is_super()) {
                std::memcpy(to + 2 * row, block + super_scale_at<ID>(), 2);
                if constexpr (form.has_min()) std::memcpy(to + 32 + 2 * row, block + super_scale_at<ID>() + 2, 2);
            }
#pragma GCC unroll 8
            for (size_t i = 0; i < blocks; ++i)
                put_block<ID>(block, i, row, to + form.super_bytes() + i * form.block_bytes());
        }
}

template <class Element>
void pack_values(const uint8_t* rows, size_t row_bytes, size_t num_rows, size_t columns, uint8_t* panel) {
    constexpr size_t TILE = 64 / sizeof(Element);  // columns of a cache line
    for (size_t k = 0; k < columns; k += TILE)
        for (size_t row = 0; row < num_rows; ++row)
            for (size_t i = k; i < columns && i < k + TILE; ++i)
                std::memcpy(panel + (i * PANEL_ROWS + row) * sizeof(Element), rows + row * row_bytes + i * sizeof(Element),
                            sizeof(Element));
}

}  // namespace

size_t panel_bytes(CodecId id, size_t columns) {
    if (is_float(id)) return CODECS[static_cast<size_t>(id)].row_bytes(columns) * PANEL_ROWS;
    return for_codec(id, [&]<CodecId ID>() { return quant_form<ID>().panel_bytes(columns); });
}

void pack_panel(CodecId id, const uint8_t* rows, size_t row_bytes, size_t num_rows, size_t columns, uint8_t* panel) {
    if (num_rows < PANEL_ROWS) std::memset(panel, 0, panel_bytes(id, columns));
    if (id == CodecId::F32) return pack_values<uint32_t>(rows, row_bytes, num_rows, columns, panel);
    if (is_float(id)) return pack_values<uint16_t>(rows, row_bytes, num_rows, columns, panel);
    for_codec(id, [&]<CodecId ID>() {
        if constexpr (!is_float(ID)) pack_blocks<ID>(rows, row_bytes, num_rows, columns, panel);
    });
}

}  // namespace headrace
