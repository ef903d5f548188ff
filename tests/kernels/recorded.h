// Records a kernel's accesses to shared memory. The kernel is compiled with -fsanitize=thread, so that the compiler
// announces each access of the unmodified source, and linked without that sanitizer: the functions that are called
// stand here, behind cuda_cpu.h. Instructions of ptx.cuh are announced by macros (recording.py), which stand behind it.

#include <stddef.h>

#define RECORDER __attribute__((no_sanitize("thread")))  // else it would be called for itself

extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));  // where the library begins

namespace {
namespace cuda_cpu {

enum AccessKind { READ, WRITE, MATRIX_LOAD, ASYNC_COPY };  // recording.py holds their twins

struct Access {
    uint64_t site;  // where in the library the access is made
    uint32_t address;
    int32_t thread, bytes, kind;
};

Access* accesses;
size_t access_count, access_room;
int inside_twin[MAX_THREADS];  // what the twin of an instruction does for itself is no access of the kernel

RECORDER uint64_t site_of(const void* return_address) { return (const char*)return_address - __ehdr_start; }

RECORDER void record(uint64_t site, uint32_t address, int bytes, AccessKind kind) {
    if (running->block.x || running->block.y || running->block.z) return;  // the first block will do
    if (access_count == access_room) {
        access_room = access_room ? 2 * access_room : 4096;
        accesses = (Access*)realloc(accesses, access_room * sizeof(Access));
    }
    accesses[access_count++] = {site, address, running->number, bytes, kind};
}

RECORDER void record_plain(const void* pointer, int bytes, AccessKind kind, const void* site) {
    if (!running || inside_twin[running->number]) return;
    const char* at = (const char*)pointer;
    const bool dynamic = at >= dynamic_shared && at < dynamic_shared + shared_bytes;
    if (dynamic || (at >= __start_cuda_shared && at < __stop_cuda_shared))
        record(site_of(site), address_of(pointer), bytes, kind);
}

struct Twin {  // lives while the twin of an instruction runs
    const int thread;
    RECORDER Twin() : thread(running->number) { inside_twin[thread]++; }
    RECORDER Twin(unsigned address, AccessKind kind) : Twin() {
        record(site_of(__builtin_return_address(0)), address, 16, kind);
    }
    RECORDER ~Twin() { inside_twin[thread]--; }
};

}  // namespace cuda_cpu
}  // namespace

#define RECORDED_FUNCTION extern "C" __attribute__((visibility("hidden"), used, no_sanitize("thread"))) void
#define RECORDED_ACCESS(name, bytes, kind) \
    RECORDED_FUNCTION __tsan_##name##bytes(void* pointer) { \
        cuda_cpu::record_plain(pointer, bytes, cuda_cpu::kind, __builtin_return_address(0)); \
    }
#define RECORDED_ACCESSES(bytes) \
    RECORDED_ACCESS(read, bytes, READ) \
    RECORDED_ACCESS(write, bytes, WRITE) \
    RECORDED_ACCESS(unaligned_read, bytes, READ) \
    RECORDED_ACCESS(unaligned_write, bytes, WRITE)
RECORDED_ACCESSES(1)
RECORDED_ACCESSES(2)
RECORDED_ACCESSES(4)
RECORDED_ACCESSES(8)
RECORDED_ACCESSES(16)
RECORDED_FUNCTION __tsan_init() {}
RECORDED_FUNCTION __tsan_func_entry(void*) {}
RECORDED_FUNCTION __tsan_func_exit() {}
RECORDED_FUNCTION __tsan_read_range(void*, size_t) {}  // of odd sizes: none of shared memory is
RECORDED_FUNCTION __tsan_write_range(void*, size_t) {}

extern "C" __attribute__((visibility("default"))) RECORDER const void* cuda_cpu_accesses(size_t* count) {
    *count = cuda_cpu::access_count;
    cuda_cpu::access_count = 0;
    return cuda_cpu::accesses;
}
