#include "weight.h"

#include <algorithm>
#include <stdexcept>

#include "panels.h"

namespace headrace {

void Weight::add(const Codec& codec, const uint8_t* data, bool in_panels, size_t rows, size_t row_bytes) {
    if (columns_ % codec.block_size) throw std::invalid_argument("columns are not a multiple of the codec's block size");
    if (row_bytes != codec.row_bytes(columns_)) throw std::invalid_argument("bytes of a row do not fit codec and columns");
    for (size_t row = 0; in_panels && row < rows; row += BLOCK_ROWS)
        blocks_.push_back({parts_.size(), row, std::min(BLOCK_ROWS, rows - row)});
    parts_.push_back({&codec, data, in_panels, rows_, rows});
    rows_ += rows;
    has_integers_ = has_integers_ || (in_panels && !is_float(codec.id));
}

void Weight::add_rows(const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes) {
    add(codec, data, false, rows, row_bytes);
}

Weight::Panels Weight::add_panels(const Codec& codec, size_t rows, size_t row_bytes, SlabMemory& memory) {
    add(codec, nullptr, true, rows, row_bytes);
    const Panels panels = {nullptr, (rows + PANEL_ROWS - 1) / PANEL_ROWS, panel_bytes(codec.id, columns_)};
    memory_.push_back(memory.take(panels.count * panels.bytes));
    parts_.back().data = memory_.back().get();
    return {memory_.back().get(), panels.count, panels.bytes};
}

size_t Weight::nbytes() const {
    size_t bytes = 0;
    for (const Part& part : parts_)
        bytes += part.in_panels ? part.num_rows * panel_bytes(part.codec->id, columns_) / PANEL_ROWS
                                : part.num_rows * part.codec->row_bytes(columns_);
    return bytes;
}

size_t Weight::block(size_t index, LinearBlock& out) const {
    const Block& block = blocks_[index];
    const Part& part = parts_[block.part];
    out.codec = part.codec->id;
    out.panel_bytes = panel_bytes(part.codec->id, columns_);
    out.panels = part.data + block.first_row / PANEL_ROWS * out.panel_bytes;
    out.num_rows = block.num_rows;
    out.columns = columns_;
    return part.first_row + block.first_row;
}

void Weight::decode_row(const Kernels& kernels, size_t row, float* out) const {
    for (const Part& part : parts_) {
        if (row >= part.first_row + part.num_rows) continue;
        const size_t at = row - part.first_row;
        const CodecId id = part.codec->id;
        if (!part.in_panels) return kernels.decode(id, part.data + at * part.codec->row_bytes(columns_), columns_, out);
        return kernels.decode_panel_row(id, part.data + at / PANEL_ROWS * panel_bytes(id, columns_), at % PANEL_ROWS,
                                        columns_, out);
    }
}

}  // namespace headrace
