// What adapters add to one matrix: for each of them, by its slot, low-rank updates of some rows of the result.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "weight.h"

namespace headrace {

// y[first_row …] += scale * up (down x). Without `down`: y = up x instead, all of it (a matrix that was trained whole).
struct LowRank {
    const Weight* down;  // [rank, columns]; of a table, the other way round: the rows of ids are looked up in it
    const Weight* up;    // [rows, rank]
    size_t first_row;
    float scale;
};

// The rows of a batch that have an adapter, by adapter, each adapter's in ascending order.
class RowsByAdapter {
public:
    struct Group {
        int32_t slot;
        const int32_t* rows;
        size_t count;
    };
    RowsByAdapter() = default;
    // slots [num_rows]: each row's adapter; below 0 none.
    RowsByAdapter(const int32_t* slots, size_t num_rows);
    RowsByAdapter(RowsByAdapter&&) = default;
    RowsByAdapter& operator=(RowsByAdapter&&) = default;

    const std::vector<Group>& groups() const { return groups_; }

private:
    std::vector<int32_t> rows_;
    std::vector<Group> groups_;  // of rows_
};

// Of a matrix [rows, columns] that `linear` multiplies with, or of the table [columns, rows] that `embed` reads.
class Deltas {
public:
    Deltas(size_t rows, size_t columns, bool is_table) : rows_(rows), columns_(columns), is_table_(is_table) {}

    size_t rows() const { return rows_; }
    size_t columns() const { return columns_; }
    bool is_table() const { return is_table_; }

    // Throws std::invalid_argument, with nothing changed, if a part does not fit.
    void set(size_t slot, std::vector<LowRank> parts);
    void clear(size_t slot);
    // Nothing for a slot below 0, and for an adapter that leaves the matrix as it is.
    std::span<const LowRank> of(int32_t slot) const {
        if (slot < 0 || static_cast<size_t>(slot) >= slots_.size()) return {};
        return slots_[static_cast<size_t>(slot)];
    }

private:
    void check(const LowRank& part, bool is_first) const;

    size_t rows_, columns_;
    bool is_table_;
    std::vector<std::vector<LowRank>> slots_;
};

}  // namespace headrace
