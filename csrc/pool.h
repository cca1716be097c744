// Threads that share the pieces of one operation at a time, and give each thread its scratch memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "huge_memory.h"

namespace headrace {

// 64-byte aligned floats that grow and never shrink; contents are lost when they grow.
class Scratch {
public:
    float* floats(size_t count);

private:
    HugeMemory memory_;
    size_t capacity_ = 0;
};

// One caller at a time (`lock` it); the caller works too. A worker spins for a moment after its last piece, then sleeps.
//
// After fork() the child has no workers: operations still work there, on the calling thread alone, if no operation was
// running in the parent at the time of the fork.
class Pool {
public:
    explicit Pool(size_t num_threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    size_t num_threads() const { return scratch_.size(); }
    std::mutex& lock() { return lock_; }
    Scratch& scratch(size_t thread) { return scratch_[thread]; }

    // work(piece, thread) for each of the pieces, in any order. On the caller alone if `parallel` is false or there is
    // one piece. `work` must not throw.
    template <class Work>
    void run(size_t pieces, bool parallel, const Work& work) {
        if (!parallel || pieces < 2 || num_threads() < 2 || pieces > MAX_PIECES) {
            for (size_t piece = 0; piece < pieces; ++piece) work(piece, size_t{0});
            return;
        }
        run_on_all(pieces, [](const void* self, size_t piece, size_t thread) {
            (*static_cast<const Work*>(self))(piece, thread);
        }, &work);
    }

    // Returns when other threads have counted down; what they wrote before is to be seen then.
    static void wait_for_zero(const std::atomic<size_t>& count);

private:
    using Function = void (*)(const void* work, size_t piece, size_t thread);
    static constexpr size_t MAX_PIECES = (1u << 23) - 1;

    void run_on_all(size_t pieces, Function function, const void* work);
    void take_pieces(size_t thread);
    void serve(size_t thread);

    // The job on offer: generation (16 bits), number of pieces (24), next piece (24). A thread takes a piece by adding
    // one; whoever gets a piece below the number may read function_ and work_, which stay until that piece is done.
    std::atomic<uint64_t> ticket_{0};
    std::atomic<uint32_t> epoch_{0};  // counts jobs; workers wait for it to change
    std::atomic<size_t> left_{0};     // pieces that are not done
    std::atomic<bool> stopping_{false};
    Function function_ = nullptr;
    const void* work_ = nullptr;
    std::mutex lock_;
    std::vector<Scratch> scratch_;
    std::vector<std::thread> workers_;
    int process_;
};

}  // namespace headrace
