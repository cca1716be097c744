// What drops tokens from a row's weights. None of them drops all.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "sampling.h"

namespace headrace {

namespace {

// Top-nσ (Tang et al. 2024): tokens whose logit is at least the highest less n standard deviations of all that are allowed.
void keep_top_n_sigma(double n, float highest, SamplerMemory& memory) {
    const float* logits = memory.logits.data();
    const size_t size = memory.logits.size();
    const double count = lane_sum(size, [=](size_t i) { return logits[i] == NEVER ? 0.0 : 1.0; });
    const double mean = lane_sum(size, [=](size_t i) { return logits[i] == NEVER ? 0.0 : static_cast<double>(logits[i]); }) / count;
    const double squares = lane_sum(size, [=](size_t i) {
        const double distance = static_cast<double>(logits[i]) - mean;
        return logits[i] == NEVER ? 0.0 : distance * distance;
    });
    const double least = static_cast<double>(highest) - n * std::sqrt(squares / count);
    float* weights = memory.weights.data();
    for (size_t i = 0; i < size; ++i) weights[i] = static_cast<double>(logits[i]) < least ? 0 : weights[i];
}

void keep_min_p(float min_p, std::vector<float>& weights) {
    for (float& weight : weights) weight = weight < min_p ? 0 : weight;
}

void keep_top_k(size_t k, SamplerMemory& memory) {
    if (k >= memory.logits.size()) return;
    const float threshold = kth_largest(memory.logits.data(), memory.logits.size(), k, memory.scratch);
    for (size_t i = 0; i < memory.logits.size(); ++i)
        if (memory.logits[i] < threshold) memory.weights[i] = 0;
}

// The bits of floats that are not negative rise as they do; buckets take their exponent and four bits of mantissa.
constexpr int BUCKET_SHIFT = 19;
constexpr size_t NUM_BUCKETS = (0x7F800000u >> BUCKET_SHIFT) + 1;
uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// Keep the tokens of the lowest keys until their weights reach that share of the whole; equal keys in order of id.
// `key_of(id)` is from 0 to the bits of infinity. Sorts only the bucket in which it is reached.
template <class Key>
void keep_until(double share, Key key_of, SamplerMemory& memory) {
    std::vector<float>& weights = memory.weights;
    const double enough = share * sum_of(weights);
    double sums[NUM_BUCKETS] = {};
    for (size_t i = 0; i < weights.size(); ++i)
        if (weights[i] > 0) sums[key_of(i) >> BUCKET_SHIFT] += static_cast<double>(weights[i]);
    size_t last = 0;  // the bucket in which it is reached
    double before = 0;
    for (; last < NUM_BUCKETS - 1 && before + sums[last] < enough; ++last) before += sums[last];

    std::vector<int32_t>& order = memory.order;
    order.clear();
    for (size_t i = 0; i < weights.size(); ++i) {
        if (!(weights[i] > 0)) continue;
        const size_t bucket = key_of(i) >> BUCKET_SHIFT;
        if (bucket == last) order.push_back(static_cast<int32_t>(i));
        else if (bucket > last) weights[i] = 0;
    }
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        const uint32_t left = key_of(static_cast<size_t>(a)), right = key_of(static_cast<size_t>(b));
        return left != right ? left < right : a < b;
    });
    for (int32_t id : order) {
        float& weight = weights[static_cast<size_t>(id)];
        if (before < enough) before += static_cast<double>(weight);
        else weight = 0;
    }
}

// Likelier tokens have lower keys. Weights are at most 1.
void keep_top_p(double top_p, SamplerMemory& memory) {
    keep_until(top_p, [&](size_t i) { return 0x3F800000u - bits_of(memory.weights[i]); }, memory);
}

// Locally typical (Meister et al. 2022): those whose surprise is nearest to the entropy. With logits l below the highest,
// surprise less entropy is the mean of l less l: the logarithm of the sum falls out.
void keep_typical(double typical_p, float highest, SamplerMemory& memory) {
    const double mean = mean_logit(memory.logits, memory.weights, highest, sum_of(memory.weights));
    const float* logits = memory.logits.data();
    memory.scratch.resize(memory.logits.size());
    float* distances = memory.scratch.data();
    for (size_t i = 0; i < memory.logits.size(); ++i) {
        const double below = static_cast<double>(logits[i]) - static_cast<double>(highest);
        distances[i] = static_cast<float>(std::abs(mean - (logits[i] < highest ? below : 0.0)));
    }
    keep_until(typical_p, [=](size_t i) { return bits_of(distances[i]); }, memory);
}

// XTC ("exclude top choices", p-e-w): of two or more tokens at least as likely as the threshold only the least likely stays.
void exclude_top_choices(double threshold, std::vector<float>& weights) {
    const double least = threshold * sum_of(weights);
    size_t count = 0, last = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] <= 0 || static_cast<double>(weights[i]) < least) continue;
        if (count == 0 || weights[i] <= weights[last]) last = i;
        ++count;
    }
    if (count < 2) return;
    for (size_t i = 0; i < weights.size(); ++i)
        if (i != last && static_cast<double>(weights[i]) >= least) weights[i] = 0;
}

}  // namespace

void filter(const SamplingRow& row, float highest, double xtc_draw, SamplerMemory& memory) {
    if (row.top_n_sigma > 0) keep_top_n_sigma(static_cast<double>(row.top_n_sigma), highest, memory);
    if (row.min_p > 0) keep_min_p(row.min_p, memory.weights);
    if (row.top_k > 0) keep_top_k(static_cast<size_t>(row.top_k), memory);
    if (row.typical_p < 1) keep_typical(static_cast<double>(row.typical_p), highest, memory);
    if (row.top_p < 1) keep_top_p(static_cast<double>(row.top_p), memory);
    if (xtc_draw < static_cast<double>(row.xtc_probability))
        exclude_top_choices(static_cast<double>(row.xtc_threshold), memory.weights);
}

// Mirostat 2.0 (Basu et al. 2021): tokens whose surprise is at most mu bits, at least the most likely one.
void filter_by_surprise(const SamplingRow& row, SamplerMemory& memory) {
    const double least = sum_of(memory.weights) * std::exp2(-static_cast<double>(row.mirostat_mu));
    const auto best = std::find(memory.weights.begin(), memory.weights.end(), 1.0f);  // the highest logit's
    for (float& weight : memory.weights) weight = static_cast<double>(weight) < least ? 0 : weight;
    *best = 1;
}

void follow_mirostat(SamplingRow& row, const std::vector<float>& weights, int32_t drawn) {
    const double surprise = std::log2(sum_of(weights) / static_cast<double>(weights[static_cast<size_t>(drawn)]));
    const double error = surprise - static_cast<double>(row.mirostat_tau);
    row.mirostat_mu = static_cast<float>(static_cast<double>(row.mirostat_mu) - static_cast<double>(row.mirostat_eta) * error);
}

}  // namespace headrace
