// With the other bind_*.cpp the only file that knows Python: checks what comes from there, calls the backend on plain pointers.
//
// Arrays are C-contiguous and of the exact type (TypeError otherwise); shapes and indices that do not fit raise
// ValueError. Outputs are allocated by the caller. The interpreter lock is released for calls that take long.
#include "bind.h"

#include <algorithm>
#include <iterator>

using namespace nanobind::literals;

namespace headrace {
namespace {

const Codec& codec_of(std::string_view name) {
    const Codec* codec = find_codec(name);
    if (!codec) throw nb::value_error(("unknown codec " + std::string(name)).c_str());
    return *codec;
}

void add_rows(BoundWeight& self, std::string_view codec, In<uint8_t, 2> data) {
    self.add_rows(codec_of(codec), data.data(), data.shape(0), data.shape(1));
    self.owners.push_back(std::move(data));
}

void make_backend(BoundBackend* self, size_t threads, std::string_view name, bool exact_activations) {
    check(threads >= 1 && threads <= 1024, "threads must be from 1 to 1,024");
    for (std::string_view known : instruction_sets())
        if (known == name) {
            new (self) BoundBackend(threads, *find_kernels(name), exact_activations);
            self->instruction_set = known;
            return;
        }
    throw nb::value_error(("this machine has no instruction set " + std::string(name)).c_str());
}

void pack(BoundBackend& self, BoundWeight& weight, std::string_view codec, In<uint8_t, 2> data) {
    const Session session(self, data.size());
    self.pack(weight, codec_of(codec), data.data(), data.shape(0), data.shape(1));
}

void embed(BoundBackend& self, const BoundWeight& table, In<int32_t, 1> ids, float scale, In<float, 2> add, size_t offset,
           Out<float, 2> out) {
    check(offset < table.rows(), "offset must be below the rows of the table");
    check_indices(ids.data(), ids.size(), table.rows() - offset, "a token id is outside of the table");
    check_shape(out, ids.size(), table.columns(), "out must be [tokens, columns]");
    if (add.is_valid()) check_shape(add, ids.size(), table.columns(), "add must be [tokens, columns]");
    const Session session(self, out.size() * 8);
    self.embed({&table, ids.data(), offset, ids.size(), scale, add.data(), out.data()});
}

void linear(BoundBackend& self, In<float, 2> x, const BoundWeight& weight, In<float, 1> bias, float scale, In<float, 2> add,
            Out<float, 2> out) {
    const size_t tokens = x.shape(0), rows = weight.rows();
    check(!weight.is_table(), "the weight is a table, which only embed reads");
    check(x.shape(1) == weight.columns(), "x must be [tokens, columns of the weight]");
    check_shape(out, tokens, rows, "out must be [tokens, rows of the weight]");
    if (bias.is_valid()) check(bias.size() == rows, "bias must be [rows of the weight]");
    if (add.is_valid()) check_shape(add, tokens, rows, "add must be [tokens, rows of the weight]");
    const Session session(self, tokens * rows * weight.columns());
    self.linear({&weight, x.data(), tokens, out.data(), bias.data(), add.data(), scale});
}

void norm(BoundBackend& self, In<float, 2> x, In<float, 1> weight, In<float, 1> bias, std::string_view kind, float eps,
          In<float, 2> add, Out<float, 2> out) {
    const size_t rows = x.shape(0), n = x.shape(1);
    const NormWeights weights = norm_of(kind, n, weight, bias, eps);
    check_shape(out, rows, n, "out must have the shape of x");
    if (add.is_valid()) check_shape(add, rows, n, "add must have the shape of x");
    const Session session(self, rows * n * 8);
    self.norm(weights, x.data(), add.data(), rows, n, out.data());
}

void activate(BoundBackend& self, In<float, 2> x, std::string_view kind, bool gated, Out<float, 2> out) {
    const size_t rows = x.shape(0), n = out.shape(1);
    check(out.shape(0) == rows && x.shape(1) == (gated ? 2 * n : n), "out must be [rows, columns of x, half if gated]");
    const Session session(self, rows * n * 8);
    self.activate(activation_of(kind), x.data(), gated, rows, n, out.data());
}

void softcap(BoundBackend& self, In<float, 2> x, float cap, Out<float, 2> out) {
    check_shape(out, x.shape(0), x.shape(1), "out must have the shape of x");
    check(cap > 0, "cap must be above 0");
    const Session session(self, x.size() * 8);
    self.softcap(x.data(), cap, x.shape(0), x.shape(1), out.data());
}

void make_cache(KVCache* self, std::string_view dtype, size_t layers, size_t blocks, size_t block_size, size_t kv_heads,
                size_t head_dim) {
    const auto* name = std::find(std::begin(KV_TYPE_NAMES), std::end(KV_TYPE_NAMES), dtype);
    check(name != std::end(KV_TYPE_NAMES), "dtype must be f16, f32 or q8");
    check(layers >= 1 && kv_heads >= 1 && head_dim >= 1, "layers, kv_heads and head_dim must be at least 1");
    check(block_size >= 16 && block_size % 16 == 0, "block_size must be a multiple of 16");
    check(layers < (1u << 16) && blocks < (1u << 31) && block_size <= (1u << 16) && kv_heads < (1u << 16) &&
              head_dim < (1u << 16), "the cache's sizes are out of range");
    const double bytes = 4.0 * static_cast<double>(layers) * static_cast<double>(blocks) * static_cast<double>(block_size) *
                         static_cast<double>(kv_heads) * 2.0 * static_cast<double>(head_dim + 16);
    check(bytes < 0x1p62, "the cache's sizes are out of range");
    new (self) KVCache(static_cast<KVType>(name - std::begin(KV_TYPE_NAMES)), layers, blocks, block_size, kv_heads, head_dim);
}

void copy_blocks(KVCache& self, In<int32_t, 1> sources, In<int32_t, 1> targets) {
    check(sources.size() == targets.size(), "sources and targets must have the same size");
    check_indices(sources.data(), sources.size(), self.num_blocks(), "a source is outside of the cache");
    check_indices(targets.data(), targets.size(), self.num_blocks(), "a target is outside of the cache");
    for (size_t i = 0; i < sources.size(); ++i)
        self.copy_block(static_cast<size_t>(sources.data()[i]), static_cast<size_t>(targets.data()[i]));
}

void rope_write(BoundBackend& self, Out<float, 2> qkv, Out<float, 2> q_out, KVCache& cache, size_t layer, size_t num_heads,
                In<int32_t, 1> positions, In<int32_t, 1> query_start, Table tables, In<int32_t, 1> rope_rows,
                In<float, 2> cos, In<float, 2> sin, std::string_view qk_norm, In<float, 1> q_weight, In<float, 1> k_weight,
                float eps) {
    const size_t tokens = qkv.shape(0), dim = cache.head_dim(), kv_heads = cache.num_kv_heads();
    check(layer < cache.num_layers(), "layer is outside of the cache");
    check(qkv.shape(1) == (num_heads + 2 * kv_heads) * dim, "qkv must be [tokens, (heads + 2 kv heads) * head_dim]");
    check_shape(q_out, tokens, num_heads * dim, "q_out must be [tokens, heads * head_dim]");
    const BatchView batch = batch_of(cache, positions, query_start, tables, tokens);
    check_tables(cos, sin, dim);
    const size_t half = cos.is_valid() ? cos.shape(1) : 0;
    if (cos.is_valid()) {
        check(rope_rows.size() == tokens, "rope_rows must be [tokens]");
        check_indices(rope_rows.data(), tokens, cos.shape(0), "a rope row is outside of the table");
    }
    const QkNormId norm = qk_norm_of(qk_norm);
    check_qk_norm(norm, q_weight, k_weight, num_heads, kv_heads, dim);
    const Session session(self, qkv.size() * 2);
    self.rope_write({qkv.data(), q_out.data(), num_heads, cos.data(), sin.data(), rope_rows.data(), half, norm,
                     q_weight.data(), k_weight.data(), eps},
                    batch, cache.layer(layer));
}

void attention(BoundBackend& self, In<float, 2> q, const KVCache& cache, size_t layer, size_t num_heads,
               In<int32_t, 1> positions, In<int32_t, 1> query_start, Table tables, float scale, size_t window, float softcap,
               bool causal, Out<float, 2> out) {
    const size_t tokens = q.shape(0), columns = num_heads * cache.head_dim();
    check(layer < cache.num_layers(), "layer is outside of the cache");
    check(num_heads >= 1 && num_heads % cache.num_kv_heads() == 0, "heads must be a multiple of kv heads");
    check(q.shape(1) == columns, "q must be [tokens, heads * head_dim]");
    check_shape(out, tokens, columns, "out must have the shape of q");
    const BatchView batch = batch_of(cache, positions, query_start, tables, tokens);
    size_t keys = 0;
    for (size_t t = 0; t < tokens; ++t) keys += static_cast<size_t>(batch.positions[t]) + 1;
    const Session session(self, keys * columns * 2);
    self.attention({q.data(), out.data(), num_heads, scale, window, softcap, causal}, batch, cache.layer(layer));
}

void moe(BoundBackend& self, In<float, 2> x, const BoundWeight& router, Experts gate_up, Experts down, size_t top_k,
         bool normalize, std::string_view activation, float scale, In<float, 2> add, Out<float, 2> out) {
    const size_t tokens = x.shape(0), hidden = x.shape(1);
    check_experts(router, gate_up, down, top_k, hidden);
    check_shape(out, tokens, hidden, "out must have the shape of x");
    if (add.is_valid()) check_shape(add, tokens, hidden, "add must have the shape of x");
    const std::vector<const Weight*> first(gate_up.begin(), gate_up.end()), second(down.begin(), down.end());
    const Session session(self, tokens * top_k * 3 * down[0]->columns() * hidden);
    self.moe({&router, first, second, x.data(), tokens, top_k, normalize, activation_of(activation), scale, add.data(),
              out.data()});
}

double read_rate(BoundBackend& self, In<float, 1> data) {
    check(data.size() >= 1u << 18, "data must have at least 262,144 values");
    const Session session(self, data.size());
    return self.read_rate(data.data(), data.size());
}

double multiply_add_rate(BoundBackend& self) {
    const Session session(self, RELEASE_WORK + 1);
    return self.multiply_add_rate();
}

double dot_rate(BoundBackend& self) {
    const Session session(self, RELEASE_WORK + 1);
    return self.dot_rate();
}

std::vector<std::tuple<std::string_view, size_t, size_t>> codecs() {
    std::vector<std::tuple<std::string_view, size_t, size_t>> rows;
    for (const Codec& codec : CODECS) rows.emplace_back(codec.name, codec.block_size, codec.block_bytes);
    return rows;
}

}  // namespace
}  // namespace headrace

