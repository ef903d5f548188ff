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
// Everything is static: each kernel is a library of its own, with its own machine. Here is what a fiber is and does;
// scheduler.h runs them, checks.h catches what they must not do.

#pragma once

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
[[maybe_unused]] char block_barrier[2], warp_barrier[MAX_THREADS / LANES][2], start_of_block, end_of_block;
unsigned block_epoch, warp_epoch[MAX_THREADS / LANES];

void (*entry)(void*);
void* entry_argument;

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
#ifdef CUDA_CPU_TSAN
    __tsan_acquire(&start_of_block);
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

}  // namespace cuda_cpu
}  // namespace
