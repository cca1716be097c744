// The operations of ops/base.py on plain pointers: cut into pieces, handed to threads. Arguments are checked in bind*.cpp.
//
// One object per engine; calls from several threads wait for each other.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "deltas.h"
#include "kernels.h"
#include "kv_cache.h"
#include "pool.h"
#include "sampling.h"
#include "weight.h"

namespace headrace {

// Work, in multiply-adds or their like, from which it pays to use all threads, and to let other Python threads run.
constexpr size_t PARALLEL_WORK = 200'000;
constexpr size_t RELEASE_WORK = 1'000'000;

struct EmbedJob {
    const Weight* table;
    const int32_t* ids;
    size_t offset, num_ids;  // row ids[i] + offset of the table
    float scale;
    const float* add;
    float* out;  // [num_ids, columns]
};

struct LinearJob {
    const Weight* weight;
    const float* x;  // [num_tokens, columns]
    size_t num_tokens;
    float* y;  // [num_tokens, rows]
    const float* bias = nullptr;
    const float* add = nullptr;
    float scale = 1.0f;
    // Where the results of the tokens lie, and what is added to them: y_stride apart (0: the rows of the weight), token t at
    // y_rows[t] instead of t.
    size_t y_stride = 0;
    const int32_t* y_rows = nullptr;
    // Where in x the tokens are, or nullptr: one after the other.
    const int32_t* x_rows = nullptr;

    size_t x_row(size_t token) const { return x_rows ? static_cast<size_t>(x_rows[token]) : token; }
};

// What adapters add to the result y [rows of the batch, rows of the matrix] of a linear, or of an embed.
struct AdaptJob {
    const Deltas* deltas;
    const float* x;      // [rows of the batch, columns], of a linear
    const int32_t* ids;  // [rows of the batch], of an embed
    const RowsByAdapter* rows;
    float scale;
    const float* add;  // what the embed added, or nullptr
    float* y;
};

// As headrace.batch.Batch, with the block tables' row stride.
struct BatchView {
    const int32_t* positions;
    const int32_t* query_start;  // [num_sequences + 1]
    const int32_t* block_tables;
    size_t num_tokens, num_sequences, table_stride;
};

struct RopeJob {
    float* qkv;
    float* q_out;
    size_t num_heads;
    const float* cos;  // [rows, half] or nullptr
    const float* sin;
    const int32_t* rope_rows;
    size_t half;
    QkNormId norm;
    const float* q_weight;
    const float* k_weight;
    float eps;
};

struct AttentionJob {
    const float* q;
    float* out;
    size_t num_heads;
    float scale;
    size_t window;
    float softcap;
    bool causal;

    // Keys behind its own position that a token sees, at most: the window reaches as far as to the other side.
    size_t ahead() const { return causal ? 0 : window ? window - 1 : std::numeric_limits<size_t>::max(); }
};

struct MoeJob {
    const Weight* router;
    std::span<const Weight* const> gate_up;
    std::span<const Weight* const> down;
    const float* x;  // [num_tokens, H]
    size_t num_tokens, top_k;
    bool normalize;
    ActivationId activation;
    float scale;
    const float* add;
    float* out;
};

class Backend {
public:
    // With `exact` activations stay float32 whatever the weights are.
    Backend(size_t num_threads, const Kernels& kernels, bool exact)
        : kernels_(kernels), exact_(exact), pool_(num_threads), samplers_(num_threads) {}

    Pool& pool() { return pool_; }
    const Kernels& kernels() const { return kernels_; }
    float* activations(size_t count) { return activations_.floats(count); }  // of a tape's run, until the next one

    // Appends a file's rows to the weight, in panels.
    void pack(Weight& weight, const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes);

    void embed(const EmbedJob& job);
    void linear(const LinearJob& job) { linears({&job, 1}); }
    void linears(std::span<const LinearJob> jobs);
    void adapt(const AdaptJob& job);
    // linear(job), then adapt(adapters), whose y and x are the job's: the same bits in one go, where that is possible.
    void adapted_linear(const LinearJob& job, const AdaptJob& adapters);
    void norm(const NormWeights& norm, const float* x, const float* add, size_t rows, size_t n, float* out);
    void activate(ActivationId kind, const float* x, bool gated, size_t rows, size_t n, float* out);
    void softcap(const float* x, float cap, size_t rows, size_t n, float* out);
    void rope_write(const RopeJob& job, const BatchView& batch, const CacheView& cache);
    void attention(const AttentionJob& job, const BatchView& batch, const CacheView& cache);
    void moe(const MoeJob& job);
    void sample(const SampleJob& job);
    void logprobs(const LogprobsJob& job);

    // One measurement of what all threads together can do at most: bytes per second of a pass over `count` floats, and
    // operations per second in float32 and on bytes.
    double read_rate(const float* data, size_t count);
    double multiply_add_rate() { return compute_rate(kernels_.multiply_adds); }
    double dot_rate() { return compute_rate(kernels_.dots); }

private:
    double compute_rate(size_t (*loop)(size_t rounds, float* out));
    struct LinearPiece {
        size_t job, first_token, num_tokens, first_block, num_blocks;
    };
    size_t cut_linears(std::span<const LinearJob> jobs);
    bool list_adapters(const AdaptJob& job);
    bool can_add_pieces(const LinearJob& job) const;
    void add_adapters(const LinearJob& job, const LinearPiece& piece, float* scratch) const;
    void look_up(const Weight& table, const int32_t* ids, const int32_t* rows, size_t count, float* out) const;
    void replace_rows(const AdaptJob& job, const Weight& table, const int32_t* rows, size_t count) const;
    struct AttentionPiece {
        size_t sequence, first_token, num_tokens, kv_head, num_keys, first_span, end_span;
        size_t partials;  // where its spans' sums lie in attention_partials_, or WHOLE
    };
    size_t attention_tokens_of_piece(size_t rows, size_t group) const;
    size_t cut_attention(const AttentionJob& job, const BatchView& batch, const CacheView& cache);
    void split_attention(size_t row_floats, size_t group);
    void run_linear_piece(const LinearJob& job, const LinearPiece& piece, float* scratch) const;
    // Whether a linear with this weight reads quantised activations.
    bool quantizes(const Weight& weight) const { return !exact_ && weight.has_integers(); }
    void quantize_inputs(std::span<const LinearJob> jobs);

    const Kernels& kernels_;
    const bool exact_;
    Pool pool_;
    SlabMemory panel_memory_;
    std::vector<LinearPiece> linear_pieces_;
    std::vector<const QuantizedBlock*> quantized_inputs_;  // of each job of a linear, or nullptr
    std::vector<LinearJob> adapter_down_, adapter_up_;
    Scratch adapter_inner_;
    std::vector<AttentionPiece> attention_pieces_, attention_merges_;
    Scratch attention_partials_;
    std::vector<SamplerMemory> samplers_;
    Scratch activations_;
    Scratch quantized_, routed_, inner_, activated_, expert_out_, router_out_;
};

}  // namespace headrace
