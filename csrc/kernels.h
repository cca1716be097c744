// The dispatch table: what one thread does with one piece of work. One body (kernels_body.h), compiled once for each
// instruction set by a small kernels_*.cpp; backend.cpp cuts operations into pieces and never does arithmetic itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "codecs.h"
#include "panels.h"

namespace headrace {

constexpr size_t BLOCK_ROWS = 4 * PANEL_ROWS;       // weight rows of one piece of a linear
constexpr size_t BLOCK_TOKENS = 8 * STRIP_TOKENS;   // tokens of one piece of a linear, at most
constexpr size_t BLOCK_COLUMNS = 256;               // weights of a row that are decoded at a time
// Scratch of a float piece, in floats: decoded columns of two panels, the tokens' columns, the sums.
constexpr size_t FLOAT_SLAB = 2 * BLOCK_COLUMNS * PANEL_ROWS;
constexpr size_t FLOAT_X_STRIDE = BLOCK_COLUMNS + 16;  // no power of two: rows must not share a set of the cache
constexpr size_t LINEAR_SCRATCH = FLOAT_SLAB + BLOCK_TOKENS * (FLOAT_X_STRIDE + BLOCK_ROWS);

constexpr size_t READ_STREAMS = 4;      // that a thread reads at a time when the memory's speed is measured
constexpr size_t LANES_OF_RESULT = 16;  // floats that a measurement's loop leaves

constexpr size_t KEY_GROUP = 16;  // tokens whose keys lie interleaved
constexpr size_t KEY_TILE = 128;  // tokens between two rescalings of the online softmax, aligned at position 0
constexpr size_t KEY_SPAN = 512;  // tokens whose softmax is summed apart, aligned likewise: what threads can share

// y[t, r] = (x[t] · w[r] + bias[r]) * scale (+ add[t, r]) for up to BLOCK_ROWS rows and BLOCK_TOKENS tokens.
struct LinearBlock {
    CodecId codec;
    const uint8_t* panels;  // panels.h, panel_bytes apart
    size_t panel_bytes, num_rows, columns;
    const float* x;  // [num_tokens, columns]
    const int32_t* x_rows;  // where in x the tokens are, or nullptr: one after the other; `quantized` has them in order
    const QuantizedBlock* quantized;  // the strips of the same tokens, or nullptr: x is used as it is
    size_t num_tokens;
    float* y;  // [num_tokens, num_rows], y_stride apart
    size_t y_stride;
    const int32_t* y_rows;  // where in y the tokens are, or nullptr: one after the other
    const float* bias;  // [num_rows] or nullptr
    const float* add;   // as y, or nullptr
    float scale;
    float* scratch;  // LINEAR_SCRATCH floats
};

// q8: bytes, and a scale for each token and head, of keys and of values.
enum class KVType : int { f16, f32, q8 };
constexpr std::string_view KV_TYPE_NAMES[] = {"f16", "f32", "q8"};
constexpr size_t bytes_of(KVType type) { return type == KVType::f16 ? 2 : type == KVType::f32 ? 4 : 1; }

// One layer of the cache: [kv heads]{ keys [block_size / 16][D][16], values [block_size][padded D] } in each block, for q8
// with two times [block_size] float32 scales behind them.
// Strides count elements; keys and value are typed by the caller, as `type` says.
struct CacheView {
    void* data;
    KVType type;
    size_t block_size, num_kv_heads, head_dim, padded_dim, block_stride;

