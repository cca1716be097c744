// Prompt lookup, from Python: the texts are lists of token ids, of which only what is new is read.
#include "bind.h"
#include "lookup.h"

using namespace nanobind::literals;

namespace headrace {
namespace {

void take(PromptLookup& lookup, const nb::list& text) {
    const size_t size = text.size();
    check(lookup.size() <= size, "a text is shorter than it was");
    for (size_t at = lookup.size(); at < size; ++at) lookup.add(nb::cast<int32_t>(text[at]));
}

std::vector<size_t> follow(const nb::list& lookups, const nb::list& texts, double least) {
    check(lookups.size() == texts.size(), "lookups and texts must have the same size");
    std::vector<size_t> found;
    for (size_t i = 0; i < lookups.size(); ++i) {
        PromptLookup& lookup = nb::cast<PromptLookup&>(lookups[i]);
        take(lookup, nb::cast<nb::list>(texts[i]));
        const double chance = lookup.chance();
        if (chance > 0 && chance >= least) found.push_back(i);
    }
    return found;
}

}  // namespace

void bind_lookup(nb::module_& m) {
    nb::class_<PromptLookup>(m, "PromptLookup", "Guesses what follows in a text from what stood in it earlier.")
        .def(nb::init<std::vector<int32_t>>(), "token_ids"_a)
        .def("guess", &PromptLookup::guess, "count"_a)
        .def("chances", &PromptLookup::chances, "most"_a);
    m.def("follow", &follow, "lookups"_a, "texts"_a, "least"_a,
          "Take in what is new in each text; those whose next guess is right with chance `least` or more.");
}

}  // namespace headrace
