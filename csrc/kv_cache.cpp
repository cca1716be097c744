#include "kv_cache.h"

#include <sys/mman.h>

#include <new>

namespace headrace {

namespace {

constexpr size_t HUGE_PAGE = size_t{1} << 21;
constexpr size_t SPREAD = 4096;           // bytes
constexpr size_t SPREAD_FROM = 64 * SPREAD;

// Blocks an odd multiple of SPREAD apart, where that is little beside a block: a head's keys lie at the same place of
// each block, and a stride of a large power of two would have all of them compete for the same few lines of a cache.
size_t spread(size_t block_bytes) {
    if (block_bytes < SPREAD_FROM) return block_bytes;
    return ((block_bytes + SPREAD - 1) / SPREAD | 1) * SPREAD;
}

}  // namespace

void KVCache::Unmap::operator()(unsigned char*) const { munmap(mapping, size); }

KVCache::KVCache(KVType type, size_t num_layers, size_t num_blocks, size_t block_size, size_t num_kv_heads,
                 size_t head_dim)
    : num_layers_(num_layers),
      num_blocks_(num_blocks),
      view_{nullptr, type, block_size, num_kv_heads, head_dim, (head_dim + 15) / 16 * 16, 0} {
    view_.block_stride = spread(num_layers * layer_bytes()) / bytes_of(type);
    const size_t size = nbytes() + HUGE_PAGE;
    void* mapping = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    const size_t lead = (HUGE_PAGE - reinterpret_cast<uintptr_t>(mapping) % HUGE_PAGE) % HUGE_PAGE;
    memory_ = {static_cast<unsigned char*>(mapping) + lead, Unmap{mapping, size}};
#if defined(MADV_HUGEPAGE)
    madvise(memory_.get(), nbytes(), MADV_HUGEPAGE);  // a wish: without huge pages it is slower, nothing else
#endif
}

}  // namespace headrace
