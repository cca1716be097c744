// What adapters add, from Python: their matrices by slot, and the operations on one batch.
#include "bind.h"

using namespace nanobind::literals;

namespace headrace {
namespace {

// (down or None, up, first row, scale)
using Part = std::tuple<nb::object, nb::object, size_t, float>;

void set(BoundDeltas& self, size_t slot, const std::vector<Part>& parts) {
    check(slot < 1u << 20, "slot is out of range");
    std::vector<LowRank> low_rank;
    std::vector<nb::object> owners;
    for (const auto& [down, up, first_row, scale] : parts) {
        const Weight* first = down.is_none() ? nullptr : nb::cast<const BoundWeight*>(down);
        low_rank.push_back({first, nb::cast<const BoundWeight*>(up), first_row, scale});
        owners.push_back(down);
        owners.push_back(up);
    }
    self.set(slot, std::move(low_rank));
    if (slot >= self.owners.size()) self.owners.resize(slot + 1);
    self.owners[slot] = std::move(owners);
}

void clear(BoundDeltas& self, size_t slot) {
    self.clear(slot);
    if (slot < self.owners.size()) self.owners[slot].clear();
}

void adapt(BoundBackend& self, Out<float, 2> y, In<float, 2> x, const BoundDeltas& deltas, In<int32_t, 1> slots, float scale) {
    const size_t rows = y.shape(0);
    check(!deltas.is_table(), "a table's adapters fit an embed");
    check(y.shape(1) == deltas.rows(), "y must be [tokens, rows of the matrix]");
    check_shape(x, rows, deltas.columns(), "x must be [tokens, columns of the matrix]");
    check(slots.size() == rows, "slots must be [tokens]");
    const Session session(self, rows * deltas.columns());
    const RowsByAdapter by_adapter(slots.data(), rows);
    self.adapt({&deltas, x.data(), nullptr, &by_adapter, scale, nullptr, y.data()});
}

void adapt_embedding(BoundBackend& self, Out<float, 2> y, In<int32_t, 1> ids, const BoundDeltas& deltas,
                     In<int32_t, 1> slots, float scale, In<float, 2> add) {
    const size_t rows = y.shape(0);
    check(deltas.is_table(), "a matrix's adapters fit a linear");
    check(y.shape(1) == deltas.rows(), "y must be [tokens, rows of the matrix]");
    check(ids.size() == rows && slots.size() == rows, "ids and slots must be [tokens]");
    check_indices(ids.data(), rows, deltas.columns(), "a token id is outside of the table");
    if (add.is_valid()) check_shape(add, rows, deltas.rows(), "add must have the shape of y");
    const Session session(self, rows * deltas.rows());
    const RowsByAdapter by_adapter(slots.data(), rows);
    self.adapt({&deltas, nullptr, ids.data(), &by_adapter, scale, add.data(), y.data()});
}

}  // namespace

void bind_deltas(nb::module_& m, nb::class_<BoundBackend>& backend) {
    nb::class_<BoundDeltas>(m, "Deltas", "What adapters add to one matrix, by their slots.")
        .def(nb::init<size_t, size_t, bool>(), "rows"_a, "columns"_a, "is_table"_a)
        .def("set", &set, "slot"_a, "parts"_a, "An adapter's parts: (down or None, up, first row, scale) each.")
        .def("clear", &clear, "slot"_a);
    backend.def("adapt", &adapt, exact("y"), exact("x"), "deltas"_a, exact("slots"), "scale"_a)
        .def("adapt_embedding", &adapt_embedding, exact("y"), exact("ids"), "deltas"_a, exact("slots"), "scale"_a, maybe("add"));
}

}  // namespace headrace
