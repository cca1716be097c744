#include "kv_cache.h"

#include <new>

namespace headrace {

KVCache::KVCache(KVType type, size_t num_layers, size_t num_blocks, size_t block_size, size_t num_kv_heads,
                 size_t head_dim)
    : num_layers_(num_layers),
      num_blocks_(num_blocks),
      view_{nullptr, type, block_size, num_kv_heads, head_dim, (head_dim + 15) / 16 * 16} {
    // calloc of this size maps fresh pages, which the system zeroes when they are first touched.
    memory_.reset(static_cast<unsigned char*>(std::calloc(nbytes() ? nbytes() : 1, 1)));
    if (!memory_) throw std::bad_alloc();
}

}  // namespace headrace
