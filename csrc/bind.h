// What the binding's files share: array types, checks of what comes from Python, the bound classes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "float_mode.h"

namespace headrace {

namespace nb = nanobind;

template <class T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::ndim<2>, nb::device::cpu>;  // rows may be apart

inline void check(bool holds, const char* message) {
    if (!holds) throw nb::value_error(message);
}

template <class Array>
void check_shape(const Array& array, size_t rows, size_t columns, const char* message) {
    check(array.shape(0) == rows && array.shape(1) == columns, message);
}

// An index array whose entries must be below `limit`.
inline void check_indices(const int32_t* values, size_t count, size_t limit, const char* message) {
    for (size_t i = 0; i < count; ++i) check(values[i] >= 0 && static_cast<size_t>(values[i]) < limit, message);
}

// Offsets that start at 0, never fall and end at `total`.
inline void check_offsets(const int32_t* offsets, size_t count, size_t total, const char* message) {
    check(count > 0 && offsets[0] == 0 && static_cast<size_t>(offsets[count - 1]) == total, message);
    for (size_t i = 1; i < count; ++i) check(offsets[i - 1] <= offsets[i], message);
}

// Held while an operation runs: without the interpreter lock if it may take long, and one operation at a time.
struct Session {
    Session(Backend& backend, size_t work) {
        if (work > RELEASE_WORK) released.emplace();
        lock = std::unique_lock(backend.pool().lock());
    }
    std::optional<nb::gil_scoped_release> released;
    std::unique_lock<std::mutex> lock;
    IeeeFloats floats;
};

struct BoundWeight : Weight {
    using Weight::Weight;
    std::vector<In<uint8_t, 2>> owners;  // keep the memory of rows used where they lie alive
};

struct BoundDeltas : Deltas {
    using Deltas::Deltas;
    std::vector<std::vector<nb::object>> owners;  // by slot: keep its weights alive
};

struct BoundBackend : Backend {
    using Backend::Backend;
    std::string_view instruction_set;
};

inline ActivationId activation_of(std::string_view name) {
    if (name == "silu") return ActivationId::silu;
    if (name == "gelu") return ActivationId::gelu;
    if (name == "gelu_tanh") return ActivationId::gelu_tanh;
    if (name == "relu") return ActivationId::relu;
    throw nb::value_error(("unknown activation " + std::string(name)).c_str());
}

// Checks a batch against the cache, so that no kernel can leave its memory.
inline BatchView batch_of(const KVCache& cache, const In<int32_t, 1>& positions, const In<int32_t, 1>& query_start,
                   const Table& tables, size_t tokens) {
    check(positions.size() == tokens, "positions must be [tokens]");
    check_offsets(query_start.data(), query_start.size(), tokens, "query_start must rise from 0 to the number of tokens");
    const size_t sequences = query_start.size() - 1, width = tables.shape(1);
    check(tables.shape(0) == sequences, "block_tables must be [sequences, widest]");
    check(width < 2 || tables.stride(1) == 1, "rows of block_tables must be contiguous");
    check(sequences < 2 || tables.stride(0) >= 0, "rows of block_tables must be in order");
    const size_t stride = sequences < 2 ? width : static_cast<size_t>(tables.stride(0));
    for (size_t s = 0; s < sequences; ++s) {
        const size_t begin = static_cast<size_t>(query_start.data()[s]), end = static_cast<size_t>(query_start.data()[s + 1]);
        if (begin == end) continue;
        const int32_t* p = positions.data();
        check(p[begin] >= 0, "positions must not be negative");
        for (size_t t = begin + 1; t < end; ++t)
            check(p[t - 1] < INT32_MAX && p[t] == p[t - 1] + 1, "positions must rise by one within a sequence");
        const size_t blocks = static_cast<size_t>(p[end - 1]) / cache.block_size() + 1;
        check(blocks <= width, "a position lies behind its sequence's block table");
        check_indices(tables.data() + s * stride, blocks, cache.num_blocks(), "a block id is outside of the cache");
    }
    return {positions.data(), query_start.data(), tables.data(), tokens, sequences, stride};
}

inline QkNormId qk_norm_of(std::string_view kind) {
    if (kind.empty()) return QkNormId::none;
    check(kind == "head" || kind == "full", "qk_norm must be head, full or empty");
    return kind == "head" ? QkNormId::head : QkNormId::full;
}

inline NormWeights norm_of(std::string_view kind, size_t columns, const In<float, 1>& weight, const In<float, 1>& bias, float eps) {
    check(kind == "rms" || kind == "layer", "norm must be rms or layer");
    check(weight.size() == columns && (!bias.is_valid() || bias.size() == columns), "weight and bias must be [columns of x]");
    return {kind == "rms" ? NormId::rms : NormId::layer, weight.data(), bias.data(), eps};
}

inline void check_tables(const In<float, 2>& cos, const In<float, 2>& sin, size_t head_dim) {
    if (!cos.is_valid()) return;
    check(sin.is_valid() && sin.shape(0) == cos.shape(0) && sin.shape(1) == cos.shape(1), "sin must have the shape of cos");
    check(2 * cos.shape(1) <= head_dim, "cos has more columns than half a head");
}

// Their sizes where there is such a norm: one weight for a head's dimensions, or for those of all heads.
inline void check_qk_norm(QkNormId norm, const In<float, 1>& q, const In<float, 1>& k, size_t heads, size_t kv_heads, size_t dim) {
    if (norm == QkNormId::none) return;
    const bool full = norm == QkNormId::full;
    check(q.is_valid() && q.size() == (full ? heads * dim : dim), "q norm weight has the wrong size");
    check(k.is_valid() && k.size() == (full ? kv_heads * dim : dim), "k norm weight has the wrong size");
}

using Experts = std::vector<const BoundWeight*>;

inline void check_experts(const BoundWeight& router, const Experts& gate_up, const Experts& down, size_t top_k, size_t hidden) {
    const size_t experts = gate_up.size(), inner = down.empty() || !down[0] ? 0 : down[0]->columns();
    check(experts >= 1 && down.size() == experts, "gate_up and down must have one weight for each expert");
    check(top_k >= 1 && top_k <= experts, "top_k must be from 1 to the number of experts");
    check(router.rows() == experts && router.columns() == hidden, "router must be [experts, columns of x]");
    check(!router.is_table(), "the router is a table, which only embed reads");
    for (size_t e = 0; e < experts; ++e) {
        check(gate_up[e] && down[e], "an expert's weight is missing");
        check(!gate_up[e]->is_table() && !down[e]->is_table(), "an expert's weight is a table, which only embed reads");
        check(gate_up[e]->columns() == hidden && gate_up[e]->rows() == 2 * inner, "gate_up must be [2 * inner, columns of x]");
        check(down[e]->columns() == inner && down[e]->rows() == hidden, "down must be [columns of x, inner]");
    }
}

// Arguments that are taken as they are, or may be None as well.
inline auto exact(const char* name) { return nb::arg(name).noconvert(); }
inline auto maybe(const char* name) { return nb::arg(name).noconvert().none(); }

void bind_deltas(nb::module_& m, nb::class_<BoundBackend>& backend);
void bind_lookup(nb::module_& m);
void bind_tape(nb::module_& m, nb::class_<BoundBackend>& backend);
void bind_sampling(nb::class_<BoundBackend>& backend);

}  // namespace headrace
