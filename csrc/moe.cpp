// Mixture of experts: route every token, gather the tokens of each expert, run all experts' matrices as one job each.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend.h"

namespace headrace {

namespace {

struct Choice {
    size_t token, rank, expert;
    float share;
};

// softmax over all experts, then the top_k best by share, ties to the lower expert. NaN is never better than a number.
void route(float* logits, size_t num_experts, const MoeJob& job, size_t token, Choice* choices) {
    float highest = -INFINITY, total = 0.0f;
    for (size_t e = 0; e < num_experts; ++e) highest = std::max(highest, logits[e]);
    for (size_t e = 0; e < num_experts; ++e) total += logits[e] = std::exp(logits[e] - highest);
    for (size_t e = 0; e < num_experts; ++e) logits[e] /= total;
    float chosen = 0.0f;
    std::vector<bool> taken(num_experts, false);
    for (size_t rank = 0; rank < job.top_k; ++rank) {
        size_t best = num_experts;
        for (size_t e = 0; e < num_experts; ++e)
            if (!taken[e] && (best == num_experts || logits[e] > logits[best])) best = e;
        taken[best] = true;
        choices[rank] = {token, rank, best, logits[best]};
        chosen += logits[best];
    }
    for (size_t rank = 0; job.normalize && rank < job.top_k; ++rank) choices[rank].share /= chosen;
}

}  // namespace

void Backend::moe(const MoeJob& job) {
    const size_t num_experts = job.gate_up.size(), hidden = job.router->columns();
    const size_t inner = job.down[0]->columns(), num_routes = job.num_tokens * job.top_k;
    float* logits = router_out_.floats(job.num_tokens * num_experts);
    linear({job.router, job.x, job.num_tokens, logits});
    std::vector<Choice> choices(num_routes);  // [token][rank]
    for (size_t t = 0; t < job.num_tokens; ++t)
        route(logits + t * num_experts, num_experts, job, t, &choices[t * job.top_k]);

    std::vector<size_t> start(num_experts + 1, 0), slot(num_routes);  // each expert's rows, and each choice's row
    for (const Choice& choice : choices) ++start[choice.expert + 1];
    for (size_t e = 0; e < num_experts; ++e) start[e + 1] += start[e];
    std::vector<size_t> next(start.begin(), start.end() - 1);
    float* x = routed_.floats(num_routes * hidden);
    for (size_t i = 0; i < num_routes; ++i) {
        slot[i] = next[choices[i].expert]++;
        std::memcpy(x + slot[i] * hidden, job.x + choices[i].token * hidden, hidden * sizeof(float));
    }

    float* gate_up = inner_.floats(num_routes * 2 * inner);
    float* active = activated_.floats(num_routes * inner);
    float* down = expert_out_.floats(num_routes * hidden);
    std::vector<LinearJob> first, second;
    for (size_t e = 0; e < num_experts; ++e) {
        const size_t count = start[e + 1] - start[e];
        if (!count) continue;
        first.push_back({job.gate_up[e], x + start[e] * hidden, count, gate_up + start[e] * 2 * inner});
        second.push_back({job.down[e], active + start[e] * inner, count, down + start[e] * hidden});
    }
    linears(first);
    activate(job.activation, gate_up, true, num_routes, inner, active);
    linears(second);
    pool_.run(job.num_tokens, num_routes * hidden > PARALLEL_WORK, [&](size_t t, size_t) {
        float* out = job.out + t * hidden;
        for (size_t rank = 0; rank < job.top_k; ++rank) {
            const size_t i = t * job.top_k + rank;
            kernels_.scale_add(down + slot[i] * hidden, choices[i].share, rank ? out : nullptr, hidden, out);
        }
        kernels_.scale_add(out, job.scale, job.add ? job.add + t * hidden : nullptr, hidden, out);
    });
}

}  // namespace headrace
