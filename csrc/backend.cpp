#include "backend.h"

#include <algorithm>

namespace headrace {

namespace {

constexpr size_t PIECE_WORK = 32'768;       // multiply-adds of a piece of a linear, at least, where there are enough
constexpr size_t ROWS_OF_PIECE = 96;         // (query, head) rows that share the loads of keys and values
constexpr size_t FEWEST_ROWS_OF_PIECE = 24;  // below it the loads cost more than an idle thread
constexpr size_t PIECES_OF_THREAD = 4;       // so that threads end together
constexpr size_t SPANS_OF_THREAD = 16;       // likewise, where long contexts are split
constexpr size_t WHOLE = SIZE_MAX;           // partials of a piece that is not split
constexpr size_t ELEMENT_WORK = 8;          // one element of an activation or norm, in multiply-adds

}  // namespace

void Backend::embed(const EmbedJob& job) {
    const size_t n = job.table->columns();
    pool_.run(job.num_ids, job.num_ids * n * ELEMENT_WORK > PARALLEL_WORK, [&](size_t i, size_t) {
        float* row = job.out + i * n;
        job.table->decode_row(kernels_, static_cast<size_t>(job.ids[i]) + job.offset, row);
        kernels_.scale_add(row, job.scale, job.add ? job.add + i * n : nullptr, n, row);
    });
}

void Backend::pack(Weight& weight, const Codec& codec, const uint8_t* data, size_t rows, size_t row_bytes) {
    const Weight::Panels panels = weight.add_panels(codec, rows, row_bytes, panel_memory_);
    pool_.run(panels.count, rows * row_bytes > PARALLEL_WORK, [&](size_t panel, size_t) {
        const size_t row = panel * PANEL_ROWS;
        pack_panel(codec.id, data + row * row_bytes, row_bytes, std::min(PANEL_ROWS, rows - row), weight.columns(),
                   panels.data + panel * panels.bytes);
    });
}

// Fills quantized_inputs_: each job's input as its weight wants it.
void Backend::quantize_inputs(std::span<const LinearJob> jobs) {
    const auto blocks = [&](const LinearJob& job) {
        return quantizes(*job.weight) ? job.num_tokens * (job.weight->columns() / QUANT_BLOCK) : 0;
    };
    size_t total = 0;
    for (const LinearJob& job : jobs) total += blocks(job);
    auto* memory = reinterpret_cast<QuantizedBlock*>(quantized_.floats(total * sizeof(QuantizedBlock) / sizeof(float)));
    quantized_inputs_.clear();
    for (const LinearJob& job : jobs) {
        quantized_inputs_.push_back(blocks(job) ? memory : nullptr);
        if (!blocks(job)) continue;
        const size_t columns = job.weight->columns();
        pool_.run(job.num_tokens, job.num_tokens * columns * ELEMENT_WORK > PARALLEL_WORK, [&](size_t t, size_t) {
            const size_t first = t / STRIP_TOKENS * STRIP_TOKENS, strip = std::min(STRIP_TOKENS, job.num_tokens - first);
            kernels_.quantize(job.x + job.x_row(t) * columns, columns, memory + first * (columns / QUANT_BLOCK) + t - first, strip);
        });
        memory += blocks(job);
    }
}

// Fills linear_pieces_, job by job, and makes the scratch memory that they need; returns the work.
size_t Backend::cut_linears(std::span<const LinearJob> jobs) {
    linear_pieces_.clear();
    size_t work = 0;
    for (size_t j = 0; j < jobs.size(); ++j) {
        const LinearJob& job = jobs[j];
        const size_t tokens = std::min(job.num_tokens, BLOCK_TOKENS);
        const size_t block_work = std::max<size_t>(1, BLOCK_ROWS * job.weight->columns() * tokens);
        const size_t step = std::max<size_t>(1, PIECE_WORK / block_work), blocks = job.weight->num_blocks();
        for (size_t block = 0; block < blocks; block += step)
            for (size_t token = 0; token < job.num_tokens; token += BLOCK_TOKENS)
                linear_pieces_.push_back({j, token, std::min(BLOCK_TOKENS, job.num_tokens - token), block,
                                          std::min(step, blocks - block)});
        work += job.weight->rows() * job.weight->columns() * job.num_tokens;
    }
    for (size_t thread = 0; thread < pool_.num_threads(); ++thread) pool_.scratch(thread).floats(LINEAR_SCRATCH);
    return work;
}

void Backend::linears(std::span<const LinearJob> jobs) {
    quantize_inputs(jobs);
    const bool parallel = cut_linears(jobs) > PARALLEL_WORK;
    pool_.run(linear_pieces_.size(), parallel, [&](size_t i, size_t thread) {
        const LinearPiece& piece = linear_pieces_[i];
        run_linear_piece(jobs[piece.job], piece, pool_.scratch(thread).floats(LINEAR_SCRATCH));
    });
}

void Backend::run_linear_piece(const LinearJob& job, const LinearPiece& piece, float* scratch) const {
    LinearBlock block{};
    const size_t rows = job.weight->rows(), columns = job.weight->columns();
    const QuantizedBlock* quantized = quantized_inputs_[piece.job];
    block.x = job.x_rows ? job.x : job.x + piece.first_token * columns;
    block.x_rows = job.x_rows ? job.x_rows + piece.first_token : nullptr;
    block.quantized = quantized ? quantized + piece.first_token * (columns / QUANT_BLOCK) : nullptr;
    block.num_tokens = piece.num_tokens;
    block.y_stride = job.y_stride ? job.y_stride : rows;
    block.y_rows = job.y_rows ? job.y_rows + piece.first_token : nullptr;
    block.scale = job.scale;
    block.scratch = scratch;
    for (size_t i = 0; i < piece.num_blocks; ++i) {
        const size_t row = job.weight->block(piece.first_block + i, block);
        const size_t at = (job.y_rows ? 0 : piece.first_token * block.y_stride) + row;
        block.y = job.y + at;
        block.bias = job.bias ? job.bias + row : nullptr;
        block.add = job.add ? job.add + at : nullptr;
        kernels_.linear(block);
    }
}

void Backend::norm(const NormWeights& norm, const float* x, const float* add, size_t rows, size_t n, float* out) {
    pool_.run(rows, rows * n * ELEMENT_WORK > PARALLEL_WORK, [&](size_t row, size_t) {
        kernels_.norm(norm, x + row * n, add ? add + row * n : nullptr, n, out + row * n);
    });
}

void Backend::activate(ActivationId kind, const float* x, bool gated, size_t rows, size_t n, float* out) {
    const size_t stride = gated ? 2 * n : n;
    pool_.run(rows, rows * n * ELEMENT_WORK > PARALLEL_WORK, [&](size_t row, size_t) {
        const float* from = x + row * stride;
        kernels_.activate(kind, from, gated ? from + n : nullptr, n, out + row * n);
    });
}

void Backend::softcap(const float* x, float cap, size_t rows, size_t n, float* out) {
    pool_.run(rows, rows * n * ELEMENT_WORK > PARALLEL_WORK,
              [&](size_t row, size_t) { kernels_.softcap(x + row * n, cap, n, out + row * n); });
}

void Backend::rope_write(const RopeJob& job, const BatchView& batch, const CacheView& cache) {
    const size_t q_size = job.num_heads * cache.head_dim, row_size = q_size + 2 * cache.num_kv_heads * cache.head_dim;
    const auto write = [&](size_t t) {
        const int32_t* end = batch.query_start + batch.num_sequences + 1;
        const int32_t* after = std::upper_bound(batch.query_start, end, static_cast<int32_t>(t));
        const size_t s = static_cast<size_t>(after - batch.query_start - 1);
        const size_t angles = job.cos ? static_cast<size_t>(job.rope_rows[t]) * job.half : 0;
        kernels_.rope_write({job.qkv + t * row_size, job.q_out + t * q_size, job.num_heads,
                             static_cast<size_t>(batch.positions[t]), batch.block_tables + s * batch.table_stride, cache,
                             job.cos ? job.cos + angles : nullptr, job.cos ? job.sin + angles : nullptr, job.half,
                             job.norm, job.q_weight, job.k_weight, job.eps});
    };
    // Neighbours on one thread: the keys of KEY_GROUP tokens share their cache lines.
    const size_t tokens = std::clamp(batch.num_tokens / (PIECES_OF_THREAD * pool_.num_threads()), size_t{1}, KEY_GROUP);
    pool_.run((batch.num_tokens + tokens - 1) / tokens, batch.num_tokens * row_size * 2 > PARALLEL_WORK,
              [&](size_t piece, size_t) {
                  const size_t end = std::min(batch.num_tokens, (piece + 1) * tokens);
                  for (size_t t = piece * tokens; t < end; ++t) write(t);
              });
}

// The rows of a piece: fewer than ROWS_OF_PIECE where that leaves too few pieces for the threads.
size_t Backend::attention_tokens_of_piece(size_t rows, size_t group) const {
    size_t piece = ROWS_OF_PIECE;
    while (piece > FEWEST_ROWS_OF_PIECE && rows < piece * PIECES_OF_THREAD * pool_.num_threads()) piece /= 2;
    return std::max<size_t>(1, piece / group);
}

// Cuts attention into pieces by sequence, kv head and tokens, and long contexts at borders of spans; returns the work.
size_t Backend::cut_attention(const AttentionJob& job, const BatchView& batch, const CacheView& cache) {
    const size_t group = job.num_heads / cache.num_kv_heads;
    const size_t chunk = attention_tokens_of_piece(batch.num_tokens * job.num_heads, group);
    std::vector<AttentionPiece>& pieces = attention_pieces_;
    pieces.clear();
    size_t work = 0;
    for (size_t s = 0; s < batch.num_sequences; ++s) {
        const size_t begin = static_cast<size_t>(batch.query_start[s]);
        const size_t end = static_cast<size_t>(batch.query_start[s + 1]);
        const size_t num_keys = begin == end ? 0 : static_cast<size_t>(batch.positions[end - 1]) + 1;
        for (size_t head = 0; head < cache.num_kv_heads; ++head)
            for (size_t t = begin; t < end; t += chunk) {
                const size_t count = std::min(chunk, end - t);
                const size_t from = first_key(static_cast<size_t>(batch.positions[t]), job.window);
                const size_t last = static_cast<size_t>(batch.positions[t + count - 1]);
                const size_t to = end_key(last, job.ahead(), num_keys);
                pieces.push_back({s, t, count, head, num_keys, from / KEY_SPAN, (to - 1) / KEY_SPAN + 1, WHOLE});
                work += count * group * (to - from);
            }
    }
    return work * cache.head_dim * 2;
}

// Replaces pieces that would keep one thread busy for long by pieces of their spans. Which are split depends on the
// number of threads; what is computed does not: spans are summed apart and merged in order either way.
void Backend::split_attention(size_t row_floats, size_t group) {
    const auto keys = [](const AttentionPiece& p) { return p.num_tokens * (p.end_span - p.first_span); };
    size_t total = 0, partials = 0;
    for (const AttentionPiece& piece : attention_pieces_) total += keys(piece);
    const size_t share = std::max<size_t>(1, total / (SPANS_OF_THREAD * pool_.num_threads()));
    const size_t whole = attention_pieces_.size();
    for (size_t i = 0; i < whole; ++i) {
        const AttentionPiece piece = attention_pieces_[i];
        const size_t spans = piece.end_span - piece.first_span;
        const size_t parts = std::min(spans, (keys(piece) + share - 1) / share);
        if (parts < 2) continue;
        const size_t floats = piece.num_tokens * group * row_floats;
        attention_merges_.push_back(piece);
        attention_merges_.back().partials = partials;
        for (size_t part = 0; part < parts; ++part) {
            AttentionPiece of = piece;
            of.first_span = piece.first_span + spans * part / parts;
            of.end_span = piece.first_span + spans * (part + 1) / parts;
            of.partials = partials + (of.first_span - piece.first_span) * floats;
            if (part == 0) attention_pieces_[i] = of;
            else attention_pieces_.push_back(of);
        }
        partials += spans * floats;
    }
    attention_partials_.floats(partials);
}

void Backend::attention(const AttentionJob& job, const BatchView& batch, const CacheView& cache) {
    const size_t group = job.num_heads / cache.num_kv_heads, dim = cache.head_dim, stride = job.num_heads * dim;
    const bool parallel = cut_attention(job, batch, cache) > PARALLEL_WORK;
    attention_merges_.clear();
    if (parallel && pool_.num_threads() > 1) split_attention(attention_row_floats(cache.padded_dim), group);
    size_t tokens = 0;
    for (const AttentionPiece& piece : attention_pieces_) tokens = std::max(tokens, piece.num_tokens);
    const size_t scratch = attention_scratch(tokens * group, dim, cache.padded_dim);
    for (size_t thread = 0; thread < pool_.num_threads(); ++thread) pool_.scratch(thread).floats(scratch);
    const auto block = [&](const AttentionPiece& piece, size_t thread) -> AttentionBlock {
        const size_t at = piece.first_token * stride + piece.kv_head * group * dim;
        return {job.q + at, job.out + at, stride, batch.positions + piece.first_token,
                batch.block_tables + piece.sequence * batch.table_stride, piece.num_tokens, group, piece.kv_head, cache,
                job.scale, job.window, job.ahead(), piece.num_keys, job.softcap, piece.first_span, piece.end_span,
                piece.partials == WHOLE ? nullptr : attention_partials_.floats(0) + piece.partials,
                pool_.scratch(thread).floats(scratch)};
    };
    pool_.run(attention_pieces_.size(), parallel,
              [&](size_t i, size_t thread) { kernels_.attention(block(attention_pieces_[i], thread)); });
    pool_.run(attention_merges_.size(), parallel,
              [&](size_t i, size_t thread) { kernels_.merge_attention(block(attention_merges_[i], thread)); });
}

}  // namespace headrace
