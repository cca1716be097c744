#include "pool.h"

#include <unistd.h>

#include "float_mode.h"

namespace headrace {

namespace {

constexpr int SPINS_BEFORE_SLEEP = 4000;  // some tens of microseconds: longer than the gap between two operations

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

float* Scratch::floats(size_t count) {
    if (count > capacity_) {
        capacity_ = 0;
        memory_ = {};  // first, so that both do not count at once
        memory_ = HugeMemory(count * sizeof(float));
        capacity_ = count;
    }
    return reinterpret_cast<float*>(memory_.data());
}

Pool::Pool(size_t num_threads) : scratch_(num_threads), process_(static_cast<int>(getpid())) {
    for (size_t thread = 1; thread < num_threads; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
}

Pool::~Pool() {
    if (static_cast<int>(getpid()) != process_) {
        new std::vector<std::thread>(std::move(workers_));  // a fork's child: there is nothing to join; leak the handles
        return;
    }
    stopping_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Pool::run_on_all(size_t pieces, Function function, const void* work) {
    function_ = function;
    work_ = work;
    left_.store(pieces, std::memory_order_relaxed);
    const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 48) + 1;
    ticket_.store(generation << 48 | static_cast<uint64_t>(pieces) << 24, std::memory_order_release);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    take_pieces(0);
    wait_for_zero(left_);
}

void Pool::wait_for_zero(const std::atomic<size_t>& count) {
    for (int spins = 0; count.load(std::memory_order_acquire); ++spins) {
        if (spins < SPINS_BEFORE_SLEEP) pause();
        else std::this_thread::yield();
    }
}

void Pool::take_pieces(size_t thread) {
    constexpr uint64_t mask = (1u << 24) - 1;
    while (true) {
        const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
        const size_t piece = ticket & mask, pieces = (ticket >> 24) & mask;
        if (piece >= pieces) return;
        function_(work_, piece, thread);
        left_.fetch_sub(1, std::memory_order_acq_rel);
    }
}

void Pool::serve(size_t thread) {
    const IeeeFloats floats;
    uint32_t seen = 0;
    while (true) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP && epoch_.load(std::memory_order_acquire) == seen; ++spins) pause();
        epoch_.wait(seen);
        seen = epoch_.load();
        if (stopping_.load()) return;
        take_pieces(thread);
    }
}

}  // namespace headrace
