// The paged key-value cache, in the layout of CacheView.
#pragma once

#include "huge_memory.h"
#include "kernels.h"

namespace headrace {

// [blocks][layers]: a block's layers lie side by side, so that the memory in use is in one place as long as the engine
// takes low block ids first, and huge pages cost at most one of them in all, not one for each layer.
class KVCache {
public:
    // Zeroed lazily: memory that no token has been written to costs nothing. Throws std::bad_alloc.
    KVCache(KVType type, size_t num_layers, size_t num_blocks, size_t block_size, size_t num_kv_heads, size_t head_dim);

    size_t num_layers() const { return num_layers_; }
    size_t num_blocks() const { return num_blocks_; }
    size_t block_size() const { return view_.block_size; }
    size_t num_kv_heads() const { return view_.num_kv_heads; }
    size_t head_dim() const { return view_.head_dim; }
    size_t nbytes() const { return num_blocks_ * view_.block_stride * bytes_of(view_.type); }

    // Keys and values of all layers; both are below num_blocks(). The blocks may be the same.
    void copy_block(size_t from, size_t to);

    CacheView layer(size_t index) const {
        CacheView view = view_;
        view.data = memory_.data() + index * layer_bytes();
        return view;
    }

private:
    uint8_t* block(size_t index) const { return memory_.data() + index * view_.block_stride * bytes_of(view_.type); }
    size_t layer_bytes() const { return view_.num_kv_heads * view_.head_stride() * bytes_of(view_.type); }

    size_t num_layers_, num_blocks_;
    CacheView view_;
    HugeMemory memory_;
};

}  // namespace headrace
