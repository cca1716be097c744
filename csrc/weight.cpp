#include "weight.h"

#include <stdexcept>

namespace headrace {

void Weight::add(const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes) {
    if (columns_ % codec.block_size) throw std::invalid_argument("columns are not a multiple of the codec's block size");
    if (row_bytes != codec.row_bytes(columns_)) throw std::invalid_argument("bytes of a row do not fit codec and columns");
    for (size_t row = 0; row < rows; row += BLOCK_ROWS)
        blocks_.push_back({parts_.size(), row, rows - row < BLOCK_ROWS ? rows - row : BLOCK_ROWS});
    parts_.push_back({&codec, data, rows_, rows});
    rows_ += rows;
}

size_t Weight::nbytes() const {
    size_t bytes = 0;
    for (const Part& part : parts_) bytes += part.num_rows * part.codec->row_bytes(columns_);
    return bytes;
}

size_t Weight::block(size_t index, LinearBlock& out) const {
    const Block& block = blocks_[index];
    const Part& part = parts_[block.part];
    out.codec = part.codec->id;
    out.row_bytes = part.codec->row_bytes(columns_);
    out.weights = part.data + block.first_row * out.row_bytes;
    out.num_rows = block.num_rows;
    out.columns = columns_;
    return part.first_row + block.first_row;
}

void Weight::decode_row(const Kernels& kernels, size_t row, float* out) const {
    for (const Part& part : parts_)
        if (row < part.first_row + part.num_rows) {
            const uint8_t* data = part.data + (row - part.first_row) * part.codec->row_bytes(columns_);
            return kernels.decode(part.codec->id, data, columns_, out);
        }
}

}  // namespace headrace
