// The most that an instruction set does: the loops behind the limits that benchmarks are held against.
#pragma once

#include "kernels.h"
#include "simd_integer.h"

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
constexpr size_t CHAINS = 16, DOT_CHAINS = 12;
#else
constexpr size_t CHAINS = 6, DOT_CHAINS = 4;
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

// The same of the kernels' products of bytes: one load of weights for DOT_CHAINS groups of activations.
size_t dots(size_t rounds, float* out) {
    alignas(64) uint8_t weights[64];
    alignas(64) int8_t activations[4 * DOT_CHAINS];
    for (size_t i = 0; i < sizeof(weights); ++i) weights[i] = static_cast<uint8_t>(i % 16);
    for (size_t i = 0; i < sizeof(activations); ++i) activations[i] = static_cast<int8_t>(i % 3) - 1;
    i32x16 sums[DOT_CHAINS];
    for (i32x16& sum : sums) sum = set1_i32(0);
    for (size_t round = 0; round < rounds; ++round) {
        const uint8_t* from = weights;
        const int8_t* x = activations;
        asm volatile("" : "+r"(from), "+r"(x));  // so that they are read again: nothing is known from the round before
        const u8x64 loaded = load_64(from);
#pragma GCC unroll 16
        for (size_t chain = 0; chain < DOT_CHAINS; ++chain) Dot<0>::add(sums[chain], loaded, x + 4 * chain);
    }
    f32x16 all = set1(0.0f);
    for (const i32x16& sum : sums) all = all + to_float(sum);
    store(out, all);
    return 2 * 4 * LANES * DOT_CHAINS * rounds;
}

}  // namespace
}  // namespace headrace
