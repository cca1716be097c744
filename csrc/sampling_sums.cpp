#include <algorithm>
#include <functional>

#include "sampling.h"

namespace headrace {

double block_sum(const float* weights, size_t n) {
    return lane_sum(n, [&](size_t i) { return static_cast<double>(weights[i]); });
}

double sum_of(const std::vector<float>& weights) {
    double total = 0;
    for (size_t i = 0; i < weights.size(); i += SUM_BLOCK)
        total += block_sum(&weights[i], std::min(SUM_BLOCK, weights.size() - i));
    return total;
}

double mean_logit(const std::vector<float>& logits, const std::vector<float>& weights, float highest, double total) {
    const float *logit = logits.data(), *weight = weights.data();
    const auto share = [=](size_t i) {
        const double below = static_cast<double>(logit[i]) - static_cast<double>(highest);
        return weight[i] > 0 && logit[i] < highest ? static_cast<double>(weight[i]) * below : 0.0;
    };
    return lane_sum(logits.size(), share) / total;
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
