// What attention's forward and backward do with fragments of mma.m16n8k16 (ptx.cuh draws them) between the products: a
// row's maximum and sum, the weights that dropout keeps, and values that a weight of 0 must not turn into NaN.

#pragma once

#include "offsets.cuh"
#include "ptx.cuh"
#include "philox.cuh"

// ---- rows of a C fragment -------------------------------------------------------------------------------------------

__device__ __forceinline__ float maximum_of_row(float x) {                   // over the 4 lanes that share it
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float sum_of_row(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// ---- dropout --------------------------------------------------------------------------------------------------------

// Each function gives a lane the bits of its own four weights of a C fragment. A word depends on its place alone
// (philox.cuh), so that backward draws what forward drew; what differs is which lane draws which words.

// Four bits: are the weights of (row, column), (row, column + 1), (row + 8, column), (row + 8, column + 1) kept? Two
// neighbouring lanes, whose columns are 4 n and 4 n + 2, need the same eight words: the even one draws those of `row`,
// the odd one those of row + 8, and they trade halves.
__device__ __forceinline__ unsigned draw_kept(unsigned long long seed, unsigned head, int row, int column,
                                              unsigned threshold) {
    const bool odd = threadIdx.x & 1;
    const Philox drawn = philox(seed, head, row + (odd ? 8 : 0), column >> 2);
    const unsigned mine0 = odd ? drawn.word[2] : drawn.word[0], mine1 = odd ? drawn.word[3] : drawn.word[1];
    const unsigned theirs0 = __shfl_xor_sync(~0u, odd ? drawn.word[0] : drawn.word[2], 1);
    const unsigned theirs1 = __shfl_xor_sync(~0u, odd ? drawn.word[1] : drawn.word[3], 1);
    const unsigned mine = (unsigned)(mine0 >= threshold) | (unsigned)(mine1 >= threshold) << 1;
    const unsigned theirs = (unsigned)(theirs0 >= threshold) | (unsigned)(theirs1 >= threshold) << 1;
    return odd ? theirs | mine << 2 : mine | theirs << 2;
}

// Which of a lane's four weights (C fragment: rows g, g + 8, columns 2t, 2t + 1) dropout keeps: bit 2*half + e.
// Rows are queries: the two keys of a row share a Philox block.
__device__ __forceinline__ unsigned keep_rows_of_queries(unsigned long long seed, unsigned head, int query, int key,
                                                         unsigned threshold) {
    unsigned kept = 0;
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        const Philox random = philox(seed, head, query + 8 * half, key >> 2);
        const bool upper = key & 2;
        kept |= (unsigned)((upper ? random.word[2] : random.word[0]) >= threshold) << (2 * half);
        kept |= (unsigned)((upper ? random.word[3] : random.word[1]) >= threshold) << (2 * half + 1);
    }
    return kept;
}

// Rows are keys: four lanes with neighbouring keys (g & 3) need the same four blocks, a word of each. Lane i of the
// four draws block i, for (half, e) = (i / 2, i % 2), and all hand their four bits round.
__device__ __forceinline__ unsigned keep_rows_of_keys(unsigned long long seed, unsigned head, int key, int query,
                                                      unsigned threshold, int lane) {
    const int mine = lane >> 2 & 3;
    const Philox random = philox(seed, head, query + (mine & 1), (key + 8 * (mine >> 1)) >> 2);
    unsigned bits = 0;
    #pragma unroll
    for (int i = 0; i < 4; i++) bits |= (unsigned)(random.word[i] >= threshold) << (4 * mine + i);
    bits |= __shfl_xor_sync(~0u, bits, 4);
    bits |= __shfl_xor_sync(~0u, bits, 8);
    bits >>= mine;
    return (bits & 1) | (bits >> 3 & 2) | (bits >> 6 & 4) | (bits >> 9 & 8);
}

// ---- zeros ----------------------------------------------------------------------------------------------------------

// Two elements of a register: NaN and inf become finite, so that their product with a zero is zero. The maximum with
// the least finite number takes away NaN and -inf; the same with the signs turned takes away inf.
__device__ __forceinline__ unsigned finite(unsigned pair) {
#if ELEMENT_BF16
    typedef __nv_bfloat162 Pair;
    const unsigned least = 0xff7fff7fu;
#else
    typedef __half2 Pair;
    const unsigned least = 0xfbfffbffu;
#endif
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        const Pair most = __hmax2(*reinterpret_cast<const Pair*>(&pair), *reinterpret_cast<const Pair*>(&least));
        pair = *reinterpret_cast<const unsigned*>(&most) ^ 0x80008000u;
    }
    return pair;
}
