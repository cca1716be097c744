// The paged key-value cache: float16, in the layout of CacheView.
#pragma once

#include <cstdlib>
#include <memory>

#include "kernels.h"

namespace headrace {

class KVCache {
public:
    // Zeroed lazily: memory that no token has been written to costs nothing. Throws std::bad_alloc.
    KVCache(size_t num_layers, size_t num_blocks, size_t block_size, size_t num_kv_heads, size_t head_dim);

    size_t num_layers() const { return num_layers_; }
    size_t num_blocks() const { return num_blocks_; }
    size_t block_size() const { return view_.block_size; }
    size_t num_kv_heads() const { return view_.num_kv_heads; }
    size_t head_dim() const { return view_.head_dim; }
    size_t nbytes() const { return num_layers_ * num_blocks_ * view_.block_stride() * sizeof(uint16_t); }

    CacheView layer(size_t index) const {
        CacheView view = view_;
        view.data += index * num_blocks_ * view_.block_stride();
        return view;
    }

private:
    struct Free {
        void operator()(uint16_t* p) const { std::free(p); }
    };
    size_t num_layers_, num_blocks_;
    CacheView view_;
    std::unique_ptr<uint16_t[], Free> memory_;
};

}  // namespace headrace
