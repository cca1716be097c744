// The most that an instruction set does: the loops behind the limits that benchmarks are held against.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace headrace {
namespace {

// Reads all of `count` floats, a multiple of READ_STREAMS * LANES, as that many streams; returns something made of all.
float read_streams(const float* data, size_t count) {
    constexpr size_t ahead = 256;  // floats: 1 KiB
    const size_t each = count / READ_STREAMS;
    f32x16 seen[READ_STREAMS];
    for (f32x16& one : seen) one = set1(0.0f);
    for (size_t i = 0; i < each; i += LANES)
        for (size_t stream = 0; stream < READ_STREAMS; ++stream) {
            const float* from = data + stream * each + i;
            __builtin_prefetch(from + ahead);
            seen[stream] = max(seen[stream], load(from));
        }
    f32x16 all = seen[0];
    for (const f32x16& one : seen) all = max(all, one);
    alignas(64) float lanes[LANES];
    store(lanes, all);
    float largest = lanes[0];
    for (float lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
}

// Independent sums that hide the latency of a multiply-add: as many as the registers hold.
#if defined(__AVX512F__)
constexpr size_t CHAINS = 16;
#else
constexpr size_t CHAINS = 6;
#endif

// `rounds` multiply-adds of 16 lanes on each of CHAINS sums; returns the number of operations, two for each.
size_t multiply_adds(size_t rounds, float* out) {
    f32x16 sums[CHAINS];
    for (size_t chain = 0; chain < CHAINS; ++chain) sums[chain] = set1(static_cast<float>(chain));
    const f32x16 half = set1(0.5f), one = set1(1.0f);  // every sum goes to 2
    for (size_t round = 0; round < rounds; ++round)
#pragma GCC unroll 16
        for (size_t chain = 0; chain < CHAINS; ++chain) sums[chain] = fma(sums[chain], half, one);
    for (size_t chain = 1; chain < CHAINS; ++chain) sums[0] = sums[0] + sums[chain];
    store(out, sums[0]);
    return 2 * LANES * CHAINS * rounds;
}

}  // namespace
}  // namespace headrace
