// The machine underneath cuda_cpu.h: a grid of blocks, one block at a time, one fiber per CUDA thread, one OS thread.
//
//     scheduler ──resume──> fiber (a thread of the block)      runs until it meets a barrier or ends
//         ^                    │
//         └─────suspend────────┘   state: at a block barrier, at a warp barrier (or exchange), done
//
// A fiber switch is a dozen instructions, so that a block of 256 threads costs microseconds. Nothing runs in parallel:
// what depends on the order of the threads is found by running them forward, in reverse and at random, and by
// ThreadSanitizer, which is told of every fiber and of every barrier, and of nothing else.
//
// Everything is static: each kernel is a library of its own, with its own machine.

#pragma once

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define CUDA_CPU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define CUDA_CPU_TSAN 1
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

// The machine's own memory is no business of ThreadSanitizer: it would take the scheduler for a racing thread, or for
// one that synchronises what the kernel doesn't.
#ifdef CUDA_CPU_TSAN
#define CUDA_CPU_UNSEEN __attribute__((no_sanitize("thread"), noinline)) static
#else
#define CUDA_CPU_UNSEEN static inline
#endif
#define CUDA_CPU_WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#if defined(__x86_64__) && !defined(CUDA_CPU_UCONTEXT)
#define CUDA_CPU_ASSEMBLY 1
// Saves what a call must preserve on the stack, and the stack's pointer in *save; then the same from `load`, backwards.
extern "C" void cuda_cpu_switch(void** save, void* load);
asm(R"(.text
.weak cuda_cpu_switch
.hidden cuda_cpu_switch
.type cuda_cpu_switch,@function
cuda_cpu_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
.size cuda_cpu_switch,.-cuda_cpu_switch
)");
#else
#include <ucontext.h>
#endif

// Where the linker has put all static shared memory (the sanitizers instrument no section of our own).
#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
extern "C" {
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
}
#endif

