// Sampling and log-probabilities, one row of logits at a time. SamplingParams (sampling_params.py) has the steps and their
// order; ops/reference_sampling.py is the same in numpy. Probabilities are float32, sums of them double, in a fixed order.
//
// A NaN logit counts as -infinity; a row of which nothing is left gives the lowest id that its masks allow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"

namespace headrace {

constexpr float NEVER = -std::numeric_limits<float>::infinity();

// One row's parameters; the same record as SAMPLING_ROW in batch.py, which says what each field means.
struct SamplingRow {
    uint64_t seed;
    uint32_t stream, position;
    float temperature, dynatemp_range, dynatemp_exponent;
    float repetition_penalty, presence_penalty, frequency_penalty;
    float dry_multiplier, dry_base;
    float top_n_sigma, min_p, typical_p, top_p;
    float xtc_probability, xtc_threshold;
    float mirostat_tau, mirostat_eta, mirostat_mu;
    int32_t mirostat, top_k, no_repeat_ngram_size;
    int32_t dry_allowed_length, dry_penalty_last_n;
    int32_t mask, allowed_set, breaker_set;
    int32_t history_start, output_start, history_end;
    int32_t bias_start, bias_end;
    int32_t ban_start, ban_end;
    int32_t breaker_start, breaker_end;
};
static_assert(sizeof(SamplingRow) == 152);

// As headrace.batch.SamplingBatch.
struct SampleJob {
    const float* logits;  // [num_rows, vocabulary]
    size_t num_rows, vocabulary;
    SamplingRow* rows;
    const int32_t* history;
    const int32_t* bias_ids;
    const float* bias_values;
    const int32_t *phrase_ids, *phrase_start;
    const uint32_t *masks, *token_sets;  // [any, words of the vocabulary]
    int32_t* out;

    // A row of `masks` or `token_sets`; nullptr for index -1.
    const uint32_t* bits(const uint32_t* table, int32_t index) const {
        return index < 0 ? nullptr : table + static_cast<size_t>(index) * ((vocabulary + 31) / 32);
    }
};

struct LogprobsJob {
    const float* logits;
    size_t num_rows, vocabulary, top;
    const int32_t* token_ids;
    float* logprob;       // [num_rows]
    int32_t* rank;        // [num_rows]
    int32_t* top_ids;     // [num_rows, top]
    float* top_logprobs;  // [num_rows, top]
};

// One thread's memory for sampling; all of it sized before the threads start, but for `matches`.
struct SamplerMemory {
    std::vector<float> logits, weights, scratch;
    std::vector<int32_t> counts;  // all zero between rows
    std::vector<int32_t> order;
    std::vector<int32_t> matches;  // as long as the longest history
    void resize(size_t vocabulary);
};

inline bool contains(const uint32_t* bits, size_t token) { return bits[token / 32] >> (token % 32) & 1; }

// Eight interleaved sums of value(0 … n - 1), added up in order.
template <class Value>
double lane_sum(size_t n, Value value) {
    double lanes[8] = {};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; ++l) lanes[l] += value(i + l);
    for (size_t l = 0; i < n; ++i, ++l) lanes[l] += value(i);
    double total = 0;
    for (double lane : lanes) total += lane;
    return total;
}

// Sum of non-negative weights, in blocks that `draw` can take up one by one: the same for a block wherever it is asked for.
constexpr size_t SUM_BLOCK = 256;
double block_sum(const float* weights, size_t n);
double sum_of(const std::vector<float>& weights);

// The k-th largest of `count` values, k from 1; reorders `scratch`. No value is NaN.
float kth_largest(const float* values, size_t count, size_t k, std::vector<float>& scratch);

// What changes single logits, before the temperature: the masks, biases, bans and penalties of a row (sampling_logits.cpp).
void copy_allowed(const SampleJob& job, const SamplingRow& row, const float* given, std::vector<float>& logits);
void add_biases(const SampleJob& job, const SamplingRow& row, std::vector<float>& logits);
void ban_phrases(const SampleJob& job, const SamplingRow& row, std::vector<float>& logits);
void ban_repeated_ngrams(const SampleJob& job, const SamplingRow& row, std::vector<float>& logits);
void add_penalties(const SampleJob& job, const SamplingRow& row, SamplerMemory& memory);
void add_dry_penalties(const SampleJob& job, const SamplingRow& row, SamplerMemory& memory);

// What drops tokens, behind the temperature: sets their memory.weights to 0 and leaves at least one (sampling_filters.cpp).
// `memory.logits` are those that the weights were made from, the largest is `highest`; `xtc_draw` is from 0 to 1.
void filter(const SamplingRow& row, float highest, double xtc_draw, SamplerMemory& memory);
// The same for mirostat; `follow_mirostat` gives its state the token that was drawn.
void filter_by_surprise(const SamplingRow& row, SamplerMemory& memory);
void follow_mirostat(SamplingRow& row, const std::vector<float>& weights, int32_t drawn);

// The sum of w * (logit - highest) over the weights, divided by the sum of the weights.
double mean_logit(const std::vector<float>& logits, const std::vector<float>& weights, float highest, double total);

}  // namespace headrace
