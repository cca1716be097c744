// The machine's limits, measured with the pool and the instruction set that the operations use.
#include <atomic>
#include <chrono>

#include "backend.h"

namespace headrace {

namespace {

constexpr size_t READ_PIECE = 1u << 18;     // floats that a thread reads at a time: 1 MiB
constexpr size_t COMPUTE_ROUNDS = 1u << 15; // of a piece: some tenths of a millisecond
constexpr size_t COMPUTE_PIECES = 16;       // for each thread

class Clock {
public:
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

double Backend::read_rate(const float* data, size_t count) {
    const size_t pieces = count / READ_PIECE;
    for (size_t thread = 0; thread < pool_.num_threads(); ++thread) pool_.scratch(thread).floats(LANES_OF_RESULT);
    const Clock clock;
    pool_.run(pieces, true, [&](size_t piece, size_t thread) {
        *pool_.scratch(thread).floats(LANES_OF_RESULT) = kernels_.read_streams(data + piece * READ_PIECE, READ_PIECE);
    });
    return static_cast<double>(pieces * READ_PIECE * sizeof(float)) / clock.seconds();
}

double Backend::compute_rate(size_t (*loop)(size_t rounds, float* out)) {
    for (size_t thread = 0; thread < pool_.num_threads(); ++thread) pool_.scratch(thread).floats(LANES_OF_RESULT);
    const size_t pieces = COMPUTE_PIECES * pool_.num_threads();
    std::atomic<size_t> operations{0};
    const Clock clock;
    pool_.run(pieces, true, [&](size_t, size_t thread) {
        operations += loop(COMPUTE_ROUNDS, pool_.scratch(thread).floats(LANES_OF_RESULT));
    });
    return static_cast<double>(operations.load()) / clock.seconds();
}

}  // namespace headrace
