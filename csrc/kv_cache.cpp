#include "kv_cache.h"

#include <cstring>

namespace headrace {

namespace {

constexpr size_t SPREAD = 4096;           // bytes
constexpr size_t SPREAD_FROM = 64 * SPREAD;

// Blocks an odd multiple of SPREAD apart, where that is little beside a block: a head's keys lie at the same place of
// each block, and a stride of a large power of two would have all of them compete for the same few lines of a cache.
size_t spread(size_t block_bytes) {
    if (block_bytes < SPREAD_FROM) return block_bytes;
    return ((block_bytes + SPREAD - 1) / SPREAD | 1) * SPREAD;
}

}  // namespace

KVCache::KVCache(KVType type, size_t num_layers, size_t num_blocks, size_t block_size, size_t num_kv_heads,
                 size_t head_dim)
    : num_layers_(num_layers),
      num_blocks_(num_blocks),
      view_{nullptr, type, block_size, num_kv_heads, head_dim, (head_dim + 15) / 16 * 16, 0} {
    view_.block_stride = spread(num_layers * layer_bytes()) / bytes_of(type);
    memory_ = HugeMemory(nbytes());
}

void KVCache::copy_block(size_t from, size_t to) {
    if (from != to) std::memcpy(block(to), block(from), num_layers_ * layer_bytes());
}

}  // namespace headrace
