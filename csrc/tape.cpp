#include "tape.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace headrace {

namespace {

constexpr size_t ALIGNMENT = 16;  // floats: a cache line

void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

size_t index_of(Slot slot) { return static_cast<size_t>(slot); }

size_t aligned(size_t width) { return (width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

size_t size_of(const Weight& weight) { return weight.rows() * weight.columns(); }

}  // namespace

const Tape::Place& Tape::place(Slot slot) const {
    require(index_of(slot) < places_.size(), "a slot that this tape has not given");
    return places_[index_of(slot)];
}

size_t Tape::width(Slot slot) const { return place(slot).width; }

template <class Op>
Slot Tape::append(Op op, Slot x, Slot add, size_t width, RowsOf rows, size_t row_work) {
    require(!is_finished(), "the tape is finished");
    if (add != Slot::none)
        require(place(add).width == width && place(add).rows == rows, "add must have the shape of the result");
    for (Slot used : {x, add})
        if (used != Slot::none) places_[index_of(used)].last_use = steps_.size();
    const Slot out{places_.size()};
    places_.push_back({width, rows, steps_.size()});
    steps_.push_back({std::move(op), x, add, out});
    (rows == RowsOf::tokens ? token_work_ : logit_work_) += row_work;
    return out;
}

Slot Tape::embed(const EmbedOp& op, Slot add) {
    require(op.offset < op.table->rows(), "offset must be below the rows of the table");
    size_t& below = op.ids == IdsOf::tokens  ? needs_.tokens_below
                    : op.ids == IdsOf::types ? needs_.types_below
                                             : needs_.positions_below;
    below = std::min(below, op.table->rows() - op.offset);
    return append(op, Slot::none, add, op.table->columns(), RowsOf::tokens, op.table->columns());
}

Slot Tape::norm(const NormOp& op, Slot x, Slot add) {
    return append(op, x, add, width(x), place(x).rows, width(x));
}

Slot Tape::linear(const LinearOp& op, Slot x, Slot add) {
    require(op.weight->columns() == width(x), "x must be [tokens, columns of the weight]");
    return append(op, x, add, op.weight->rows(), place(x).rows, size_of(*op.weight));
}

Slot Tape::append_in_place(const AdaptOp& op, Slot y, Slot x, Slot add) {
    require(!is_finished(), "the tape is finished");
    require(width(y) == op.deltas->rows(), "y must be [tokens, rows of the matrix]");
    if (add != Slot::none) require(place(add).width == width(y), "add must have the shape of the result");
    for (Slot used : {y, x, add})
        if (used != Slot::none) places_[index_of(used)].last_use = steps_.size();
    Step& before = steps_.back();
    before.is_adapted = before.out == y && before.x == x && std::holds_alternative<LinearOp>(before.op);
    steps_.push_back({op, x, add, y});
    return y;
}

Slot Tape::adapt(const AdaptOp& op, Slot y, Slot x) {
    require(!op.deltas->is_table(), "a table's adapters fit an embed");
    require(width(x) == op.deltas->columns(), "x must be [tokens, columns of the matrix]");
    require(place(x).rows == place(y).rows, "x and y must have the same rows");
    return append_in_place(op, y, x, Slot::none);
}

Slot Tape::adapt_embedding(const AdaptOp& op, Slot y, Slot add) {
    require(op.deltas->is_table(), "a matrix's adapters fit a linear");
    require(place(y).rows == RowsOf::tokens, "an embedding has all tokens");
    needs_.tokens_below = std::min(needs_.tokens_below, op.deltas->columns());
    return append_in_place(op, y, Slot::none, add);
}

// Steps that write and read the same cache have to agree on its shape.
void Tape::use_cache(size_t layer, size_t num_kv_heads, size_t head_dim) {
    require(num_kv_heads >= 1 && head_dim >= 1, "kv heads and head_dim must be at least 1");
    require(!needs_.num_layers || (needs_.num_kv_heads == num_kv_heads && needs_.head_dim == head_dim),
            "all layers must have the same kv heads and head_dim");
    needs_.num_layers = std::max(needs_.num_layers, layer + 1);
    needs_.num_kv_heads = num_kv_heads;
    needs_.head_dim = head_dim;
}

Slot Tape::rope_write(const RopeOp& op, Slot qkv) {
    require(place(qkv).rows == RowsOf::tokens, "rope_write needs all tokens");
    require(width(qkv) == (op.num_heads + 2 * op.num_kv_heads) * op.head_dim,
            "qkv must be [tokens, (heads + 2 kv heads) * head_dim]");
    require(2 * op.half <= op.head_dim, "cos has more columns than half a head");
    use_cache(op.layer, op.num_kv_heads, op.head_dim);
    if (op.cos) needs_.rope_rows_below = std::min(needs_.rope_rows_below, op.num_rows);
    return append(op, qkv, Slot::none, op.num_heads * op.head_dim, RowsOf::tokens, 2 * width(qkv));
}

Slot Tape::attention(const AttentionOp& op, Slot q) {
    require(op.num_kv_heads >= 1 && op.num_heads >= 1 && op.num_heads % op.num_kv_heads == 0,
            "heads must be a multiple of kv heads");
    require(place(q).rows == RowsOf::tokens, "attention needs all tokens");
    require(width(q) == op.num_heads * op.head_dim, "q must be [tokens, heads * head_dim]");
    use_cache(op.layer, op.num_kv_heads, op.head_dim);
    return append(op, q, Slot::none, width(q), RowsOf::tokens, 2 * width(q));
}

Slot Tape::activate(const ActivateOp& op, Slot x) {
    require(!op.gated || width(x) % 2 == 0, "a gated activation needs an even number of columns");
    return append(op, x, Slot::none, op.gated ? width(x) / 2 : width(x), place(x).rows, 8 * width(x));
}

Slot Tape::moe(const MoeOp& op, Slot x, Slot add) {
    const size_t work = op.top_k * (size_of(*op.gate_up[0]) + size_of(*op.down[0])) + size_of(*op.router);
    return append(op, x, add, width(x), place(x).rows, work);
}

Slot Tape::select(Slot x) {
    require(place(x).rows == RowsOf::tokens, "the rows are selected already");
    return append(SelectOp{}, x, Slot::none, width(x), RowsOf::logits, width(x));
}

Slot Tape::softcap(const SoftcapOp& op, Slot x) {
    require(op.cap > 0, "cap must be above 0");
    return append(op, x, Slot::none, width(x), place(x).rows, 8 * width(x));
}

void Tape::finish(Slot result) {
    require(!is_finished(), "the tape is finished");
    require(place(result).rows == RowsOf::logits, "the result must have one row for each row of logits");
    require(place(result).last_use + 1 == steps_.size() && steps_.back().out == result, "the result must be the last step's");
    result_ = result;
    if (std::holds_alternative<SoftcapOp>(steps_.back().op)) uncapped_ = steps_.back().x;
    lay_out();
}

// Every slot but the result gets the lowest stretch that no slot in use overlaps. Memory for n rows holds the slots one
// after the other: a slot begins at n * offset.
void Tape::lay_out() {
    std::vector<const Place*> live;  // by offset
    for (size_t step = 0; step < steps_.size(); ++step) {
        if (is_result(steps_[step].out) || std::holds_alternative<AdaptOp>(steps_[step].op)) continue;
        std::erase_if(live, [&](const Place* other) { return other->last_use < step; });
        Place& mine = places_[index_of(steps_[step].out)];
        auto next = live.begin();
        for (; next != live.end() && mine.offset + aligned(mine.width) > (*next)->offset; ++next)
            mine.offset = std::max(mine.offset, (*next)->offset + aligned((*next)->width));
        live.insert(next, &mine);
        floats_per_row_ = std::max(floats_per_row_, mine.offset + aligned(mine.width));
    }
}

// One run: where its slots lie, and what each kind of step does.
class Tape::Run {
public:
    Run(const Tape& tape, Backend& backend, const TapeInput& input, float* out)
        : tape_(tape), backend_(backend), in_(input), result_(out),
          most_rows_(std::max(input.batch.num_tokens, input.num_logits)),
          memory_(backend.activations(most_rows_ * tape.floats_per_row_)) {
        if (!in_.adapters) return;
        std::vector<int32_t> of_logits;
        for (size_t i = 0; i < in_.num_logits; ++i) of_logits.push_back(in_.adapters[in_.logit_rows[i]]);
        tokens_ = RowsByAdapter(in_.adapters, in_.batch.num_tokens);
        logits_ = RowsByAdapter(of_logits.data(), in_.num_logits);
    }

    void step(const Step& step) {
        if (rows(step.out)) std::visit([&](const auto& op) { run(op, step); }, step.op);
    }

private:
    size_t rows(Slot slot) const {
        return tape_.places_[index_of(slot)].rows == RowsOf::tokens ? in_.batch.num_tokens : in_.num_logits;
    }
    size_t width(Slot slot) const { return tape_.places_[index_of(slot)].width; }
    float* at(Slot slot) const {
        if (slot == Slot::none) return nullptr;
        return tape_.is_result(slot) ? result_ : memory_ + most_rows_ * tape_.places_[index_of(slot)].offset;
    }

    AdaptJob adapt_job(const AdaptOp& op, const Step& s) const {
        const bool of_tokens = tape_.places_[index_of(s.out)].rows == RowsOf::tokens;
        return {op.deltas, at(s.x), in_.token_ids, of_tokens ? &tokens_ : &logits_, op.scale, at(s.add), at(s.out)};
    }

    void run(const EmbedOp& op, const Step& s) {
        const int32_t* ids = op.ids == IdsOf::tokens  ? in_.token_ids
                             : op.ids == IdsOf::types ? in_.token_types
                                                      : in_.batch.positions;
        backend_.embed({op.table, ids, op.offset, rows(s.out), op.scale, at(s.add), at(s.out)});
    }
    void run(const NormOp& op, const Step& s) {
        backend_.norm(op.weights, at(s.x), at(s.add), rows(s.x), width(s.x), at(s.out));
    }
    void run(const LinearOp& op, const Step& s) {
        const LinearJob job{op.weight, at(s.x), rows(s.x), at(s.out), op.bias, at(s.add), op.scale};
        if (!s.is_adapted || !in_.adapters) return backend_.linear(job);
        const Step& next = (&s)[1];
        backend_.adapted_linear(job, adapt_job(std::get<AdaptOp>(next.op), next));
    }
    void run(const AdaptOp& op, const Step& s) {
        if (in_.adapters && !(&s)[-1].is_adapted) backend_.adapt(adapt_job(op, s));  // it is never the first step
    }
    void run(const RopeOp& op, const Step& s) {
        backend_.rope_write({at(s.x), at(s.out), op.num_heads, op.cos, op.sin, in_.rope_rows, op.half, op.norm, op.q_weight,
                             op.k_weight, op.eps},
                            in_.batch, in_.cache->layer(op.layer));
    }
    void run(const AttentionOp& op, const Step& s) {
        backend_.attention({at(s.x), at(s.out), op.num_heads, op.scale, op.window, op.softcap, op.causal}, in_.batch,
                           in_.cache->layer(op.layer));
    }
    void run(const ActivateOp& op, const Step& s) {
        backend_.activate(op.kind, at(s.x), op.gated, rows(s.x), width(s.out), at(s.out));
    }
    void run(const MoeOp& op, const Step& s) {
        backend_.moe({op.router, op.gate_up, op.down, at(s.x), rows(s.x), op.top_k, op.normalize, op.activation, op.scale,
                      at(s.add), at(s.out)});
    }
    void run(const SelectOp&, const Step& s) {
        const size_t n = width(s.x);
        for (size_t i = 0; i < in_.num_logits; ++i)
            std::memcpy(at(s.out) + i * n, at(s.x) + static_cast<size_t>(in_.logit_rows[i]) * n, n * sizeof(float));
    }
    void run(const SoftcapOp& op, const Step& s) {
        backend_.softcap(at(s.x), op.cap, rows(s.x), width(s.x), at(s.out));
    }

    const Tape& tape_;
    Backend& backend_;
    const TapeInput& in_;
    float* result_;
    size_t most_rows_;
    float* memory_;
    RowsByAdapter tokens_, logits_;  // of all rows, and of those that need logits
};

void Tape::run(Backend& backend, const TapeInput& input, float* out, double* seconds) const {
    using Clock = std::chrono::steady_clock;
    Run run(*this, backend, input, out);
    for (size_t i = 0; i < steps_.size(); ++i) {
        const Clock::time_point started = seconds ? Clock::now() : Clock::time_point{};
        run.step(steps_[i]);
        if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - started).count();
    }
}

}  // namespace headrace
