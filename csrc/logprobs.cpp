// Log-probabilities of chosen tokens and of the most likely ones.
#include <algorithm>
#include <cmath>

#include "backend.h"

namespace headrace {

namespace {

// The `job.top` most likely tokens come first in memory.order, best first, equal ones by id. memory.logits: without NaN.
void list_most_likely(const LogprobsJob& job, SamplerMemory& memory) {
    const std::vector<float>& logits = memory.logits;
    std::vector<int32_t>& order = memory.order;
    const float least = kth_largest(logits.data(), logits.size(), job.top, memory.scratch);
    order.clear();
    for (size_t i = 0; i < logits.size(); ++i)
        if (logits[i] >= least) order.push_back(static_cast<int32_t>(i));
    const auto middle = order.begin() + static_cast<std::ptrdiff_t>(job.top);
    std::partial_sort(order.begin(), middle, order.end(), [&](int32_t a, int32_t b) {
        const float left = logits[static_cast<size_t>(a)], right = logits[static_cast<size_t>(b)];
        return left != right ? left > right : a < b;
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
    const float chosen_logit = logits[static_cast<size_t>(chosen)];
    int32_t rank = 1;
    for (size_t i = 0; i < job.vocabulary; ++i) rank += logits[i] > chosen_logit;
    job.logprob[row] = logprob(chosen);
    job.rank[row] = rank;
    if (!job.top) return;
    for (size_t i = 0; i < job.vocabulary; ++i) memory.logits[i] = logits[i] == logits[i] ? logits[i] : NEVER;
    list_most_likely(job, memory);
    for (size_t i = 0; i < job.top; ++i) {
        job.top_ids[row * job.top + i] = memory.order[i];
        job.top_logprobs[row * job.top + i] = logprob(memory.order[i]);
    }
}

}  // namespace

void Backend::logprobs(const LogprobsJob& job) {
    for (SamplerMemory& memory : samplers_) memory.resize(job.vocabulary);
    pool_.run(job.num_rows, job.num_rows * job.vocabulary * 8 > PARALLEL_WORK,
              [&](size_t row, size_t thread) { logprobs_row(kernels_, job, row, samplers_[thread]); });
}

}  // namespace headrace