    size_t head_stride() const {
        return block_size * (head_dim + padded_dim + (type == KVType::q8 ? 2 * sizeof(float) : 0));
    }
    // Keys of the 16 tokens from `position` on (a multiple of 16), and value of the token at `position`.
    template <class Element>
    Element* keys(const int32_t* table, size_t position, size_t kv_head) const {
        return block<Element>(table, position, kv_head) + position % block_size / KEY_GROUP * KEY_GROUP * head_dim;
    }
    template <class Element>
    Element* value(const int32_t* table, size_t position, size_t kv_head) const {
        return block<Element>(table, position, kv_head) + block_size * head_dim + position % block_size * padded_dim;
    }
    // Of q8: what the key of the token at `position` is multiplied with; those of 16 tokens lie side by side.
    float* key_scales(const int32_t* table, size_t position, size_t kv_head) const {
        int8_t* scales = block<int8_t>(table, position, kv_head) + block_size * (head_dim + padded_dim);
        return reinterpret_cast<float*>(scales) + position % block_size;
    }
    float* value_scales(const int32_t* table, size_t position, size_t kv_head) const {
        return key_scales(table, position, kv_head) + block_size;
    }

private:
    template <class Element>
    Element* block(const int32_t* table, size_t position, size_t kv_head) const {
        const size_t at = static_cast<size_t>(table[position / block_size]) * block_stride + kv_head * head_stride();
        return static_cast<Element*>(data) + at;
    }
};

// Some queries of one sequence against one kv head; a row is a (token, head of the group) pair.
struct AttentionBlock {
    const float* q;  // [tokens, heads * D] from the first token on, at the group's first head
    float* out;      // likewise
    size_t stride;   // heads * D
    const int32_t* positions;
    const int32_t* table;
    size_t num_tokens, group, kv_head;
    CacheView cache;
    float scale;
    size_t window;   // 0: none
    size_t ahead;    // keys behind its own position that a token sees, at most; 0: causal
    size_t num_keys; // of the sequence; only looked at where tokens see ahead
    float softcap;   // 0: none
    size_t first_span, end_span;  // spans of keys to visit
    float* partials;  // nullptr: merge the spans, write `out`; else [spans][rows][attention_row_floats], where sums go
    float* scratch;   // attention_scratch(...) floats
};
// The earliest key that a token at `position` sees.
constexpr size_t first_key(size_t position, size_t window) {
    return window && position + 1 > window ? position + 1 - window : 0;
}
// One behind the last key that it sees.
constexpr size_t end_key(size_t position, size_t ahead, size_t num_keys) {
    const size_t end = position + 1;
    return ahead == 0 ? end : num_keys - end < ahead ? num_keys : end + ahead;
}
// A row's sums over some keys: values, 16 lanes of the exponentials' sum, the highest score.
constexpr size_t attention_row_floats(size_t padded_dim) { return padded_dim + 2 * 16; }
// A slice of a tile as floats: 2 groups of keys, or 2 vectors of values.
constexpr size_t wide_floats(size_t head_dim) { return 2 * 16 * (head_dim > KEY_TILE ? head_dim : KEY_TILE); }
constexpr size_t attention_scratch(size_t rows, size_t head_dim, size_t padded_dim) {
    return wide_floats(head_dim) + rows * (KEY_TILE + 2 * attention_row_floats(padded_dim) + head_dim + 1);
}

enum class NormId : int { rms, layer };
enum class ActivationId : int { silu, gelu, gelu_tanh, relu };
enum class QkNormId : int { none, head, full };

struct NormWeights {
    NormId kind;
    const float* weight;
    const float* bias;  // or nullptr
    float eps;
};

// One token: norm and rotate its queries and keys, write keys and values into the cache.
struct RopeToken {
    float* qkv;
    float* q_out;
    size_t num_heads, position;
    const int32_t* table;
    CacheView cache;
    const float* cos;  // [half] or nullptr
    const float* sin;
    size_t half;
    QkNormId norm;
    const float* q_weight;
    const float* k_weight;
    float eps;
};

struct Kernels {
    void (*decode)(CodecId codec, const uint8_t* row, size_t columns, float* out);
    void (*decode_panel_row)(CodecId codec, const uint8_t* panel, size_t row, size_t columns, float* out);
    void (*linear)(const LinearBlock& block);
    // One row of a strip, whose blocks lie `stride` apart; columns is a multiple of QUANT_BLOCK.
    void (*quantize)(const float* x, size_t columns, QuantizedBlock* out, size_t stride);
    void (*attention)(const AttentionBlock& block);
    void (*merge_attention)(const AttentionBlock& block);  // the spans' partials into `out`
    void (*rope_write)(const RopeToken& token);
    void (*norm)(const NormWeights& norm, const float* x, const float* add, size_t n, float* out);
    void (*activate)(ActivationId kind, const float* x, const float* factor, size_t n, float* out);  // factor or nullptr
    void (*scale_add)(const float* x, float scale, const float* add, size_t n, float* out);  // x * scale (+ add)
    void (*softcap)(const float* x, float cap, size_t n, float* out);
    float (*largest)(const float* x, size_t n);  // NaN counts as -infinity
    // out = exp(x - largest); 1 where x equals it, 0 where x is NaN.
    void (*exp_below)(const float* x, float largest, size_t n, float* out);
    // What the limits are measured with: see machine_limits.h.
    float (*read_streams)(const float* data, size_t count);
    size_t (*multiply_adds)(size_t rounds, float* out);
    size_t (*dots)(size_t rounds, float* out);
};

// Names of the sets that this machine has, best first.
std::vector<std::string_view> instruction_sets();
// The table of that name, or nullptr if the name is unknown or this machine lacks the set.
const Kernels* find_kernels(std::string_view name);

}  // namespace headrace
