// Sampling and log-probabilities, one row of logits at a time. The steps and their order are SamplingParams' (types.py);
// ops/reference.py is the same in numpy. Probabilities are float32, sums of them double, in a fixed order.
//
// A NaN logit counts as -infinity; a row without any finite or infinite-positive logit gives the lowest allowed id.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend.h"

namespace headrace {

namespace {

constexpr size_t SUM_BLOCK = 256;
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// Philox4x32-10 (Salmon et al., SC'11): key = seed, counter = (position, stream, 0, 0); 53 bits as a fraction of 1.
double uniform(uint64_t seed, uint32_t stream, uint32_t position) {
    uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    uint32_t counter[4] = {position, stream, 0, 0};
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = uint64_t{0xD2511F53} * counter[0], second = uint64_t{0xCD9E8D57} * counter[2];
        const uint32_t a = static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0];
        const uint32_t c = static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1];
        counter[0] = a;
        counter[1] = static_cast<uint32_t>(second);
        counter[2] = c;
        counter[3] = static_cast<uint32_t>(first);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    const uint64_t bits = (static_cast<uint64_t>(counter[0]) << 21) ^ (counter[1] >> 11);
    return static_cast<double>(bits) * 0x1p-53;
}

// Eight interleaved sums, added up in order: the same for a block wherever it is asked for.
double block_sum(const float* weights, size_t n) {
    double lanes[8] = {};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; ++l) lanes[l] += static_cast<double>(weights[i + l]);
    for (size_t l = 0; i < n; ++i, ++l) lanes[l] += static_cast<double>(weights[i]);
    double total = 0;
    for (double lane : lanes) total += lane;
    return total;
}

double sum_of(const std::vector<float>& weights) {
    double total = 0;
    for (size_t i = 0; i < weights.size(); i += SUM_BLOCK)
        total += block_sum(&weights[i], std::min(SUM_BLOCK, weights.size() - i));
    return total;
}

int32_t first_at_least(const float* x, size_t n, float value) {
    for (size_t i = 0; i < n; ++i)
        if (x[i] >= value) return static_cast<int32_t>(i);
    return 0;
}

const uint32_t* mask_of(const SampleJob& job, size_t row) {
    const size_t words = (job.vocabulary + 31) / 32;
    return job.mask_row[row] < 0 ? nullptr : job.masks + static_cast<size_t>(job.mask_row[row]) * words;
}

bool is_modified(const SampleJob& job, size_t row) {
    return job.bias_start[row + 1] > job.bias_start[row] || job.history_start[row + 1] > job.history_start[row] ||
           job.mask_row[row] >= 0;
}

// The logits with NaN and what the mask forbids at -infinity.
void copy_allowed(const float* given, const uint32_t* mask, std::vector<float>& logits) {
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = given[i] == given[i] ? given[i] : NEVER;
    if (!mask) return;
    for (size_t i = 0; i < logits.size(); ++i)
        if (!(mask[i / 32] >> (i % 32) & 1)) logits[i] = NEVER;
}

int32_t lowest_allowed(const uint32_t* mask, size_t vocabulary) {
    for (size_t i = 0; mask && i < vocabulary; ++i)
        if (mask[i / 32] >> (i % 32) & 1) return static_cast<int32_t>(i);
    return 0;
}

int32_t most_likely(const Kernels& kernels, const std::vector<float>& logits, const uint32_t* mask) {
    const float highest = kernels.largest(logits.data(), logits.size());
    if (highest == NEVER) return lowest_allowed(mask, logits.size());
    return first_at_least(logits.data(), logits.size(), highest);
}

void add_biases(const SampleJob& job, size_t row, std::vector<float>& logits) {
    for (int32_t i = job.bias_start[row]; i < job.bias_start[row + 1]; ++i)
        logits[static_cast<size_t>(job.bias_ids[i])] += job.bias_values[i];
}

