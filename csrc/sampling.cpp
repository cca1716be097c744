#include "sampling.h"

#include <algorithm>
#include <cmath>

#include "backend.h"

namespace headrace {

namespace {

// What a random number is for: its own word of the generator's counter, so that no two uses share a number.
enum class Purpose : uint32_t { token = 0, exclude_top_choices = 1 };

// Philox4x32-10 (Salmon et al., SC'11): key = seed, counter = (position, stream, purpose, 0); 53 bits as a fraction of 1.
double uniform(const SamplingRow& row, Purpose purpose) {
    uint32_t key[2] = {static_cast<uint32_t>(row.seed), static_cast<uint32_t>(row.seed >> 32)};
    uint32_t counter[4] = {row.position, row.stream, static_cast<uint32_t>(purpose), 0};
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

int32_t first_at_least(const float* x, size_t n, float value) {
    for (size_t i = 0; i < n; ++i)
        if (x[i] >= value) return static_cast<int32_t>(i);
    return 0;
}

bool is_modified(const SamplingRow& row) {
    return row.bias_end > row.bias_start || row.history_end > row.history_start || row.ban_end > row.ban_start ||
           row.mask >= 0 || row.allowed_set >= 0;
}

// For a row of which nothing is left: the mask, which may be a grammar's, stands above the allowed set, both above bans.
int32_t lowest_allowed(const SampleJob& job, const SamplingRow& row) {
    const uint32_t *mask = job.bits(job.masks, row.mask), *allowed = job.bits(job.token_sets, row.allowed_set);
    const auto lowest = [&](const uint32_t* one, const uint32_t* two) {
        for (size_t i = 0; i < job.vocabulary; ++i)
            if ((!one || contains(one, i)) && (!two || contains(two, i))) return static_cast<int32_t>(i);
        return -1;
    };
    const int32_t both = lowest(mask, allowed);
    return std::max(both >= 0 ? both : lowest(mask, nullptr), 0);
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

// From temperature - range to temperature + range, by the entropy of the allowed tokens as a part of the most it could be.
float dynamic_temperature(const Kernels& kernels, const SamplingRow& row, float highest, SamplerMemory& memory) {
    kernels.exp_below(memory.logits.data(), highest, memory.logits.size(), memory.weights.data());
    const auto count = memory.logits.size() - static_cast<size_t>(std::count(memory.logits.begin(), memory.logits.end(), NEVER));
    if (count < 2) return row.temperature;
    const double total = sum_of(memory.weights);
    const double entropy = std::log(total) - mean_logit(memory.logits, memory.weights, highest, total);
    const double part = std::clamp(entropy / std::log(static_cast<double>(count)), 0.0, 1.0);
    const double low = std::max(static_cast<double>(row.temperature) - static_cast<double>(row.dynatemp_range), 0.0);
    const double high = static_cast<double>(row.temperature) + static_cast<double>(row.dynatemp_range);
    return static_cast<float>(low + (high - low) * std::pow(part, static_cast<double>(row.dynatemp_exponent)));
}

int32_t draw_row(const Kernels& kernels, SamplingRow& row, float highest, SamplerMemory& memory) {
    std::vector<float>& logits = memory.logits;
    const float temperature = row.dynatemp_range > 0 ? dynamic_temperature(kernels, row, highest, memory) : row.temperature;
    if (temperature == 0) return first_at_least(logits.data(), logits.size(), highest);
    for (float& logit : logits) logit = logit / temperature;
    const float scaled = highest / temperature;
    kernels.exp_below(logits.data(), scaled, logits.size(), memory.weights.data());
    if (row.mirostat) filter_by_surprise(row, memory);
    else filter(row, scaled, row.xtc_probability > 0 ? uniform(row, Purpose::exclude_top_choices) : 1.0, memory);
    const int32_t drawn = draw(memory.weights, uniform(row, Purpose::token));
    if (row.mirostat) follow_mirostat(row, memory.weights, drawn);
    return drawn;
}

int32_t sample_row(const Kernels& kernels, const SampleJob& job, size_t at, SamplerMemory& memory) {
    const float* given = job.logits + at * job.vocabulary;
    SamplingRow& row = job.rows[at];
    const bool greedy = row.temperature == 0;
    if (greedy && !is_modified(row)) return first_at_least(given, job.vocabulary, kernels.largest(given, job.vocabulary));
    std::vector<float>& logits = memory.logits;
    copy_allowed(job, row, given, logits);
    add_biases(job, row, logits);
    ban_phrases(job, row, logits);
    if (row.history_end > row.history_start) {
        ban_repeated_ngrams(job, row, logits);
        add_penalties(job, row, memory);
        add_dry_penalties(job, row, memory);
    }
    const float highest = kernels.largest(logits.data(), logits.size());
    if (highest == NEVER) return lowest_allowed(job, row);
    if (greedy) return first_at_least(logits.data(), logits.size(), highest);
    return draw_row(kernels, row, highest, memory);
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

}  // namespace headrace
