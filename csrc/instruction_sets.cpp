// Which compiled sets this machine can run.
#include "kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace headrace {

extern const Kernels kernels_baseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512vnni;
#elif defined(__aarch64__)
extern const Kernels kernels_neon_dotprod;
extern const Kernels kernels_neon_i8mm;
#endif

namespace {

struct InstructionSet {
    std::string_view name;
    bool supported;
    const Kernels* kernels;
};

#if defined(__aarch64__)
struct ArmFeatures {
    bool dotprod = false, i8mm = false;
};

#if defined(__linux__)
// HWCAP_ASIMDDP and HWCAP2_I8MM of Linux's <asm/hwcap.h>; older headers do not name them.
ArmFeatures arm_features() {
    return {(getauxval(AT_HWCAP) >> 20 & 1) != 0, (getauxval(AT_HWCAP2) >> 13 & 1) != 0};
}
#elif defined(__APPLE__)
bool has_feature(const char* name) {
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
ArmFeatures arm_features() {
    return {has_feature("hw.optional.arm.FEAT_DotProd"), has_feature("hw.optional.arm.FEAT_I8MM")};
}
#else
ArmFeatures arm_features() { return {}; }
#endif
#endif

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
#elif defined(__aarch64__)
    const ArmFeatures arm = arm_features();
    sets.push_back({"neon_i8mm", arm.dotprod && arm.i8mm, &kernels_neon_i8mm});
    sets.push_back({"neon_dotprod", arm.dotprod, &kernels_neon_dotprod});
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
