// What changes single logits of a row before they become probabilities.
#include <algorithm>
#include <cmath>

#include "sampling.h"

namespace headrace {

namespace {

// A row's history, and where its output begins.
struct History {
    const int32_t* ids;
    int32_t size, output;
    size_t operator[](int32_t i) const { return static_cast<size_t>(ids[i]); }
};

History history_of(const SampleJob& job, const SamplingRow& row) {
    return {job.history + row.history_start, row.history_end - row.history_start, row.output_start - row.history_start};
}

struct Phrase {
    const int32_t* ids;
    int32_t size;
    // Whether `count` tokens before `end` are the phrase's first `count`.
    bool ends_at(const int32_t* end, int32_t count) const { return std::equal(ids, ids + count, end - count); }
};

Phrase phrase_of(const SampleJob& job, int32_t index) {
    const int32_t start = job.phrase_start[index];
    return {job.phrase_ids + start, job.phrase_start[index + 1] - start};
}

// How many tokens stand behind the last breaker, up to `most`.
int32_t tokens_behind_breaker(const SampleJob& job, const SamplingRow& row, const History& history, int32_t most) {
    const uint32_t* breakers = job.bits(job.token_sets, row.breaker_set);
    for (int32_t behind = 0; behind < most; ++behind) {
        const int32_t end = history.size - behind;
        if (breakers && contains(breakers, history[end - 1])) return behind;
        for (int32_t p = row.breaker_start; p < row.breaker_end; ++p) {
            const Phrase phrase = phrase_of(job, p);
            if (phrase.size <= end && phrase.ends_at(history.ids + end, phrase.size)) return behind;
        }
    }
    return most;
}

// matches[i]: how long the last tokens before the end of the history stand before its place i from the end, too. Gusfield's
// Z algorithm on the reversed window: linear, however often the text repeats itself.
void match_suffix(const int32_t* end, int32_t window, std::vector<int32_t>& matches) {
    const auto reversed = [&](int32_t i) { return end[-1 - i]; };
    matches.assign(static_cast<size_t>(window), 0);
    int32_t left = 0, right = 0;  // the match that reaches farthest: [left, right)
    for (int32_t i = 1; i < window; ++i) {
        int32_t length = i < right ? std::min(right - i, matches[static_cast<size_t>(i - left)]) : 0;
        while (i + length < window && reversed(length) == reversed(i + length)) ++length;
        matches[static_cast<size_t>(i)] = length;
        if (i + length > right) {
            left = i;
            right = i + length;
        }
    }
}

}  // namespace

void copy_allowed(const SampleJob& job, const SamplingRow& row, const float* given, std::vector<float>& logits) {
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = given[i] == given[i] ? given[i] : NEVER;
    for (const uint32_t* bits : {job.bits(job.masks, row.mask), job.bits(job.token_sets, row.allowed_set)}) {
        if (!bits) continue;
        for (size_t i = 0; i < logits.size(); ++i)
            if (!contains(bits, i)) logits[i] = NEVER;
    }
}

void add_biases(const SampleJob& job, const SamplingRow& row, std::vector<float>& logits) {
    for (int32_t i = row.bias_start; i < row.bias_end; ++i) {
        float& logit = logits[static_cast<size_t>(job.bias_ids[i])];
        logit += job.bias_values[i];
        if (!(logit == logit)) logit = NEVER;  // infinity, banned
    }
}

// The last token of each phrase whose other tokens are the last of the output.
void ban_phrases(const SampleJob& job, const SamplingRow& row, std::vector<float>& logits) {
    const History history = history_of(job, row);
    for (int32_t p = row.ban_start; p < row.ban_end; ++p) {
        const Phrase phrase = phrase_of(job, p);
        const int32_t before = phrase.size - 1;
        if (before == 0 || (before <= history.size - history.output && phrase.ends_at(history.ids + history.size, before)))
            logits[static_cast<size_t>(phrase.ids[before])] = NEVER;
    }
}

// Every token that would end an n-gram which stands in prompt or output.
void ban_repeated_ngrams(const SampleJob& job, const SamplingRow& row, std::vector<float>& logits) {
    const History history = history_of(job, row);
    const int32_t before = row.no_repeat_ngram_size - 1;
    if (before < 0 || before >= history.size) return;
    const int32_t* last = history.ids + history.size - before;
    for (int32_t i = before; i < history.size; ++i)
        if (std::equal(last, last + before, history.ids + i - before)) logits[history[i]] = NEVER;
}

// Repetition once for each id in prompt or output; frequency and presence for the ids in the output.
void add_penalties(const SampleJob& job, const SamplingRow& row, SamplerMemory& memory) {
    const float repetition = row.repetition_penalty;
    if (repetition == 1 && row.frequency_penalty == 0 && row.presence_penalty == 0) return;
    const History history = history_of(job, row);
    for (int32_t i = 0; i < history.size; ++i) {
        if (memory.counts[history[i]]) continue;
        memory.counts[history[i]] = -1;  // seen
        float& logit = memory.logits[history[i]];
        logit = logit > 0 ? logit / repetition : logit * repetition;
    }
    for (int32_t i = 0; i < history.size; ++i) memory.counts[history[i]] = 0;
    for (int32_t i = history.output; i < history.size; ++i) ++memory.counts[history[i]];
    for (int32_t i = history.output; i < history.size; ++i) {
        int32_t& count = memory.counts[history[i]];
        if (!count) continue;
        memory.logits[history[i]] -= row.frequency_penalty * static_cast<float>(count) + row.presence_penalty;
        count = 0;
    }
}

// DRY ("don't repeat yourself", p-e-w): a token that would continue a repetition of n tokens, n from allowed_length, loses
// multiplier * base^(n - allowed_length). Neither do repetitions reach over a breaker, nor is a breaker penalised.
void add_dry_penalties(const SampleJob& job, const SamplingRow& row, SamplerMemory& memory) {
    if (row.dry_multiplier == 0) return;
    const History history = history_of(job, row);
    const int32_t window = row.dry_penalty_last_n < 0 ? history.size : std::min(history.size, row.dry_penalty_last_n);
    const int32_t longest = tokens_behind_breaker(job, row, history, window);
    if (longest < row.dry_allowed_length) return;
    match_suffix(history.ids + history.size, window, memory.matches);
    const uint32_t* breakers = job.bits(job.token_sets, row.breaker_set);
    const auto follower = [&](int32_t i) { return history[history.size - i]; };
    for (int32_t i = 1; i < window; ++i) {
        int32_t& most = memory.counts[follower(i)];
        most = std::max(most, std::min(memory.matches[static_cast<size_t>(i)], longest));
    }
    for (int32_t i = 1; i < window; ++i) {
        const size_t token = follower(i);
        const int32_t length = memory.counts[token];
        memory.counts[token] = 0;
        if (length == 0 || length < row.dry_allowed_length || (breakers && contains(breakers, token))) continue;
        const double penalty = static_cast<double>(row.dry_multiplier) *
                               std::pow(static_cast<double>(row.dry_base), length - row.dry_allowed_length);
        memory.logits[token] -= static_cast<float>(std::min(penalty, 1e30));
    }
}

}  // namespace headrace
