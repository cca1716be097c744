#include <algorithm>
#include <functional>

#include "sampling.h"

namespace headrace {

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

double mean_logit(const std::vector<float>& logits, const std::vector<float>& weights, float highest, double total) {
    double lanes[8] = {};
    for (size_t i = 0; i < logits.size(); ++i)
        if (weights[i] > 0 && logits[i] < highest)
            lanes[i % 8] += static_cast<double>(weights[i]) * (static_cast<double>(logits[i]) - static_cast<double>(highest));
    double sum = 0;
    for (double lane : lanes) sum += lane;
    return sum / total;
}

float kth_largest(const float* values, size_t count, size_t k, std::vector<float>& scratch) {
    const auto largest_of_scratch = [&] {
        const auto at = scratch.begin() + static_cast<std::ptrdiff_t>(k - 1);
        std::nth_element(scratch.begin(), at, scratch.end(), std::greater<float>());
        return *at;
    };
    // Only what is at least the k-th largest of the first ones can be among the k largest of all.
    const size_t sample = std::min(count, std::max(16 * k, count / 32));
    scratch.assign(values, values + sample);
    const float threshold = largest_of_scratch();
    if (sample == count) return threshold;
    scratch.clear();
    for (size_t i = 0; i < count; ++i)
        if (values[i] >= threshold) scratch.push_back(values[i]);
    return largest_of_scratch();
}

}  // namespace headrace
