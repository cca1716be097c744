// Prompt lookup: what follows in a text is guessed to be what followed when its last few tokens stood in it earlier.
// headrace/ops/reference_lookup.py says the same in Python, and more about it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace headrace {

// One sequence's own tokens. Every number is that of the reference, to the bit.
class PromptLookup {
public:
    // Begins with these tokens, among which nothing was guessed.
    explicit PromptLookup(std::vector<int32_t> token_ids);

    size_t size() const { return tokens_.size(); }
    void add(int32_t token_id);
    // That the next guess is right; 0 without one.
    double chance() const { return source_ ? chances_[kind_of(length_)] : 0.0; }
    // That the first 1, 2 … guesses are all right: `most` at most, those that are worth a thought.
    std::vector<double> chances(size_t most) const;
    std::vector<int32_t> guess(size_t count) const;

private:
    static size_t kind_of(size_t length);
    size_t& slot_of(int32_t before, int32_t last);
    size_t enter();
    void grow();
    void check(bool is_right);
    void find(size_t candidate);
    size_t find_close();

    std::vector<int32_t> tokens_;
    std::vector<size_t> table_;  // by a hash of a pair of tokens: the position after its latest occurrence; 0 is empty
    size_t num_pairs_ = 0;
    std::array<double, 7> chances_;
    size_t source_ = 0;    // the position of the token that is expected next; 0 for none
    size_t length_ = 0;    // tokens before it that are the same as the last ones, as far as they are told apart
    size_t lost_ = 0;      // where a long match failed …
    size_t searches_ = 0;  // … and how often it is still looked for
};

}  // namespace headrace
