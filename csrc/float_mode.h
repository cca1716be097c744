// The processor's treatment of floats while an operation runs.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace headrace {

// Subnormals are kept and sums round to the nearest even number, whatever the thread was set to before, and is again
// afterwards: a library beside us that flushes subnormals (as training does) must not change an answer, and all threads
// of an operation compute the same.
class IeeeFloats {
public:
    IeeeFloats() : before_(mode()) { set_mode(DEFAULT); }
    ~IeeeFloats() { set_mode(before_); }
    IeeeFloats(const IeeeFloats&) = delete;
    IeeeFloats& operator=(const IeeeFloats&) = delete;

private:
#if defined(__x86_64__)
    using Mode = uint32_t;
    static constexpr Mode DEFAULT = 0x1F80;  // MXCSR: no trap, nearest even, neither FTZ nor DAZ
    static Mode mode() { return _mm_getcsr(); }
    static void set_mode(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
    using Mode = uint64_t;
    static constexpr Mode DEFAULT = 0;  // FPCR: no trap, nearest even, no FZ
    static Mode mode() {
        Mode mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void set_mode(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
    using Mode = int;
    static constexpr Mode DEFAULT = 0;
    static Mode mode() { return DEFAULT; }
    static void set_mode(Mode) {}
#endif
    Mode before_;
};

}  // namespace headrace
