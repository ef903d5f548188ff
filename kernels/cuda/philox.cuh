// Counter-based random numbers for dropout: Philox4x32 with 10 rounds. [Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3"] The word of a weight is a function of (seed, head, row, column) alone, so that backward, with other
// tiles, draws the mask of forward again, and the host can draw it too (philox.py).
//
// counter = (column / 4, row, b*H + h, 0)    key = (seed's low, high 32 bits)    the four words serve four neighbouring columns

#pragma once

struct Philox { unsigned int word[4]; };

__device__ __forceinline__ void multiply_wide(unsigned int a, unsigned int b, unsigned int& high, unsigned int& low) {
    const unsigned long long product = (unsigned long long)a * b;
    high = (unsigned int)(product >> 32);
    low = (unsigned int)product;
}

// Four words for columns 4*group .. 4*group + 3 of one row.
__device__ __forceinline__ Philox philox(unsigned long long seed, unsigned int head, unsigned int row, unsigned int group) {
    unsigned int c0 = group, c1 = row, c2 = head, c3 = 0;
    unsigned int k0 = (unsigned int)seed, k1 = (unsigned int)(seed >> 32);
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned int high0, low0, high1, low1;
        multiply_wide(0xD2511F53u, c0, high0, low0);
        multiply_wide(0xCD9E8D57u, c2, high1, low1);
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Philox{{c0, c1, c2, c3}};
}

// Whether the weight of (row, column) is kept: its word is at least threshold = p * 2^32.
__device__ __forceinline__ bool keeps(unsigned long long seed, unsigned int head, unsigned int row, unsigned int column,
                                      unsigned int threshold) {
    return philox(seed, head, row, column >> 2).word[column & 3] >= threshold;
}
