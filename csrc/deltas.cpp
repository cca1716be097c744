// Low-rank updates of a batch whose rows have different adapters: every adapter's matrices become jobs of two linears on
// that adapter's rows, where they lie. Beside the matrix that they belong to, the first ones are computed before it, and the
// second ones after each of its pieces.
#include "deltas.h"

#include <algorithm>
#include <atomic>
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

RowsByAdapter::RowsByAdapter(const int32_t* slots, size_t num_rows) {
    for (size_t row = 0; row < num_rows; ++row)
        if (slots[row] >= 0) rows_.push_back(static_cast<int32_t>(row));
    std::stable_sort(rows_.begin(), rows_.end(), [&](int32_t a, int32_t b) { return slots[a] < slots[b]; });
    for (const int32_t& row : rows_) {
        if (groups_.empty() || groups_.back().slot != slots[row]) groups_.push_back({slots[row], &row, 0});
        ++groups_.back().count;
    }
}

// Fills adapter_down_ and adapter_up_, what has to be multiplied first and then; a table's first matrices are looked up at
// once. Returns whether a row of the result is replaced instead of being added to.
bool Backend::list_adapters(const AdaptJob& job) {
    const Deltas& deltas = *job.deltas;
    size_t ranks = 0;
    for (const RowsByAdapter::Group& group : job.rows->groups())
        for (const LowRank& part : deltas.of(group.slot)) ranks += part.down ? group.count * part.up->columns() : 0;
    float* inner = adapter_inner_.floats(ranks);
    bool replaces = false;
    adapter_down_.clear();
    adapter_up_.clear();
    for (const auto& [slot, rows, count] : job.rows->groups()) {
        for (const LowRank& part : deltas.of(slot)) {
            replaces |= !part.down;
            if (!part.down && deltas.is_table()) {
                replace_rows(job, *part.up, rows, count);
            } else if (!part.down) {
                adapter_down_.push_back(
                    {part.up, job.x, count, job.y, nullptr, nullptr, job.scale, deltas.rows(), rows, rows});
            } else {
                if (deltas.is_table()) look_up(*part.down, job.ids, rows, count, inner);
                else adapter_down_.push_back({part.down, job.x, count, inner, nullptr, nullptr, 1.0f, 0, nullptr, rows});
                float* y = job.y + part.first_row;
                adapter_up_.push_back({part.up, inner, count, y, nullptr, y, job.scale * part.scale, deltas.rows(), rows});
                inner += count * part.up->columns();
            }
        }
    }
    return replaces;
}

void Backend::adapt(const AdaptJob& job) {
    list_adapters(job);
    linears(adapter_down_);
    linears(adapter_up_);
}

// Whether what adapter_up_ holds can be added piece by piece of the job: in whole panels.
bool Backend::can_add_pieces(const LinearJob& job) const {
    return job.weight->starts_at_panels() && std::ranges::all_of(adapter_up_, [&](const LinearJob& up) {
        const size_t first_row = static_cast<size_t>(up.y - job.y);
        return first_row % PANEL_ROWS == 0 && up.weight->starts_at_panels() && !quantizes(*up.weight);
    });
}

// One run of the pool: the adapters' first matrices, then the job in pieces, to each of which the thread that has computed
// it adds what the adapters give, while it is at hand.
void Backend::adapted_linear(const LinearJob& job, const AdaptJob& adapters) {
    const bool replaces = list_adapters(adapters);
    if (adapter_up_.empty() || replaces || !can_add_pieces(job)) {
        linear(job);
        linears(adapter_down_);
        return linears(adapter_up_);
    }
    const size_t whole = adapter_down_.size();
    adapter_down_.push_back(job);
    const std::span<const LinearJob> jobs = adapter_down_;
    quantize_inputs(jobs);
    const bool parallel = cut_linears(jobs) > PARALLEL_WORK;
    const auto is_first = [&](const LinearPiece& piece) { return piece.job < whole; };
    std::atomic<size_t> first_left = static_cast<size_t>(std::ranges::count_if(linear_pieces_, is_first));
    pool_.run(linear_pieces_.size(), parallel, [&](size_t i, size_t thread) {
        const LinearPiece& piece = linear_pieces_[i];
        float* scratch = pool_.scratch(thread).floats(LINEAR_SCRATCH);
        run_linear_piece(jobs[piece.job], piece, scratch);
        if (is_first(piece)) {
            first_left.fetch_sub(1, std::memory_order_acq_rel);
        } else {
            Pool::wait_for_zero(first_left);  // pieces are taken in order: somebody is at work on them
            add_adapters(job, piece, scratch);
        }
    });
}

// Adds what adapter_up_ has for the rows and tokens of a piece of the job.
void Backend::add_adapters(const LinearJob& job, const LinearPiece& piece, float* scratch) const {
    LinearBlock block{};
    const size_t first = job.weight->block(piece.first_block, block);
    const size_t last = job.weight->block(piece.first_block + piece.num_blocks - 1, block) + block.num_rows;
    for (const LinearJob& up : adapter_up_) {
        const size_t start = static_cast<size_t>(up.y - job.y);
        const size_t end = std::min(last, start + up.weight->rows());
        const int32_t *tokens = up.y_rows, *end_token = tokens + up.num_tokens;
        if (piece.num_tokens < job.num_tokens) {
            tokens = std::lower_bound(tokens, end_token, static_cast<int32_t>(piece.first_token));
            end_token = std::lower_bound(tokens, end_token, static_cast<int32_t>(piece.first_token + piece.num_tokens));
        }
        if (tokens == end_token) continue;
        for (size_t row = std::max(first, start); row < end; row += block.num_rows) {
            up.weight->rows_from(row - start, std::min(end - row, BLOCK_ROWS), block);
            block.x = up.x + static_cast<size_t>(tokens - up.y_rows) * block.columns;
            block.num_tokens = static_cast<size_t>(end_token - tokens);
            block.y = job.y + row;
            block.y_stride = up.y_stride;
            block.y_rows = tokens;
            block.add = block.y;
            block.scale = up.scale;
            block.scratch = scratch;
            kernels_.linear(block);
        }
    }
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
