// Counts large allocations of the process that it is preloaded into: every way through the C library's allocator.
//
//     LD_PRELOAD=./allocations.so python ...      then, from Python: ctypes.CDLL(None).large_allocations()
#include <atomic>
#include <cstddef>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static constexpr size_t LARGE = 1 << 20;
static std::atomic<long> count{0};

static void seen(size_t size) {
    if (size > LARGE) ++count;
}

long large_allocations() { return count; }

void* malloc(size_t size) {
    seen(size);
    return __libc_malloc(size);
}

void* calloc(size_t number, size_t size) {
    seen(number * size);
    return __libc_calloc(number, size);
}

void* realloc(void* old, size_t size) {
    seen(size);
    return __libc_realloc(old, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
    seen(size);
    return __libc_memalign(alignment, size);
}

void* memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }

int posix_memalign(void** out, size_t alignment, size_t size) {
    *out = aligned_alloc(alignment, size);
    return *out ? 0 : 12;  // ENOMEM
}
}
