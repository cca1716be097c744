// Memory for what is read from end to end: in huge pages where the system gives them, since a page that the processor has
// to look up ends its prefetching.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace headrace {

// A mapping that starts at a huge page. Zeroed lazily: memory that nothing is written to costs nothing.
class HugeMemory {
public:
    HugeMemory() = default;
    explicit HugeMemory(size_t bytes);  // throws std::bad_alloc
    uint8_t* data() const { return memory_.get(); }

private:
    struct Unmap {
        void* mapping;
        size_t size;
        void operator()(uint8_t*) const;
    };
    std::unique_ptr<uint8_t[], Unmap> memory_;
};

// Hands out memory side by side from slabs, so that small pieces lie in huge pages too, and in the order of the calls.
class SlabMemory {
public:
    // Aligned to 64 bytes. A slab is given back when the last piece of it is gone. Throws std::bad_alloc.
    std::shared_ptr<uint8_t[]> take(size_t bytes);

private:
    std::shared_ptr<HugeMemory> slab_;
    size_t used_ = 0, size_ = 0;
};

}  // namespace headrace
