// The sampler's part of the binding: checks every index of the rows, so that no kernel can leave its memory.
#include "bind.h"

namespace headrace {
namespace {

template <class... Arrays>
void check_sizes(size_t size, const char* message, const Arrays&... arrays) {
    check(((arrays.size() == size) && ...), message);
}

bool is_range(int32_t start, int32_t end, size_t size) {
    return 0 <= start && start <= end && static_cast<size_t>(end) <= size;
}

bool is_index_or_none(int32_t index, size_t size) { return index == -1 || (index >= 0 && static_cast<size_t>(index) < size); }

void check_phrases(const In<int32_t, 1>& ids, const In<int32_t, 1>& start) {
    check_offsets(start.data(), start.size(), ids.size(), "phrase_start must rise from 0 to the size of phrase_ids");
    for (size_t p = 1; p < start.size(); ++p) check(start.data()[p - 1] < start.data()[p], "a phrase is empty");
}

void check_row(const SamplingRow& row, size_t history, size_t biases, size_t phrases, size_t masks, size_t sets) {
    check(is_range(row.history_start, row.history_end, history), "a row's history lies outside of history");
    check(row.history_start == row.history_end ||
              (row.history_start <= row.output_start && row.output_start <= row.history_end),
          "output_start lies outside of its row's history");
    check(is_range(row.bias_start, row.bias_end, biases), "a row's biases lie outside of bias_ids");
    check(is_range(row.ban_start, row.ban_end, phrases), "a row's bans lie outside of the phrases");
    check(is_range(row.breaker_start, row.breaker_end, phrases), "a row's breakers lie outside of the phrases");
    check(is_index_or_none(row.mask, masks), "a row's mask lies outside of masks");
    check(is_index_or_none(row.allowed_set, sets), "a row's allowed_set lies outside of token_sets");
    check(is_index_or_none(row.breaker_set, sets), "a row's breaker_set lies outside of token_sets");
}

void sample(BoundBackend& self, In<float, 2> logits, Out<uint8_t, 2> rows, In<int32_t, 1> history, In<int32_t, 1> bias_ids,
            In<float, 1> bias_values, In<int32_t, 1> phrase_ids, In<int32_t, 1> phrase_start, In<uint32_t, 2> masks,
            In<uint32_t, 2> token_sets, Out<int32_t, 1> out) {
    const size_t num_rows = logits.shape(0), vocabulary = logits.shape(1), words = (vocabulary + 31) / 32;
    check(vocabulary >= 1, "logits must have at least one column");
    check_shape(rows, num_rows, sizeof(SamplingRow), "rows must have one record of SAMPLING_ROW for each row of logits");
    check(reinterpret_cast<uintptr_t>(rows.data()) % alignof(SamplingRow) == 0, "rows must be aligned");
    check(out.size() == num_rows, "out must have one entry for each row of logits");
    check(bias_values.size() == bias_ids.size(), "bias_values must have the size of bias_ids");
    check_indices(history.data(), history.size(), vocabulary, "a token id in history is outside of the vocabulary");
    check_indices(bias_ids.data(), bias_ids.size(), vocabulary, "a token id in bias_ids is outside of the vocabulary");
    check_indices(phrase_ids.data(), phrase_ids.size(), vocabulary, "a token id in phrase_ids is outside of the vocabulary");
    check_phrases(phrase_ids, phrase_start);
    check(masks.shape(0) == 0 || masks.shape(1) == words, "masks must have one bit for each token");
    check(token_sets.shape(0) == 0 || token_sets.shape(1) == words, "token_sets must have one bit for each token");
    auto* records = reinterpret_cast<SamplingRow*>(rows.data());
    for (size_t r = 0; r < num_rows; ++r)
        check_row(records[r], history.size(), bias_ids.size(), phrase_start.size() - 1, masks.shape(0), token_sets.shape(0));
    const Session session(self, num_rows * vocabulary * 8);
    self.sample({logits.data(), num_rows, vocabulary, records, history.data(), bias_ids.data(), bias_values.data(),
                 phrase_ids.data(), phrase_start.data(), masks.data(), token_sets.data(), out.data()});
}

void logprobs(BoundBackend& self, In<float, 2> logits, In<int32_t, 1> token_ids, Out<float, 1> logprob,
              Out<int32_t, 1> rank, Out<int32_t, 2> top_ids, Out<float, 2> top_logprobs) {
    const size_t rows = logits.shape(0), vocabulary = logits.shape(1), top = top_ids.shape(1);
    check(vocabulary >= 1 && top <= vocabulary, "top must be at most the size of the vocabulary");
    check_sizes(rows, "token_ids, logprob and rank must be [rows]", token_ids, logprob, rank);
    check_shape(top_ids, rows, top, "top_ids must be [rows, top]");
    check_shape(top_logprobs, rows, top, "top_logprobs must be [rows, top]");
    check_indices(token_ids.data(), rows, vocabulary, "a token id is outside of the vocabulary");
    const Session session(self, rows * vocabulary * 8);
    self.logprobs({logits.data(), rows, vocabulary, top, token_ids.data(), logprob.data(), rank.data(), top_ids.data(),
                   top_logprobs.data()});
}

}  // namespace

void bind_sampling(nb::class_<BoundBackend>& backend) {
    backend
        .def("sample", &sample, exact("logits"), exact("rows"), exact("history"), exact("bias_ids"), exact("bias_values"),
             exact("phrase_ids"), exact("phrase_start"), exact("masks"), exact("token_sets"), exact("out"),
             "Draw a token for each row; writes the next mirostat_mu into `rows`.")
        .def("logprobs", &logprobs, exact("logits"), exact("token_ids"), exact("logprob"), exact("rank"), exact("top_ids"),
             exact("top_logprobs"));
}

}  // namespace headrace
