// A matrix as an operation sees it: parts stacked along the rows, each in its own codec.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "huge_memory.h"
#include "kernels.h"

namespace headrace {

// Rows of one codec. In panels (panels.h) for every matrix that is multiplied; as the file has them for a table of which
// only single rows are read (usually a view of a memory-mapped file; the binding keeps it alive).
struct Part {
    const Codec* codec;
    const uint8_t* data;
    bool in_panels;
    size_t first_row, num_rows;
    size_t panel_bytes;  // of one panel
};

class Weight {
public:
    // Parts of equal `columns`, in order; the functions below throw std::invalid_argument if one does not fit.
    explicit Weight(size_t columns) : columns_(columns) {}
    Weight(const Weight&) = delete;
    Weight& operator=(const Weight&) = delete;
    // Appends rows, used where they lie.
    void add_rows(const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes);
    // Appends rows in panels, still to be filled, one call for each of the panels returned.
    struct Panels {
        uint8_t* data;
        size_t count, bytes;  // bytes of one
    };
    Panels add_panels(const Codec& codec, size_t rows, size_t row_bytes, SlabMemory& memory);

    size_t rows() const { return rows_; }
    size_t columns() const { return columns_; }
    // Bytes that are read to multiply with the whole matrix once.
    size_t nbytes() const;
    // Whether some part's values are integers of a block, so that activations of 8 bits fit it.
    bool has_integers() const { return has_integers_; }
    bool is_table() const { return num_blocks() == 0 && rows_ > 0; }

    // Pieces of at most BLOCK_ROWS rows that do not cross parts; none for a table.
    size_t num_blocks() const { return blocks_.size(); }
    // Fills in what a LinearBlock needs of piece `index`; returns its first row in the matrix.
    size_t block(size_t index, LinearBlock& out) const;
    // Whether every part begins at a multiple of PANEL_ROWS, so that the next function can begin at any.
    bool starts_at_panels() const;
    // Fills in what a LinearBlock needs of `count` rows from `row`, a panel's first, on, or fewer where a part ends.
    void rows_from(size_t row, size_t count, LinearBlock& out) const;
    // One row, decoded.
    void decode_row(const Kernels& kernels, size_t row, float* out) const;

private:
    struct Block {
        size_t first_row, num_rows;
    };
    const Part& part_of(size_t row) const;
    void add(const Codec& codec, const uint8_t* data, bool in_panels, size_t rows, size_t row_bytes);

    size_t columns_, rows_ = 0;
    bool has_integers_ = false;
    std::vector<Part> parts_;
    std::vector<Block> blocks_;
    std::vector<std::shared_ptr<uint8_t[]>> memory_;
};

}  // namespace headrace