namespace {
namespace cuda_cpu {

struct Index { unsigned x, y, z; };

enum Order { FORWARD, REVERSE, RANDOM };

struct Config {  // what the launcher gives; builder.py holds its twin
    unsigned grid[3], block[3];
    uint64_t shared_bytes;
    int order, poison;
    uint64_t seed;
    char* stacks;  // of MAX_THREADS fibers, shared by all kernels of the process: they run one at a time
};

constexpr int MAX_THREADS = 1024, LANES = 32, WORDS = 8;
constexpr size_t MAX_SHARED = 232448;  // 227 KiB, sm_90 and sm_100
constexpr size_t SHARED_PAD = 4096;    // behind the dynamic shared memory: holds a pattern, checked after each block
constexpr unsigned char PAD_PATTERN = 0xA7;
constexpr size_t STACK_BYTES = 256 * 1024;  // builder.py says so too
constexpr uint64_t STACK_CANARY = 0x5AFE57AC5AFE57ACull;

enum State { RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

using Resolve = void (*)(uint32_t (*board)[WORDS]);

struct Copy {  // an asynchronous copy to shared memory that nobody has waited for yet
    char* destination;
    const void* source;
    int bytes, group;  // bytes read; the rest of the 16 are zeros
};

struct Fiber {
    Index thread, block;  // what the kernel sees as threadIdx and blockIdx
    int number, lane, warp;
    State state;
    const char* file;  // where it waits
    int line;
    unsigned mask;  // for whom, at a warp barrier
    Resolve resolve;
    int posted;  // words it offers in an exchange
    uint32_t post[WORDS];
    Copy* copies;
    int copies_pending, copies_capacity, group;
    char* stack;
    void* stack_pointer;
    void *tsan, *fake_stack;
#ifndef CUDA_CPU_ASSEMBLY
    ucontext_t context;
#endif
};

Fiber fibers[MAX_THREADS];
Fiber* running;
Index block_size, grid_size;
uint32_t board[MAX_THREADS / LANES][LANES][WORDS];  // what the lanes of a warp have exchanged
alignas(1024) char dynamic_shared[MAX_SHARED + SHARED_PAD];
size_t shared_bytes;  // of which the launch gave
char error_message[512];
int error_code;

void* scheduler_stack_pointer;
#ifndef CUDA_CPU_ASSEMBLY
ucontext_t scheduler_context;
#endif
[[maybe_unused]] void *scheduler_tsan, *scheduler_fake_stack;
[[maybe_unused]] const void* scheduler_stack_bottom;
[[maybe_unused]] size_t scheduler_stack_size;
// Variables that stand for a barrier before ThreadSanitizer. They alternate: with one alone, a fast thread's arrival at
// the next barrier would reach a slow thread that leaves this one, and hide a race.
[[maybe_unused]] char block_barrier[2], warp_barrier[MAX_THREADS / LANES][2], end_of_block;
unsigned block_epoch, warp_epoch[MAX_THREADS / LANES];

void (*entry)(void*);
void* entry_argument;
Order thread_order;
uint64_t random_state;

CUDA_CPU_UNSEEN uint64_t random_word() {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Dull;
}

CUDA_CPU_UNSEEN void arrange(int* items, int count, Order order) {
    for (int i = 0; i < count / 2 && order == REVERSE; i++) {
        const int last = items[count - 1 - i];
        items[count - 1 - i] = items[i];
        items[i] = last;
    }
    for (int i = count - 1; i > 0 && order == RANDOM; i--) {
        const int j = (int)(random_word() % (uint64_t)(i + 1)), swapped = items[i];
        items[i] = items[j];
        items[j] = swapped;
    }
}

__attribute__((format(printf, 1, 2))) CUDA_CPU_UNSEEN void report(const char* format, ...) {
    if (error_code) return;  // the first error counts
    error_code = 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_message, sizeof error_message, format, arguments);
    va_end(arguments);
}

// ---- fiber switches -------------------------------------------------------------------------------------------------

__attribute__((noinline)) CUDA_CPU_UNSEEN void suspend() {
    Fiber* self = running;
#ifdef CUDA_CPU_ASAN
    __sanitizer_start_switch_fiber(self->state == DONE ? nullptr : &self->fake_stack, scheduler_stack_bottom,
                                   scheduler_stack_size);
#endif
#ifdef CUDA_CPU_TSAN
    __tsan_switch_to_fiber(scheduler_tsan, 1);  // 1: the switch synchronises nothing
#endif
#ifdef CUDA_CPU_ASSEMBLY
    cuda_cpu_switch(&self->stack_pointer, scheduler_stack_pointer);
#else
    swapcontext(&self->context, &scheduler_context);
#endif
#ifdef CUDA_CPU_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, &scheduler_stack_bottom, &scheduler_stack_size);
#endif
}

__attribute__((noinline)) CUDA_CPU_UNSEEN void resume(Fiber* fiber) {
    running = fiber;
#ifdef CUDA_CPU_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, STACK_BYTES);
#endif
#ifdef CUDA_CPU_TSAN
    __tsan_switch_to_fiber(fiber->tsan, 1);
#endif
#ifdef CUDA_CPU_ASSEMBLY
    cuda_cpu_switch(&scheduler_stack_pointer, fiber->stack_pointer);
#else
    swapcontext(&scheduler_context, &fiber->context);
#endif
#ifdef CUDA_CPU_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
    running = nullptr;
}

// An error inside a thread: the launch ends here, and its fibers are never resumed.
#define CUDA_CPU_FAIL(...)              \
    do {                                \
        cuda_cpu::report(__VA_ARGS__);  \
        cuda_cpu::suspend();            \
    } while (true)

__attribute__((noinline)) CUDA_CPU_UNSEEN void fiber_main() {
#ifdef CUDA_CPU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_bottom, &scheduler_stack_size);
#endif
    entry(entry_argument);
#ifdef CUDA_CPU_TSAN
    __tsan_release(&end_of_block);
#endif
    running->state = DONE;
    suspend();
    __builtin_trap();
}

CUDA_CPU_UNSEEN void prepare(Fiber* fiber) {
#ifdef CUDA_CPU_ASSEMBLY
    void** top = (void**)(fiber->stack + STACK_BYTES);
    *--top = nullptr;               // keeps the stack aligned as after a call
    *--top = (void*)&fiber_main;    // where the first switch returns to
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    fiber->stack_pointer = top;
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_main, 0);
#endif
    fiber->state = RUNNING;
    fiber->fake_stack = nullptr;
    memcpy(fiber->stack, &STACK_CANARY, sizeof STACK_CANARY);
}

#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
#define CUDA_CPU_CHECKED 1

// An address that doesn't exist, in a thread of the kernel: an error of the launch, not the end of the process.
alignas(16) char signal_stack[64 * 1024];
const int caught_signals[] = {SIGSEGV, SIGBUS};
struct sigaction previous_actions[2];
stack_t previous_signal_stack;

void on_bad_address(int signal, siginfo_t* info, void*) {
    if (!running) {  // not a thread of the kernel: not ours
        sigaction(signal, &previous_actions[signal == SIGBUS], nullptr);
        return;
    }
    CUDA_CPU_FAIL("thread (%u, %u, %u) of block (%u, %u, %u) uses address %p, which isn't mapped, or is misaligned",
                  running->thread.x, running->thread.y, running->thread.z, running->block.x, running->block.y,
                  running->block.z, info->si_addr);
}

void catch_bad_addresses(bool begin) {
    if (begin) {
        stack_t stack = {};
        stack.ss_sp = signal_stack;
        stack.ss_size = sizeof signal_stack;
        sigaltstack(&stack, &previous_signal_stack);
    }
    for (int i = 0; i < 2; i++) {
        struct sigaction action = {};
        action.sa_sigaction = on_bad_address;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler never returns
        if (begin) sigaction(caught_signals[i], &action, &previous_actions[i]);
        else sigaction(caught_signals[i], &previous_actions[i], nullptr);
    }
    if (!begin) sigaltstack(&previous_signal_stack, nullptr);
}
#endif

// ---- barriers and exchanges, called by fibers -----------------------------------------------------------------------

CUDA_CPU_UNSEEN Fiber& self() { return *running; }

CUDA_CPU_UNSEEN void wait_for_block(const char* file, int line) {
    running->state = AT_BLOCK_BARRIER;
    running->file = file;
    running->line = line;
#ifdef CUDA_CPU_TSAN
    char* barrier = &block_barrier[block_epoch & 1];
    __tsan_release(barrier);
    suspend();
    __tsan_acquire(barrier);
#else
    suspend();
#endif
}

// Waits for the lanes of `mask`. Only __syncwarp orders memory: shuffles and votes promise nothing of the kind.
CUDA_CPU_UNSEEN void wait_for_warp(unsigned mask, bool orders_memory, const char* file, int line) {
    running->state = AT_WARP_BARRIER;
    running->mask = mask;
    running->file = file;
    running->line = line;
#ifdef CUDA_CPU_TSAN
    char* barrier = &warp_barrier[running->warp][warp_epoch[running->warp] & 1];
    if (orders_memory) __tsan_release(barrier);
    suspend();
    if (orders_memory) __tsan_acquire(barrier);
#else
    (void)orders_memory;
    suspend();
#endif
}

// Every lane of `mask` offers `count` words and meets the others once; then each may `fetch` what any of them offered,
// or what `resolve` made of it for the whole warp.
CUDA_CPU_UNSEEN void exchange(unsigned mask, const uint32_t* words, int count, Resolve resolve, const char* file,
                              int line) {
    volatile uint32_t* post = running->post;  // volatile: no call of memcpy, which ThreadSanitizer would see
    for (int i = 0; i < count; i++) post[i] = words[i];
    running->posted = count;
    running->resolve = resolve;
    wait_for_warp(mask, false, file, line);
}

CUDA_CPU_UNSEEN void fetch(uint32_t* words, int lane, int count) {
    const volatile uint32_t* offered = board[running->warp][lane];
    for (int i = 0; i < count; i++) words[i] = offered[i];
}

// ---- shared memory as PTX sees it: 32-bit addresses, the dynamic part from 0 on -------------------------------------

CUDA_CPU_UNSEEN unsigned address_of(const void* pointer) { return (unsigned)((const char*)pointer - dynamic_shared); }

CUDA_CPU_UNSEEN char* shared_pointer(unsigned address, unsigned bytes, const char* file, int line) {
    char* pointer = dynamic_shared + (int)address;
    bool inside = address + (size_t)bytes <= shared_bytes;
#if defined(CUDA_CPU_ASAN) || defined(CUDA_CPU_TSAN)
    inside = inside || address >= MAX_SHARED;  // a static variable, perhaps
#else
    inside = inside || (pointer >= __start_cuda_shared && pointer + bytes <= __stop_cuda_shared);
#endif
    if (!inside)
        CUDA_CPU_FAIL("%s:%d: out of bounds: thread %d uses shared memory at byte %d, and %zu bytes were given", file,
                      line,
                      running->number, (int)address, shared_bytes);
    if (address % bytes)
        CUDA_CPU_FAIL("%s:%d: misaligned: thread %d uses %u bytes of shared memory at byte %d", file, line,
                      running->number,
                      bytes, (int)address);
    return pointer;
}

CUDA_CPU_UNSEEN void defer(const Copy& copy) {
    Fiber& fiber = *running;
    if (fiber.copies_pending == fiber.copies_capacity) {
        fiber.copies_capacity = fiber.copies_capacity ? 2 * fiber.copies_capacity : 32;
        fiber.copies = (Copy*)realloc(fiber.copies, fiber.copies_capacity * sizeof(Copy));
    }
    fiber.copies[fiber.copies_pending++] = copy;
}

// The oldest pending copy, if its group is older than `group`.
CUDA_CPU_UNSEEN bool take(int group, Copy* copy) {
    Fiber& fiber = *running;
    if (!fiber.copies_pending || fiber.copies[0].group >= group) return false;
    *copy = fiber.copies[0];
    fiber.copies_pending--;
    for (int i = 0; i < fiber.copies_pending; i++) fiber.copies[i] = fiber.copies[i + 1];
    return true;
}

// ---- the scheduler --------------------------------------------------------------------------------------------------

CUDA_CPU_UNSEEN unsigned existing_lanes(int first, int threads) {
    return threads - first >= LANES ? ~0u : (1u << (threads - first)) - 1;
}

// Lets those lanes of a warp go on whose barrier is complete. True if there were any.
CUDA_CPU_UNSEEN bool release_warp(int warp, int threads) {
    const int first = warp * LANES, count = threads - first < LANES ? threads - first : LANES;
    Fiber* const lanes = fibers + first;
    bool released = false;
    for (int i = 0; i < count; i++) {
        if (lanes[i].state != AT_WARP_BARRIER) continue;
        const Fiber& waiting = lanes[i];
        const unsigned mask = waiting.mask & existing_lanes(first, threads);
        if (!(mask >> i & 1)) {
            report("%s:%d: thread %d names lanes %08x in a warp operation, and not itself (lane %d)", waiting.file,
                   waiting.line, first + i, waiting.mask, i);
            return false;
        }
        unsigned arrived = 0;
        for (int j = 0; j < count; j++)
            if (lanes[j].state == AT_WARP_BARRIER && lanes[j].mask == waiting.mask && lanes[j].line == waiting.line)
                arrived |= 1u << j;
        if ((arrived & mask) != mask) continue;
        for (int j = 0; j < count; j++)
            if (mask >> j & 1) {
                lanes[j].state = RUNNING;
                for (int word = 0; word < lanes[j].posted; word++) board[warp][j][word] = lanes[j].post[word];
                lanes[j].posted = 0;
            }
        if (lanes[i].resolve) lanes[i].resolve(board[warp]);
        for (int j = 0; j < count; j++)
            if (mask >> j & 1) lanes[j].resolve = nullptr;
        warp_epoch[warp]++;
        released = true;
    }
    return released;
}

// Runs a warp until none of its lanes can go on alone.
CUDA_CPU_UNSEEN void run_warp(int warp, int threads) {
    const int first = warp * LANES, count = threads - first < LANES ? threads - first : LANES;
    int order[LANES];
    for (int i = 0; i < count; i++) order[i] = first + i;
    if (thread_order == REVERSE) arrange(order, count, REVERSE);
    do {
        if (thread_order == RANDOM) arrange(order, count, RANDOM);
        for (int i = 0; i < count; i++)
            if (fibers[order[i]].state == RUNNING) {
                resume(&fibers[order[i]]);
                if (error_code) return;
            }
    } while (release_warp(warp, threads) && !error_code);
}

// True if all threads stand at one block barrier, or all are done; else the error is named.
CUDA_CPU_UNSEEN bool barrier_is_complete(int threads, bool* done) {
    int finished = 0;
    const Fiber* waiting = nullptr;
    for (int i = 0; i < threads; i++) {
        const Fiber& fiber = fibers[i];
        if (fiber.state == DONE) {
            finished++;
        } else if (fiber.state == AT_WARP_BARRIER) {
            report("%s:%d: deadlock: thread %d waits in a warp operation for lanes %08x, and not all of them arrive",
                   fiber.file,
                   fiber.line, i, fiber.mask);
            return false;
        } else if (!waiting) {
            waiting = &fiber;
        } else if (waiting->line != fiber.line || waiting->file != fiber.file) {
            report("%s:%d: divergent barrier: thread %d waits here, thread %d waits at %s:%d", waiting->file,
                   waiting->line,
                   waiting->number, i, fiber.file, fiber.line);
            return false;
        }
    }
    *done = finished == threads;
    if (finished && !*done) {
        report("%s:%d: divergent barrier: %d of %d threads wait here, the others have ended", waiting->file,
               waiting->line,
               threads - finished, threads);
        return false;
    }
    return true;
}

CUDA_CPU_UNSEEN void run_block(int threads) {
    const int warps = (threads + LANES - 1) / LANES;
    bool done = false;
    while (!done && !error_code) {
        int order[MAX_THREADS / LANES];
        for (int warp = 0; warp < warps; warp++) order[warp] = warp;
        arrange(order, warps, thread_order);
        for (int i = 0; i < warps && !error_code; i++) run_warp(order[i], threads);
        if (error_code || !barrier_is_complete(threads, &done)) return;
        block_epoch++;
        for (int i = 0; i < threads && !done; i++) fibers[i].state = RUNNING;
    }
}

CUDA_CPU_UNSEEN void poison_shared(const Config& config) {
    if (config.poison) {
        memset(dynamic_shared, 0xFF, config.shared_bytes);  // every floating-point format reads this as NaN
#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
        if (__start_cuda_shared) memset(__start_cuda_shared, 0xFF, __stop_cuda_shared - __start_cuda_shared);
#endif
    }
    memset(dynamic_shared + config.shared_bytes, PAD_PATTERN, SHARED_PAD);
}

CUDA_CPU_UNSEEN void check_block(const Config& config, int threads) {
    for (size_t i = 0; i < SHARED_PAD; i++)
        if ((unsigned char)dynamic_shared[config.shared_bytes + i] != PAD_PATTERN) {
            report("block (%u, %u, %u) writes shared memory at byte %zu, and %zu bytes were given", fibers[0].block.x,
                   fibers[0].block.y, fibers[0].block.z, (size_t)config.shared_bytes + i, (size_t)config.shared_bytes);
            return;
        }
    for (int i = 0; i < threads; i++)
        if (memcmp(fibers[i].stack, &STACK_CANARY, sizeof STACK_CANARY))
            report("thread %d overruns its stack of %zu bytes", i, STACK_BYTES);
}

CUDA_CPU_UNSEEN Index split(uint64_t number, Index size) {
    return {(unsigned)(number % size.x), (unsigned)(number / size.x % size.y), (unsigned)(number / size.x / size.y)};
}

CUDA_CPU_UNSEEN void launch_blocks(const Config& config) {
#ifdef CUDA_CPU_CHECKED
    struct Catch {
        Catch() { catch_bad_addresses(true); }
        ~Catch() { catch_bad_addresses(false); }
    } caught;
#endif
    block_size = {config.block[0], config.block[1], config.block[2]};
    grid_size = {config.grid[0], config.grid[1], config.grid[2]};
    const int threads = (int)(block_size.x * block_size.y * block_size.z);
    const uint64_t blocks = (uint64_t)grid_size.x * grid_size.y * grid_size.z;
    thread_order = (Order)config.order;
    random_state = config.seed * 0x9E3779B97F4A7C15ull + 0x632BE59BD9B4E019ull;
    random_state += !random_state;
    error_code = 0;
    shared_bytes = config.shared_bytes;
    for (int i = 0; i < threads; i++) fibers[i].stack = config.stacks + i * STACK_BYTES;
#ifdef CUDA_CPU_ASAN
    __asan_unpoison_memory_region(config.stacks, threads * STACK_BYTES);  // left as it was by an error
#endif
    // Random block order: a walk with a step that shares no divisor with the number of blocks.
    uint64_t step = 1, at = 0;
    if (thread_order == RANDOM && blocks > 1) {
        at = random_word() % blocks;
        uint64_t a, b;
        do {
            step = 1 + random_word() % blocks;
            for (a = blocks, b = step; b;) {
                const uint64_t rest = a % b;
                a = b;
                b = rest;
            }
        } while (a != 1);
    }
    for (uint64_t n = 0; n < blocks && !error_code; n++, at = (at + step) % blocks) {
        const Index block = split(thread_order == REVERSE ? blocks - 1 - at : at, grid_size);
        poison_shared(config);
#ifdef CUDA_CPU_ASAN
        __asan_poison_memory_region(dynamic_shared + config.shared_bytes, SHARED_PAD);
#endif
#ifdef CUDA_CPU_TSAN
        scheduler_tsan = __tsan_get_current_fiber();
#endif
        for (int i = 0; i < threads; i++) {
            Fiber& fiber = fibers[i];
            fiber.thread = split(i, block_size);
            fiber.block = block;
            fiber.number = i;
            fiber.lane = i % LANES;
            fiber.warp = i / LANES;
            fiber.posted = 0;
            fiber.resolve = nullptr;
            fiber.copies_pending = fiber.group = 0;
            prepare(&fiber);
#ifdef CUDA_CPU_TSAN
            fiber.tsan = __tsan_create_fiber(0);
#endif
        }
        run_block(threads);
#ifdef CUDA_CPU_TSAN
        __tsan_acquire(&end_of_block);
        for (int i = 0; i < threads; i++) __tsan_destroy_fiber(fibers[i].tsan);
#endif
#ifdef CUDA_CPU_ASAN
        __asan_unpoison_memory_region(dynamic_shared + config.shared_bytes, SHARED_PAD);
#endif
        if (!error_code) check_block(config, threads);
    }
}

// The zone around an array: AddressSanitizer reports a read there too. Without it, the builder's pattern shows writes.
CUDA_CPU_UNSEEN void guard([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes, [[maybe_unused]] int on) {
#ifdef CUDA_CPU_ASAN
    if (on) __asan_poison_memory_region(memory, bytes);
    else __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace cuda_cpu
}  // namespace

#ifdef CUDA_CPU_CHECKED
// The compiler's own checks of each access (builder.py: CHECKS) end here, with the place in the source, instead of in
// the runtime library that they were made for. The records are the compiler's.
struct CudaCpuPlace {
    const char* file;
    uint32_t line, column;
};
struct CudaCpuType {
    uint16_t kind, info;
    char name[1];
};
struct CudaCpuAccess {
    CudaCpuPlace place;
    const CudaCpuType* type;
    unsigned char alignment, kind;
};
#define CUDA_CPU_HANDLER extern "C" __attribute__((visibility("hidden"), used)) void
CUDA_CPU_HANDLER __ubsan_handle_type_mismatch_v1(const CudaCpuAccess* access, size_t address) {
    CUDA_CPU_FAIL("%s:%u: %s: thread %d uses a %s at address %p", access->place.file, access->place.line,
                  address ? "misaligned" : "null pointer", cuda_cpu::running->number, access->type->name,
                  (void*)address);
}
CUDA_CPU_HANDLER __ubsan_handle_out_of_bounds(const CudaCpuAccess* access, size_t index) {
    CUDA_CPU_FAIL("%s:%u: out of bounds: thread %d uses index %lld of an array %s", access->place.file,
                  access->place.line,
                  cuda_cpu::running->number, (long long)index, access->type->name);
}
CUDA_CPU_HANDLER __ubsan_handle_shift_out_of_bounds(const CudaCpuAccess* access, size_t, size_t distance) {
    CUDA_CPU_FAIL("%s:%u: thread %d shifts a %s by %lld", access->place.file, access->place.line,
                  cuda_cpu::running->number,
                  access->type->name, (long long)distance);
}
CUDA_CPU_HANDLER __ubsan_handle_divrem_overflow(const CudaCpuAccess* access, size_t, size_t) {
    CUDA_CPU_FAIL("%s:%u: thread %d divides by zero", access->place.file, access->place.line,
                  cuda_cpu::running->number);
}
#endif
