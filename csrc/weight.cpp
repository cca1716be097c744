#include "weight.h"

#include <algorithm>
#include <stdexcept>

#include "panels.h"

namespace headrace {

void Weight::add(const Codec& codec, const uint8_t* data, bool in_panels, size_t rows, size_t row_bytes) {
    if (columns_ % codec.block_size) throw std::invalid_argument("columns are not a multiple of the codec's block size");
    if (row_bytes != codec.row_bytes(columns_)) throw std::invalid_argument("bytes of a row do not fit codec and columns");
    for (size_t row = 0; in_panels && row < rows; row += BLOCK_ROWS)
        blocks_.push_back({rows_ + row, std::min(BLOCK_ROWS, rows - row)});
    parts_.push_back({&codec, data, in_panels, rows_, rows, panel_bytes(codec.id, columns_)});
    rows_ += rows;
    has_integers_ = has_integers_ || (in_panels && !is_float(codec.id));
}

void Weight::add_rows(const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes) {
    add(codec, data, false, rows, row_bytes);
}

Weight::Panels Weight::add_panels(const Codec& codec, size_t rows, size_t row_bytes, SlabMemory& memory) {
    add(codec, nullptr, true, rows, row_bytes);
    const Panels panels = {nullptr, (rows + PANEL_ROWS - 1) / PANEL_ROWS, parts_.back().panel_bytes};
    memory_.push_back(memory.take(panels.count * panels.bytes));
    parts_.back().data = memory_.back().get();
    return {memory_.back().get(), panels.count, panels.bytes};
}

size_t Weight::nbytes() const {
    size_t bytes = 0;
    for (const Part& part : parts_)
        bytes += part.in_panels ? part.num_rows * part.panel_bytes / PANEL_ROWS
                                : part.num_rows * part.codec->row_bytes(columns_);
    return bytes;
}

size_t Weight::block(size_t index, LinearBlock& out) const {
    const Block& block = blocks_[index];
    rows_from(block.first_row, block.num_rows, out);
    return block.first_row;
}

const Part& Weight::part_of(size_t row) const {
    size_t part = 0;
    while (row >= parts_[part].first_row + parts_[part].num_rows) ++part;
    return parts_[part];
}

bool Weight::starts_at_panels() const {
    return std::ranges::all_of(parts_, [](const Part& part) { return part.first_row % PANEL_ROWS == 0; });
}

void Weight::rows_from(size_t row, size_t count, LinearBlock& out) const {
    const Part& part = part_of(row);
    out.codec = part.codec->id;
    out.panel_bytes = part.panel_bytes;
    out.panels = part.data + (row - part.first_row) / PANEL_ROWS * out.panel_bytes;
    out.num_rows = std::min(count, part.first_row + part.num_rows - row);
    out.columns = columns_;
}

void Weight::decode_row(const Kernels& kernels, size_t row, float* out) const {
    const Part& part = part_of(row);
    const size_t at = row - part.first_row;
    const CodecId id = part.codec->id;
    if (!part.in_panels) return kernels.decode(id, part.data + at * part.codec->row_bytes(columns_), columns_, out);
    kernels.decode_panel_row(id, part.data + at / PANEL_ROWS * part.panel_bytes, at % PANEL_ROWS, columns_, out);
}

}  // namespace headrace
