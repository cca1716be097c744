// Low-rank updates of a batch whose rows have different adapters: rows are gathered by adapter, every adapter's matrices
// become jobs of two linears, and the second adds to the rows where they lie.
#include "deltas.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "backend.h"

namespace headrace {

namespace {

void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

}  // namespace

void Deltas::check(const LowRank& part, bool is_first) const {
    require(part.up, "a part needs a matrix up");
    if (!part.down) {
        require(is_first && part.first_row == 0, "a whole matrix must be the first part");
        require(part.up->is_table() == is_table_, "a table is looked up, a matrix multiplied with");
        require(part.up->rows() == (is_table_ ? columns_ : rows_) && part.up->columns() == (is_table_ ? rows_ : columns_),
                "a whole matrix must have the shape of the one that it replaces");
        return;
    }
    require(!part.up->is_table() && part.down->is_table() == is_table_, "a table is looked up, a matrix multiplied with");
    require((is_table_ ? part.down->rows() : part.down->columns()) == columns_, "down must be [rank, columns]");
    require(part.up->columns() == (is_table_ ? part.down->columns() : part.down->rows()), "up must be [rows, rank]");
    require(part.first_row <= rows_ && part.up->rows() <= rows_ - part.first_row, "up has rows behind the matrix's last");
}

void Deltas::set(size_t slot, std::vector<LowRank> parts) {
    for (const LowRank& part : parts) check(part, &part == parts.data());
    if (slot >= slots_.size()) slots_.resize(slot + 1);
    slots_[slot] = std::move(parts);
}

void Deltas::clear(size_t slot) {
    if (slot < slots_.size()) slots_[slot].clear();
}

// Fills adapted_rows_ and adapter_groups_: the rows with something to add, by adapter, in their order.
void Backend::group_by_adapter(const AdaptJob& job) {
    adapted_rows_.clear();
    for (size_t row = 0; row < job.num_rows; ++row)
        if (!job.deltas->of(job.slots[row]).empty()) adapted_rows_.push_back(static_cast<int32_t>(row));
    std::stable_sort(adapted_rows_.begin(), adapted_rows_.end(),
                     [&](int32_t a, int32_t b) { return job.slots[a] < job.slots[b]; });
    adapter_groups_.clear();
    for (size_t at = 0; at < adapted_rows_.size(); ++at) {
        const int32_t slot = job.slots[adapted_rows_[at]];
        if (adapter_groups_.empty() || adapter_groups_.back().slot != slot) adapter_groups_.push_back({slot, at, 0});
        ++adapter_groups_.back().count;
    }
}

void Backend::adapt(const AdaptJob& job) {
    group_by_adapter(job);
    if (adapter_groups_.empty()) return;
    const Deltas& deltas = *job.deltas;
    size_t ranks = 0;
    for (const AdapterGroup& group : adapter_groups_)
        for (const LowRank& part : deltas.of(group.slot))
            ranks += !part.down ? 0 : group.count * part.up->columns();
    float* inner = adapter_inner_.floats(ranks);
    const float* x = deltas.is_table() ? nullptr : gather_adapted(job.x, deltas.columns());
    adapter_down_.clear();
    adapter_up_.clear();
    for (const AdapterGroup& group : adapter_groups_) {
        const int32_t* rows = &adapted_rows_[group.first];
        for (const LowRank& part : deltas.of(group.slot)) {
            const float* of_group = deltas.is_table() ? nullptr : x + group.first * deltas.columns();
            if (!part.down && deltas.is_table()) {
                replace_rows(job, *part.up, rows, group.count);
            } else if (!part.down) {
                adapter_down_.push_back({part.up, of_group, group.count, job.y, nullptr, nullptr, job.scale, deltas.rows(), rows});
            } else {
                const size_t rank = part.up->columns();
                if (deltas.is_table()) look_up(*part.down, job.ids, rows, group.count, inner);
                else adapter_down_.push_back({part.down, of_group, group.count, inner});
                float* y = job.y + part.first_row;
                adapter_up_.push_back({part.up, inner, group.count, y, nullptr, y, job.scale * part.scale, deltas.rows(), rows});
                inner += group.count * rank;
            }
        }
    }
    linears(adapter_down_);
    linears(adapter_up_);
}

// The adapted rows of x side by side.
const float* Backend::gather_adapted(const float* x, size_t columns) {
    float* gathered = adapter_x_.floats(adapted_rows_.size() * columns);
    for (size_t at = 0; at < adapted_rows_.size(); ++at)
        std::memcpy(gathered + at * columns, x + static_cast<size_t>(adapted_rows_[at]) * columns, columns * sizeof(float));
    return gathered;
}

void Backend::look_up(const Weight& table, const int32_t* ids, const int32_t* rows, size_t count, float* out) const {
    for (size_t at = 0; at < count; ++at)
        table.decode_row(kernels_, static_cast<size_t>(ids[rows[at]]), out + at * table.columns());
}

void Backend::replace_rows(const AdaptJob& job, const Weight& table, const int32_t* rows, size_t count) const {
    const size_t n = table.columns();
    for (size_t at = 0; at < count; ++at) {
        const size_t row = static_cast<size_t>(rows[at]);
        float* out = job.y + row * n;
        table.decode_row(kernels_, static_cast<size_t>(job.ids[row]), out);
        kernels_.scale_add(out, job.scale, job.add ? job.add + row * n : nullptr, n, out);
    }
}

}  // namespace headrace
