// A recorded forward pass: operations of the backend in order, with their weights, on numbered slots instead of arrays.
//
// Recorded once, run with every batch: one call instead of one for each operation. A tape does no arithmetic and knows no
// sizes but widths; how many rows a slot has is the batch's affair. What it points to has to live as long as the tape.
#pragma once

#include <cstdint>
#include <limits>
#include <variant>
#include <vector>

#include "backend.h"

namespace headrace {

// The result of a step. Its rows are the batch's tokens, or those tokens that need logits.
enum class Slot : size_t { none = std::numeric_limits<size_t>::max() };
enum class RowsOf { tokens, logits };
enum class IdsOf { tokens, positions, types };

// What a tape asks of the batches and caches that it is run with.
struct TapeNeeds {
    static constexpr size_t any = std::numeric_limits<size_t>::max();
    size_t tokens_below = any, positions_below = any, types_below = any, rope_rows_below = any;
    size_t num_layers = 0, num_kv_heads = 0, head_dim = 0;  // of the cache; 0: it is not used
};

// A checked batch. `rope_rows` and `logit_rows` hold rows of the rope tables and of the tokens.
struct TapeInput {
    const int32_t *token_ids, *token_types, *rope_rows, *logit_rows;
    const int32_t* adapters;  // [tokens]: their slots, below 0 none; nullptr if no token has one
    size_t num_logits;
    BatchView batch;
    const KVCache* cache;
};

// The operations, as in ops/base.py; x, add and the result are a step's slots.
struct EmbedOp {
    const Weight* table;
    IdsOf ids;
    size_t offset;
    float scale;
};
struct NormOp {
    NormWeights weights;
};
struct LinearOp {
    const Weight* weight;
    const float* bias;
    float scale;
};
struct AdaptOp {  // adds to the result of a linear of x, or of an embed of the token ids
    const Deltas* deltas;
    float scale;
};
struct RopeOp {
    size_t layer, num_heads, num_kv_heads, head_dim;
    const float *cos, *sin;  // [num_rows, half] or nullptr
    size_t num_rows, half;
    QkNormId norm;
    const float *q_weight, *k_weight;
    float eps;
};
struct AttentionOp {
    size_t layer, num_heads, num_kv_heads, head_dim;
    float scale;
    size_t window;
    float softcap;
    bool causal;
};
struct ActivateOp {
    ActivationId kind;
    bool gated;
};
struct MoeOp {
    const Weight* router;
    std::vector<const Weight*> gate_up, down;
    size_t top_k;
    bool normalize;
    ActivationId activation;
    float scale;
};
struct SelectOp {};
struct SoftcapOp {
    float cap;
};

class Tape {
public:
    // Recording. Each returns the slot of its result; throws std::invalid_argument if a slot does not fit. That vectors
    // have their sizes is checked in bind_tape.cpp.
    Slot embed(const EmbedOp& op, Slot add);
    Slot norm(const NormOp& op, Slot x, Slot add);
    Slot linear(const LinearOp& op, Slot x, Slot add);
    // Both return y: they change it where it lies.
    Slot adapt(const AdaptOp& op, Slot y, Slot x);
    Slot adapt_embedding(const AdaptOp& op, Slot y, Slot add);
    Slot rope_write(const RopeOp& op, Slot qkv);
    Slot attention(const AttentionOp& op, Slot q);
    Slot activate(const ActivateOp& op, Slot x);
    Slot moe(const MoeOp& op, Slot x, Slot add);
    Slot select(Slot x);  // the rows that need logits
    Slot softcap(const SoftcapOp& op, Slot x);
    // Ends the recording: `result`, one row for each row of logits, is what a run gives.
    void finish(Slot result);

    size_t width(Slot slot) const;
    size_t result_width() const { return width(result_); }
    size_t num_steps() const { return steps_.size(); }
    size_t floats_per_row() const { return floats_per_row_; }
    bool is_finished() const { return result_ != Slot::none; }
    const TapeNeeds& needs() const { return needs_; }
    // Multiply-adds of a run, about.
    size_t work(size_t num_tokens, size_t num_logits) const { return num_tokens * token_work_ + num_logits * logit_work_; }

    // Computes the batch: out [num_logits, width of the result]; adds to `seconds` [num_steps], if given, what each step
    // took. Throws std::bad_alloc before anything is written.
    void run(Backend& backend, const TapeInput& input, float* out, double* seconds = nullptr) const;

private:
    struct Place {
        size_t width;
        RowsOf rows;
        size_t last_use = 0;  // step
        size_t offset = 0;    // floats before it, in each row's share of the memory
    };
    struct Step {
        std::variant<EmbedOp, NormOp, LinearOp, AdaptOp, RopeOp, AttentionOp, ActivateOp, MoeOp, SelectOp, SoftcapOp> op;
        Slot x, add, out;
        bool is_adapted = false;  // a linear whose result the next step adapts: a run does both here
    };
    class Run;

    const Place& place(Slot slot) const;
    template <class Op>
    Slot append(Op op, Slot x, Slot add, size_t width, RowsOf rows, size_t row_work);
    Slot append_in_place(const AdaptOp& op, Slot y, Slot x, Slot add);
    void use_cache(size_t layer, size_t num_kv_heads, size_t head_dim);
    void lay_out();
    bool is_result(Slot slot) const { return slot == result_ || slot == uncapped_; }

    std::vector<Step> steps_;
    std::vector<Place> places_;
    TapeNeeds needs_;
    size_t token_work_ = 0, logit_work_ = 0, floats_per_row_ = 0;
    Slot result_ = Slot::none;
    Slot uncapped_ = Slot::none;  // what the last step caps in place: a whole [num_logits, vocabulary] less
};

}  // namespace headrace
