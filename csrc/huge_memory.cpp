#include "huge_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace headrace {

namespace {

constexpr size_t HUGE_PAGE = size_t{1} << 21;
constexpr size_t ALIGNMENT = 64;

size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

#if defined(__SANITIZE_ADDRESS__)

// From the sanitizer's own allocator, one piece at a time, so that it sees whoever leaves one.
constexpr size_t SLAB = 0;

void HugeMemory::Unmap::operator()(uint8_t* memory) const { std::free(memory); }

HugeMemory::HugeMemory(size_t bytes) {
    const size_t size = rounded_up(std::max<size_t>(bytes, 1), ALIGNMENT);
    void* memory = std::aligned_alloc(ALIGNMENT, size);
    if (!memory) throw std::bad_alloc();
    std::memset(memory, 0, size);
    memory_ = {static_cast<uint8_t*>(memory), Unmap{memory, size}};
}

#else

constexpr size_t SLAB = size_t{1} << 28;  // of addresses, not of memory

void HugeMemory::Unmap::operator()(uint8_t*) const { munmap(mapping, size); }

HugeMemory::HugeMemory(size_t bytes) {
    const size_t size = bytes + HUGE_PAGE;
    if (size < bytes) throw std::bad_alloc();
    void* mapping = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    const size_t lead = rounded_up(reinterpret_cast<uintptr_t>(mapping), HUGE_PAGE) - reinterpret_cast<uintptr_t>(mapping);
    memory_ = {static_cast<uint8_t*>(mapping) + lead, Unmap{mapping, size}};
#if defined(MADV_HUGEPAGE)
    // A wish: without huge pages it is slower, nothing else. What is far smaller than one would only waste the rest.
    if (bytes >= HUGE_PAGE / 4) madvise(memory_.get(), bytes, MADV_HUGEPAGE);
#endif
}

#endif

std::shared_ptr<uint8_t[]> SlabMemory::take(size_t bytes) {
    bytes = rounded_up(bytes, ALIGNMENT);
    if (!slab_ || size_ - used_ < bytes) {
        size_ = std::max(bytes, SLAB);
        slab_ = std::make_shared<HugeMemory>(size_);
        used_ = 0;
    }
    uint8_t* piece = slab_->data() + used_;
    used_ += bytes;
    return {slab_, piece};
}

}  // namespace headrace
