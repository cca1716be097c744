// A matrix as an operation sees it: parts stacked along the rows, each in its own packed form.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace headrace {

// Rows in a file's codec, used where they lie (usually a view of a memory-mapped file; the binding keeps it alive).
//
// The seam for other packed forms (panels for int8 activations, matrix tiles): give Part a kind, build it in `pack`, and
// let `Weight::block` hand the kernels a block of that kind.
struct Part {
    const Codec* codec;
    const uint8_t* data;
    size_t first_row, num_rows;
};

class Weight {
public:
    // Parts of equal `columns`, in order; throws std::invalid_argument if one does not fit.
    explicit Weight(size_t columns) : columns_(columns) {}
    void add(const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes);

    size_t rows() const { return rows_; }
    size_t columns() const { return columns_; }
    size_t nbytes() const;
    const std::vector<Part>& parts() const { return parts_; }

    // Pieces of at most BLOCK_ROWS rows that do not cross parts.
    size_t num_blocks() const { return blocks_.size(); }
    // Fills in what a LinearBlock needs of piece `index`; returns its first row in the matrix.
    size_t block(size_t index, LinearBlock& out) const;
    // One row, decoded.
    void decode_row(const Kernels& kernels, size_t row, float* out) const;

private:
    struct Block {
        size_t part, first_row, num_rows;  // rows within the part
    };
    size_t columns_, rows_ = 0;
    std::vector<Part> parts_;
    std::vector<Block> blocks_;
};

}  // namespace headrace
