// Which compiled sets this machine can run.
#include "kernels.h"

namespace headrace {

extern const Kernels kernels_baseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512vnni;
#endif

namespace {

struct InstructionSet {
    std::string_view name;
    bool supported;
    const Kernels* kernels;
};

// Best first. The compilers' CPUID builtins also ask whether the operating system saves the wide registers.
std::vector<InstructionSet> all_sets() {
    std::vector<InstructionSet> sets;
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    sets.push_back({"avx512vnni", vnni, &kernels_avx512vnni});
    sets.push_back({"avx512", avx512, &kernels_avx512});
    sets.push_back({"avx2", avx2, &kernels_avx2});
#endif
    sets.push_back({"baseline", true, &kernels_baseline});
    return sets;
}

}  // namespace

std::vector<std::string_view> instruction_sets() {
    std::vector<std::string_view> names;
    for (const InstructionSet& set : all_sets())
        if (set.supported) names.push_back(set.name);
    return names;
}

const Kernels* find_kernels(std::string_view name) {
    for (const InstructionSet& set : all_sets())
        if (set.supported && set.name == name) return set.kernels;
    return nullptr;
}

}  // namespace headrace