NB_MODULE(_core, m) {
    using namespace headrace;
    nb::set_leak_warnings(false);  // an engine that nobody closed keeps its thread, and the thread its arrays, to the very end
    m.doc() = "Native kernels of the CPU backend; headrace.ops.cpu is their face.";
    m.def("instruction_sets", &instruction_sets, "Names of the instruction sets that this machine has, best first.");
    m.def("codecs", &codecs, "(name, values in a block, bytes in a block) of every codec that can be computed with.");

    nb::class_<BoundWeight>(m, "Weight", "A matrix of parts stacked along the rows.")
        .def(nb::init<size_t>(), "columns"_a)
        .def("add_rows", &add_rows, "codec"_a, exact("data"),
             "Append rows [rows, bytes of a row] uint8 that only embed will read; keeps a view.")
        .def_prop_ro("rows", [](const BoundWeight& w) { return w.rows(); })
        .def_prop_ro("columns", [](const BoundWeight& w) { return w.columns(); })
        .def_prop_ro("nbytes", [](const BoundWeight& w) { return w.nbytes(); });

    nb::class_<KVCache>(m, "KVCache", "A paged key-value cache in float16, float32 or 8 bits.")
        .def("__init__", &make_cache, "dtype"_a, "num_layers"_a, "num_blocks"_a, "block_size"_a, "num_kv_heads"_a, "head_dim"_a)
        .def("copy_blocks", &copy_blocks, exact("sources"), exact("targets"),
             "Copy keys and values of all layers, one block after another.")
        .def_prop_ro("num_layers", &KVCache::num_layers)
        .def_prop_ro("num_blocks", &KVCache::num_blocks)
        .def_prop_ro("block_size", &KVCache::block_size)
        .def_prop_ro("nbytes", &KVCache::nbytes);

    nb::class_<BoundBackend> backend(m, "Backend", "The operations, with threads and scratch memory of their own.");
    backend.def("__init__", &make_backend, "threads"_a, "instruction_set"_a, "exact_activations"_a)
        .def_prop_ro("threads", [](BoundBackend& b) { return b.pool().num_threads(); })
        .def_prop_ro("instruction_set", [](const BoundBackend& b) { return b.instruction_set; })
        .def("pack", &pack, "weight"_a, "codec"_a, exact("data"),
             "Append rows [rows, bytes of a row] uint8 to the weight, packed for multiplying.")
        .def("embed", &embed, "table"_a, exact("ids"), "scale"_a, maybe("add"), "offset"_a, exact("out"))
        .def("linear", &linear, exact("x"), "weight"_a, maybe("bias"), "scale"_a, maybe("add"), exact("out"))
        .def("norm", &norm, exact("x"), exact("weight"), maybe("bias"), "kind"_a, "eps"_a, maybe("add"), exact("out"))
        .def("activate", &activate, exact("x"), "kind"_a, "gated"_a, exact("out"))
        .def("softcap", &softcap, exact("x"), "cap"_a, exact("out"))
        .def("rope_write", &rope_write, exact("qkv"), exact("q_out"), "cache"_a, "layer"_a, "num_heads"_a,
             exact("positions"), exact("query_start"), exact("block_tables"), exact("rope_rows"), maybe("cos"),
             maybe("sin"), "qk_norm"_a, maybe("q_weight"), maybe("k_weight"), "eps"_a)
        .def("attention", &attention, exact("q"), "cache"_a, "layer"_a, "num_heads"_a, exact("positions"),
             exact("query_start"), exact("block_tables"), "scale"_a, "window"_a, "softcap"_a, "causal"_a, exact("out"))
        .def("moe", &moe, exact("x"), "router"_a, "gate_up"_a, "down"_a, "top_k"_a, "normalize"_a, "activation"_a,
             "scale"_a, maybe("add"), exact("out"))
        .def("read_rate", &read_rate, exact("data"), "Bytes per second of one pass over float32 values by all threads.")
        .def("multiply_add_rate", &multiply_add_rate, "Float32 operations per second of all threads, a multiply-add is two.")
        .def("dot_rate", &dot_rate, "Operations per second of all threads on bytes, a multiply-add is two.");
    bind_deltas(m, backend);
    bind_lookup(m);
    bind_tape(m, backend);
    bind_sampling(backend);
}
