// What a thread of a kernel must not do, beside what the scheduler sees at barriers: use addresses that don't exist,
// and what the compiler's checks find. An error ends the launch, not the process. Sanitizers report for themselves.

#pragma once

#include <signal.h>

#include "fibers.h"

namespace {
namespace cuda_cpu {

// The zone around an array: AddressSanitizer reports a read there too. Without it, the builder's pattern shows writes.
CUDA_CPU_UNSEEN void guard([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes, [[maybe_unused]] int on) {
#ifdef CUDA_CPU_ASAN
    if (on) __asan_poison_memory_region(memory, bytes);
    else __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace cuda_cpu
}  // namespace

#if !defined(CUDA_CPU_ASAN) && !defined(CUDA_CPU_TSAN)
#define CUDA_CPU_CHECKED 1

namespace {
namespace cuda_cpu {

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

}  // namespace cuda_cpu
}  // namespace

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
#define CUDA_CPU_OVERFLOW(operation)                                                                             \
    CUDA_CPU_HANDLER __ubsan_handle_##operation##_overflow(const CudaCpuAccess* access, size_t, size_t) {        \
        CUDA_CPU_FAIL("%s:%u: overflow: thread %d leaves the range of a %s", access->place.file,                 \
                      access->place.line, cuda_cpu::running->number, access->type->name);                        \
    }
CUDA_CPU_OVERFLOW(add)
CUDA_CPU_OVERFLOW(sub)
CUDA_CPU_OVERFLOW(mul)
CUDA_CPU_OVERFLOW(negate)
#endif
