#include "huge_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace headrace {

namespace {

constexpr size_t HUGE_PAGE = size_t{1} << 21;
constexpr size_t SLAB = size_t{1} << 28;  // of addresses, not of memory
constexpr size_t ALIGNMENT = 64;

}  // namespace

void HugeMemory::Unmap::operator()(uint8_t*) const { munmap(mapping, size); }

HugeMemory::HugeMemory(size_t bytes) {
    const size_t size = bytes + HUGE_PAGE;
    if (size < bytes) throw std::bad_alloc();
    void* mapping = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    const size_t lead = (HUGE_PAGE - reinterpret_cast<uintptr_t>(mapping) % HUGE_PAGE) % HUGE_PAGE;
    memory_ = {static_cast<uint8_t*>(mapping) + lead, Unmap{mapping, size}};
#if defined(MADV_HUGEPAGE)
    if (bytes >= HUGE_PAGE / 4) madvise(memory_.get(), bytes, MADV_HUGEPAGE);  // a wish: without huge pages it is slower, nothing else
#endif
}

std::shared_ptr<uint8_t[]> SlabMemory::take(size_t bytes) {
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (!slab_ || size_ - used_ < bytes) {
        const size_t size = (std::max(bytes, SLAB) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        slab_ = std::make_shared<HugeMemory>(size);
        size_ = size;
        used_ = 0;
    }
    uint8_t* piece = slab_->data() + used_;
    used_ += bytes;
    return {slab_, piece};
}

}  // namespace headrace
