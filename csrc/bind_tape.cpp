// Recording and running tapes from Python. Vectors and weights are checked when they are recorded, and are kept alive by
// the tape; a batch is checked when it runs.
#include "bind.h"
#include "tape.h"

using namespace nanobind::literals;

namespace headrace {
namespace {

using MaybeSlot = std::optional<size_t>;

Slot slot_of(MaybeSlot slot) { return slot ? Slot{*slot} : Slot::none; }

size_t number(Slot slot) { return static_cast<size_t>(slot); }

IdsOf ids_of(std::string_view name) {
    if (name == "token_ids") return IdsOf::tokens;
    if (name == "token_types") return IdsOf::types;
    check(name == "positions", "ids must be token_ids, token_types or positions");
    return IdsOf::positions;
}

size_t embed(Tape& self, const BoundWeight& table, std::string_view ids, float scale, MaybeSlot add, size_t offset) {
    return number(self.embed({&table, ids_of(ids), offset, scale}, slot_of(add)));
}

size_t norm(Tape& self, size_t x, In<float, 1> weight, In<float, 1> bias, std::string_view kind, float eps, MaybeSlot add) {
    const NormWeights weights = norm_of(kind, self.width(Slot{x}), weight, bias, eps);
    return number(self.norm({weights}, Slot{x}, slot_of(add)));
}

size_t linear(Tape& self, size_t x, const BoundWeight& weight, In<float, 1> bias, float scale, MaybeSlot add) {
    check(!weight.is_table(), "the weight is a table, which only embed reads");
    if (bias.is_valid()) check(bias.size() == weight.rows(), "bias must be [rows of the weight]");
    return number(self.linear({&weight, bias.data(), scale}, Slot{x}, slot_of(add)));
}

size_t adapt(Tape& self, size_t y, size_t x, const BoundDeltas& deltas, float scale) {
    return number(self.adapt({&deltas, scale}, Slot{y}, Slot{x}));
}

size_t adapt_embedding(Tape& self, size_t y, const BoundDeltas& deltas, float scale, MaybeSlot add) {
    return number(self.adapt_embedding({&deltas, scale}, Slot{y}, slot_of(add)));
}

size_t rope_write(Tape& self, size_t qkv, size_t layer, size_t num_heads, size_t num_kv_heads, size_t head_dim,
                  In<float, 2> cos, In<float, 2> sin, std::string_view qk_norm, In<float, 1> q_weight, In<float, 1> k_weight,
                  float eps) {
    check_tables(cos, sin, head_dim);
    const QkNormId kind = qk_norm_of(qk_norm);
    check_qk_norm(kind, q_weight, k_weight, num_heads, num_kv_heads, head_dim);
    const size_t rows = cos.is_valid() ? cos.shape(0) : 0, half = cos.is_valid() ? cos.shape(1) : 0;
    return number(self.rope_write({layer, num_heads, num_kv_heads, head_dim, cos.data(), sin.data(), rows, half, kind,
                                   q_weight.data(), k_weight.data(), eps},
                                  Slot{qkv}));
}

size_t attention(Tape& self, size_t q, size_t layer, size_t num_heads, size_t num_kv_heads, size_t head_dim, float scale,
                 size_t window, float softcap, bool causal) {
    return number(self.attention({layer, num_heads, num_kv_heads, head_dim, scale, window, softcap, causal}, Slot{q}));
}

size_t activate(Tape& self, size_t x, std::string_view kind, bool gated) {
    return number(self.activate({activation_of(kind), gated}, Slot{x}));
}

Experts experts_of(nb::tuple weights) {
    Experts experts;
    for (nb::handle weight : weights) experts.push_back(nb::cast<const BoundWeight*>(weight));
    return experts;
}

size_t moe(Tape& self, size_t x, const BoundWeight& router, nb::tuple gate_up, nb::tuple down, size_t top_k, bool normalize,
           std::string_view activation, float scale, MaybeSlot add) {
    const Experts first = experts_of(gate_up), second = experts_of(down);
    check_experts(router, first, second, top_k, self.width(Slot{x}));
    return number(self.moe({&router, {first.begin(), first.end()}, {second.begin(), second.end()}, top_k, normalize,
                            activation_of(activation), scale},
                           Slot{x}, slot_of(add)));
}

// Checks a batch, so that no step of the tape can leave its memory.
TapeInput input_of(const Tape& tape, const KVCache& cache, const In<int32_t, 1>& token_ids,
                   const In<int32_t, 1>& token_types, const In<int32_t, 1>& positions, const In<int32_t, 1>& rope_rows,
                   const In<int32_t, 1>& query_start, const Table& tables, const In<int32_t, 1>& logit_rows,
                   const In<int32_t, 1>& adapters) {
    const TapeNeeds& needs = tape.needs();
    const size_t tokens = token_ids.size();
    check(needs.num_layers <= cache.num_layers(), "layer is outside of the cache");
    check(!needs.num_layers || (needs.num_kv_heads == cache.num_kv_heads() && needs.head_dim == cache.head_dim()),
          "the cache has other heads than the model");
    const BatchView batch = batch_of(cache, positions, query_start, tables, tokens);
    check_indices(token_ids.data(), tokens, needs.tokens_below, "a token id is outside of the table");
    check_indices(positions.data(), tokens, needs.positions_below, "a position is outside of the table");
    if (needs.types_below != TapeNeeds::any) {
        check(token_types.size() == tokens, "token_types must be [tokens]");
        check_indices(token_types.data(), tokens, needs.types_below, "a token type is outside of the table");
    }
    if (needs.rope_rows_below != TapeNeeds::any) {
        check(rope_rows.size() == tokens, "rope_rows must be [tokens]");
        check_indices(rope_rows.data(), tokens, needs.rope_rows_below, "a rope row is outside of the table");
    }
    check_indices(logit_rows.data(), logit_rows.size(), tokens, "a row that needs logits is outside of the batch");
    check(adapters.size() == 0 || adapters.size() == tokens, "adapters must be [tokens], or empty");
    const int32_t* slots = adapters.size() ? adapters.data() : nullptr;
    return {token_ids.data(), token_types.data(), rope_rows.data(), logit_rows.data(), slots, logit_rows.size(), batch,
            &cache};
}

void run(BoundBackend& self, const Tape& tape, KVCache& cache, In<int32_t, 1> token_ids, In<int32_t, 1> token_types,
         In<int32_t, 1> positions, In<int32_t, 1> rope_rows, In<int32_t, 1> query_start, Table tables,
         In<int32_t, 1> logit_rows, In<int32_t, 1> adapters, Out<float, 2> out, Out<double, 1> seconds) {
    check(tape.is_finished(), "the tape is not finished");
    check_shape(out, logit_rows.size(), tape.result_width(), "out must be [rows of logits, width of the result]");
    if (seconds.is_valid()) check(seconds.size() == tape.num_steps(), "seconds must be [steps of the tape]");
    const TapeInput input =
        input_of(tape, cache, token_ids, token_types, positions, rope_rows, query_start, tables, logit_rows, adapters);
    const Session session(self, tape.work(token_ids.size(), logit_rows.size()));
    tape.run(self, input, out.data(), seconds.data());
}

}  // namespace

void bind_tape(nb::module_& m, nb::class_<BoundBackend>& backend) {
    // The tape keeps argument N alive. A tuple of weights keeps its own.
    using Keep2 = nb::keep_alive<1, 2>;
    using Keep3 = nb::keep_alive<1, 3>;
    using Keep4 = nb::keep_alive<1, 4>;
    using Keep5 = nb::keep_alive<1, 5>;
    nb::class_<Tape>(m, "Tape", "A recorded forward pass; operations take and return numbers of slots.")
        .def(nb::init<>())
        .def("embed", &embed, "table"_a, "ids"_a, "scale"_a, "add"_a.none(), "offset"_a, Keep2())
        .def("norm", &norm, "x"_a, exact("weight"), maybe("bias"), "kind"_a, "eps"_a, "add"_a.none(), Keep3(), Keep4())
        .def("linear", &linear, "x"_a, "weight"_a, maybe("bias"), "scale"_a, "add"_a.none(), Keep3(), Keep4())
        .def("adapt", &adapt, "y"_a, "x"_a, "deltas"_a, "scale"_a, Keep4())
        .def("adapt_embedding", &adapt_embedding, "y"_a, "deltas"_a, "scale"_a, "add"_a.none(), Keep3())
        .def("rope_write", &rope_write, "qkv"_a, "layer"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, maybe("cos"),
             maybe("sin"), "qk_norm"_a, maybe("q_weight"), maybe("k_weight"), "eps"_a, nb::keep_alive<1, 7>(),
             nb::keep_alive<1, 8>(), nb::keep_alive<1, 10>(), nb::keep_alive<1, 11>())
        .def("attention", &attention, "q"_a, "layer"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "scale"_a,
             "window"_a, "softcap"_a, "causal"_a)
        .def("activate", &activate, "x"_a, "kind"_a, "gated"_a)
        .def("moe", &moe, "x"_a, "router"_a, "gate_up"_a, "down"_a, "top_k"_a, "normalize"_a, "activation"_a, "scale"_a,
             "add"_a.none(), Keep3(), Keep4(), Keep5())
        .def("select", [](Tape& self, size_t x) { return number(self.select(Slot{x})); }, "x"_a)
        .def("softcap", [](Tape& self, size_t x, float cap) { return number(self.softcap({cap}, Slot{x})); }, "x"_a, "cap"_a)
        .def("finish", [](Tape& self, size_t result) { self.finish(Slot{result}); }, "result"_a)
        .def_prop_ro("result_width", &Tape::result_width)
        .def_prop_ro("num_steps", &Tape::num_steps)
        .def_prop_ro("floats_per_row", &Tape::floats_per_row);
    backend.def("run", &run, "tape"_a, "cache"_a, exact("token_ids"), exact("token_types"), exact("positions"),
                exact("rope_rows"), exact("query_start"), exact("block_tables"), exact("logit_rows"), exact("adapters"),
                exact("out"), maybe("seconds"));
}

}  // namespace headrace
