// The scheduler of the fibers: a grid's blocks one after the other, a block's warps in turns from barrier to barrier,
// in the launch's order of threads and blocks; and what is wrong when nobody can go on.

#pragma once

#include "checks.h"
#include "fibers.h"

namespace {
namespace cuda_cpu {

enum Order { FORWARD, REVERSE, RANDOM };

struct Config {  // what the launcher gives; builder.py holds its twin
    unsigned grid[3], block[3];
    uint64_t shared_bytes;
    int order, poison;
    uint64_t seed;
    uint64_t last_blocks;  // so many are run, the grid's last ones
    char* stacks;  // of MAX_THREADS fibers, shared by all kernels of the process: they run one at a time
};

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
    const uint64_t all_blocks = (uint64_t)grid_size.x * grid_size.y * grid_size.z;
    const uint64_t blocks = config.last_blocks;
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
#ifdef CUDA_CPU_TSAN
    // Made once for all blocks, which follow each other: a thread of one has seen what those of the last one did.
    scheduler_tsan = __tsan_get_current_fiber();
    for (int i = 0; i < threads; i++) fibers[i].tsan = __tsan_create_fiber(0);
#endif
    for (uint64_t n = 0; n < blocks && !error_code; n++, at = (at + step) % blocks) {
        const Index block = split(all_blocks - blocks + (thread_order == REVERSE ? blocks - 1 - at : at), grid_size);
        poison_shared(config);
#ifdef CUDA_CPU_ASAN
        __asan_poison_memory_region(dynamic_shared + config.shared_bytes, SHARED_PAD);
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
        }
#ifdef CUDA_CPU_TSAN
        __tsan_release(&start_of_block);
#endif
        run_block(threads);
#ifdef CUDA_CPU_TSAN
        __tsan_acquire(&end_of_block);
#endif
#ifdef CUDA_CPU_ASAN
        __asan_unpoison_memory_region(dynamic_shared + config.shared_bytes, SHARED_PAD);
#endif
        if (!error_code) check_block(config, threads);
    }
#ifdef CUDA_CPU_TSAN
    for (int i = 0; i < threads; i++) __tsan_destroy_fiber(fibers[i].tsan);
#endif
}

}  // namespace cuda_cpu
}  // namespace