// Repetition once for each id in prompt or output; frequency and presence for the ids in the output.
void add_penalties(const SampleJob& job, size_t row, SamplerMemory& memory) {
    const int32_t start = job.history_start[row], end = job.history_start[row + 1], output = job.output_start[row];
    const auto id_at = [&](int32_t i) { return static_cast<size_t>(job.history[i]); };
    const float repetition = job.repetition_penalty[row];
    for (int32_t i = start; i < end; ++i) {
        if (memory.counts[id_at(i)]) continue;
        memory.counts[id_at(i)] = -1;  // seen
        float& logit = memory.logits[id_at(i)];
        logit = logit > 0 ? logit / repetition : logit * repetition;
    }
    for (int32_t i = start; i < end; ++i) memory.counts[id_at(i)] = 0;
    for (int32_t i = output; i < end; ++i) ++memory.counts[id_at(i)];
    for (int32_t i = output; i < end; ++i) {
        int32_t& count = memory.counts[id_at(i)];
        if (!count) continue;
        memory.logits[id_at(i)] -= job.frequency_penalty[row] * static_cast<float>(count) + job.presence_penalty[row];
        count = 0;
    }
}

// The k-th largest value. `values` are reordered; none is NaN.
float kth_largest(std::vector<float>& values, size_t k) {
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(values.begin(), at, values.end(), std::greater<float>());
    return *at;
}

void keep_top_k(const std::vector<float>& logits, size_t k, SamplerMemory& memory) {
    if (k == 0 || k >= logits.size()) return;
    std::vector<float>& sorted = memory.scratch;
    // Only what is at least the k-th largest of the first 16 k values can be among the k largest of all.
    const size_t sample = std::min(logits.size(), 16 * k);
    sorted.assign(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(sample));
    float threshold = kth_largest(sorted, k);
    if (sample < logits.size()) {
        sorted.clear();
        for (float logit : logits)
            if (logit >= threshold) sorted.push_back(logit);
        threshold = kth_largest(sorted, k);
    }
    for (size_t i = 0; i < logits.size(); ++i)
        if (logits[i] < threshold) memory.weights[i] = 0;
}

// Buckets of weights from 0 to 1 by their exponent and four bits of mantissa: likelier ones have higher numbers.
constexpr int BUCKET_SHIFT = 19;
constexpr size_t NUM_BUCKETS = (0x3F800000u >> BUCKET_SHIFT) + 1;
size_t bucket_of(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return bits >> BUCKET_SHIFT;
}

// Drop the tokens before which the likelier ones already reach top_p. Sorts only the bucket in which that happens.
void keep_top_p(double top_p, SamplerMemory& memory) {
    std::vector<float>& weights = memory.weights;
    const double enough = top_p * sum_of(weights);
    double sums[NUM_BUCKETS] = {};
    for (float weight : weights)
        if (weight > 0) sums[bucket_of(weight)] += static_cast<double>(weight);
    size_t last = NUM_BUCKETS - 1;  // the bucket in which it is reached
    double before = 0;
    for (; last > 0 && before + sums[last] < enough; --last) before += sums[last];

    std::vector<int32_t>& order = memory.order;
    order.clear();
    for (size_t i = 0; i < weights.size(); ++i) {
        if (!(weights[i] > 0)) continue;
        const size_t bucket = bucket_of(weights[i]);
        if (bucket == last) order.push_back(static_cast<int32_t>(i));
        else if (bucket < last) weights[i] = 0;
    }
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        const float left = weights[static_cast<size_t>(a)], right = weights[static_cast<size_t>(b)];
        return left != right ? left > right : a < b;
    });
    for (int32_t id : order) {
        float& weight = weights[static_cast<size_t>(id)];
        if (before < enough) before += static_cast<double>(weight);
        else weight = 0;
    }
}

// The first kept token whose cumulative weight exceeds u times the total.
int32_t draw(const std::vector<float>& weights, double u) {
    const double target = u * sum_of(weights);
    double cumulative = 0;
    int32_t last_kept = 0;
    for (size_t start = 0; start < weights.size(); start += SUM_BLOCK) {
        const size_t end = std::min(start + SUM_BLOCK, weights.size());
        const double total = block_sum(&weights[start], end - start);
        if (total > 0 && cumulative + total > target) {
            double inside = cumulative;
            for (size_t i = start; i < end; ++i) {
                if (weights[i] <= 0) continue;
                last_kept = static_cast<int32_t>(i);
                inside += static_cast<double>(weights[i]);
                if (inside > target) return last_kept;
            }
            return last_kept;  // the two ways to add differ in the last bit
        }
        cumulative += total;
    }
    for (size_t i = weights.size(); i > 0; --i)
        if (weights[i - 1] > 0) return static_cast<int32_t>(i - 1);
    return 0;
}

