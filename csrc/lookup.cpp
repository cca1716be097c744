#include "lookup.h"

#include <algorithm>
#include <bit>

namespace headrace {

namespace {

// As in the reference, which says what they mean.
constexpr size_t LONGEST = 18, LONG_MATCH = 4, CLOSE = 6, SEARCHES = 4;
constexpr size_t CLOSE_KIND = 6;
constexpr std::array<double, 7> FIRST_CHANCES = {0.15, 0.25, 0.4, 0.6, 0.75, 0.85, 0.4};
constexpr double RATE = 0.1, MOST_CHANCE = 0.97, LEAST_CHANCE = 0.08;

constexpr size_t SMALLEST_TABLE = 256;

}  // namespace

PromptLookup::PromptLookup(std::vector<int32_t> token_ids)
    : table_(std::bit_ceil(std::max(SMALLEST_TABLE, 4 * token_ids.size()))), chances_(FIRST_CHANCES) {
    tokens_.reserve(token_ids.size() + SMALLEST_TABLE);
    for (int32_t token_id : token_ids) {
        tokens_.push_back(token_id);
        enter();
    }
}

void PromptLookup::add(int32_t token_id) {
    tokens_.push_back(token_id);
    if (source_) check(tokens_[source_] == token_id);
    const size_t candidate = enter();
    if (!source_ && (candidate || searches_)) find(candidate);
}

std::vector<double> PromptLookup::chances(size_t most) const {
    std::vector<double> found;
    double chance = 1.0;
    for (size_t length = length_; source_ && found.size() < most; length = std::min(length + 1, LONGEST)) {
        chance *= chances_[kind_of(length)];
        if (chance < LEAST_CHANCE) break;
        found.push_back(chance);
    }
    return found;
}

std::vector<int32_t> PromptLookup::guess(size_t count) const {
    std::vector<int32_t> guessed;
    const size_t known = source_ ? tokens_.size() - source_ : 0;
    while (source_ && guessed.size() < count) {  // beyond the end it repeats what it has guessed
        const size_t at = guessed.size();
        guessed.push_back(at < known ? tokens_[source_ + at] : guessed[at - known]);
    }
    return guessed;
}

size_t PromptLookup::kind_of(size_t length) {
    constexpr std::array<uint8_t, LONGEST + 1> KINDS = {6, 6, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5};
    return KINDS[length];
}

// Where the pair's position stands or would stand; positions say which pair they belong to.
size_t& PromptLookup::slot_of(int32_t before, int32_t last) {
    const uint64_t pair = uint64_t{static_cast<uint32_t>(before)} << 32 | static_cast<uint32_t>(last);
    const size_t mask = table_.size() - 1;
    size_t slot = static_cast<size_t>(pair * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (table_[slot] && (tokens_[table_[slot] - 2] != before || tokens_[table_[slot] - 1] != last))
        slot = (slot + 1) & mask;
    return table_[slot];
}

// The last pair's position becomes its latest; the one before, 0 for none.
size_t PromptLookup::enter() {
    const size_t end = tokens_.size();
    if (end < 2) return 0;
    size_t& slot = slot_of(tokens_[end - 2], tokens_[end - 1]);
    const size_t before = slot;
    slot = end;
    if (!before && 2 * ++num_pairs_ > table_.size()) grow();
    return before;
}

void PromptLookup::grow() {
    std::vector<size_t> positions(2 * table_.size());
    positions.swap(table_);
    for (size_t position : positions)
        if (position) slot_of(tokens_[position - 2], tokens_[position - 1]) = position;
}

void PromptLookup::check(bool is_right) {
    const size_t kind = kind_of(length_);
    double& chance = chances_[kind];
    if (is_right) {
        chance += RATE * (MOST_CHANCE - chance);
        ++source_;
        length_ = std::min(std::max(length_, size_t{1}) + 1, LONGEST);
    } else {
        chance -= RATE * chance;
        if (length_ >= LONG_MATCH || kind == CLOSE_KIND) lost_ = source_, searches_ = SEARCHES;
        source_ = 0;
    }
}

void PromptLookup::find(size_t candidate) {
    const size_t end = tokens_.size(), longest = std::min(LONGEST, candidate);
    size_t length = 0;
    while (length < longest && tokens_[candidate - 1 - length] == tokens_[end - 1 - length]) ++length;
    if (length < 2) {  // one token alone says little, but for those behind a failed match
        candidate = find_close();
        length = candidate ? 1 : 0;
    }
    if (candidate) searches_ = 0;
    source_ = candidate;
    length_ = length;
}

// The position after the last token close to where a long match failed; 0 if it is not there.
size_t PromptLookup::find_close() {
    if (!searches_) return 0;
    --searches_;
    const size_t last = std::min(lost_ + CLOSE, tokens_.size() - 1);
    for (size_t at = lost_; at < last; ++at)
        if (tokens_[at] == tokens_.back()) return at + 1;
    return 0;
}

}  // namespace headrace