int32_t sample_row(const Kernels& kernels, const SampleJob& job, size_t row, SamplerMemory& memory) {
    const float* given = job.logits + row * job.vocabulary;
    const bool greedy = job.temperature[row] == 0;
    if (greedy && !is_modified(job, row))
        return first_at_least(given, job.vocabulary, kernels.largest(given, job.vocabulary));
    std::vector<float>& logits = memory.logits;
    const uint32_t* mask = mask_of(job, row);
    copy_allowed(given, mask, logits);
    add_biases(job, row, logits);
    add_penalties(job, row, memory);
    if (greedy) return most_likely(kernels, logits, mask);
    const float temperature = job.temperature[row];
    for (float& logit : logits) logit = logit / temperature;
    for (float& logit : logits) logit = logit == logit ? logit : NEVER;  // infinite logits and biases can make NaN
    const float highest = kernels.largest(logits.data(), logits.size());
    if (highest == NEVER) return lowest_allowed(mask, logits.size());
    kernels.exp_below(logits.data(), highest, logits.size(), memory.weights.data());
    if (const float min_p = job.min_p[row]; min_p > 0)
        for (float& weight : memory.weights) weight = weight < min_p ? 0 : weight;
    if (job.top_k[row] > 0) keep_top_k(logits, static_cast<size_t>(job.top_k[row]), memory);
    if (job.top_p[row] < 1) keep_top_p(static_cast<double>(job.top_p[row]), memory);
    return draw(memory.weights, uniform(job.seed[row], job.stream[row], job.position[row]));
}

void list_most_likely(const LogprobsJob& job, const float* logits, SamplerMemory& memory) {
    const auto value = [&](int32_t id) {
        const float logit = logits[static_cast<size_t>(id)];
        return logit == logit ? logit : NEVER;
    };
    memory.order.resize(job.vocabulary);
    for (size_t i = 0; i < job.vocabulary; ++i) memory.order[i] = static_cast<int32_t>(i);
    const auto middle = memory.order.begin() + static_cast<std::ptrdiff_t>(job.top);
    std::partial_sort(memory.order.begin(), middle, memory.order.end(), [&](int32_t a, int32_t b) {
        return value(a) != value(b) ? value(a) > value(b) : a < b;
    });
}

void logprobs_row(const Kernels& kernels, const LogprobsJob& job, size_t row, SamplerMemory& memory) {
    const float* logits = job.logits + row * job.vocabulary;
    const float highest = kernels.largest(logits, job.vocabulary);
    kernels.exp_below(logits, highest, job.vocabulary, memory.weights.data());
    const double log_total = std::log(sum_of(memory.weights));
    const auto logprob = [&](int32_t id) {
        const float logit = logits[static_cast<size_t>(id)];
        return static_cast<float>((logit == highest ? 0.0 : static_cast<double>(logit - highest)) - log_total);
    };
    const int32_t chosen = job.token_ids[row];
    int32_t rank = 1;
    for (size_t i = 0; i < job.vocabulary; ++i) rank += logits[i] > logits[static_cast<size_t>(chosen)];
    job.logprob[row] = logprob(chosen);
    job.rank[row] = rank;
    if (!job.top) return;
    list_most_likely(job, logits, memory);
    for (size_t i = 0; i < job.top; ++i) {
        job.top_ids[row * job.top + i] = memory.order[i];
        job.top_logprobs[row * job.top + i] = logprob(memory.order[i]);
    }
}

}  // namespace

void SamplerMemory::resize(size_t vocabulary) {
    logits.resize(vocabulary);
    weights.resize(vocabulary);
    counts.resize(vocabulary, 0);
    scratch.reserve(vocabulary);
    order.reserve(vocabulary);
}

void Backend::sample(const SampleJob& job) {
    for (SamplerMemory& memory : samplers_) memory.resize(job.vocabulary);
    pool_.run(job.num_rows, job.num_rows * job.vocabulary * 8 > PARALLEL_WORK, [&](size_t row, size_t thread) {
        job.out[row] = sample_row(kernels_, job, row, samplers_[thread]);
    });
}

void Backend::logprobs(const LogprobsJob& job) {
    for (SamplerMemory& memory : samplers_) memory.resize(job.vocabulary);
    pool_.run(job.num_rows, job.num_rows * job.vocabulary * 8 > PARALLEL_WORK,
              [&](size_t row, size_t thread) { logprobs_row(kernels_, job, row, samplers_[thread]); });
}

}  // namespace headrace
