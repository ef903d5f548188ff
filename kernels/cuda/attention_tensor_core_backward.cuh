// Around the body of attention_tensor_core_backward.cu: its sizes, the options of a call, and how tiles and fragments
// move between global memory, shared memory and registers.

#pragma once

#include "fragments.cuh"

#ifndef CAUSAL
#define CAUSAL 0
#endif
#ifndef GROUPED
#define GROUPED 0
#endif
#ifndef HAS_LENGTHS
#define HAS_LENGTHS 0
#endif
#ifndef HAS_MASK
#define HAS_MASK 0
#endif
#ifndef HAS_BIAS
#define HAS_BIAS 0
#endif
#ifndef DROPOUT
#define DROPOUT 0
#endif
#ifndef BIAS_GRADIENT
#define BIAS_GRADIENT 0
#endif

#define INFINITE __int_as_float(0x7f800000)                         // NVRTC has no INFINITY

constexpr float LOG2_E = 1.4426950408889634f;
constexpr bool PAIRWISE = HAS_MASK || HAS_BIAS;                    // reads something for each pair of a query and a key
constexpr bool ALL_EDGE = PAIRWISE || DROPOUT || BIAS_GRADIENT;    // then one loop is enough: it is not the fast one

// Sizes that follow from the head size D.
template <int D>
struct Head {
    static constexpr int CHUNKS = D / 8;                           // of 16 bytes, in a row
    static constexpr int STEPS = (D + 15) / 16;                    // k-steps of S and dP; half of the last may be zeros
    static constexpr int STRIDE = (2 * STEPS + 1) * 16;            // bytes from row to row in shared memory
    static constexpr int LANES = CHUNKS <= 2 ? 2 : CHUNKS <= 4 ? 4 : CHUNKS <= 8 ? 8 : 16; // threads that copy a row
};

// The options as the launcher gives them. Only those that a define turns on are read. Strides count elements: from
// query to query and key to key they are used within a tile, in 32 bits.
struct Options {
    int heads, group;                                              // H, H / HKV
    const int* key_lengths;                                        // (B,)
    const unsigned char* mask;
    long long mask_b, mask_h;
    int mask_i, mask_j;
    const element* bias;
    long long bias_b, bias_h;
    int bias_i, bias_j;
    unsigned long long seed;
    unsigned threshold;
    float keep_scale;
    float* dscores;                                                // (B*H, TQ, TK), zeros before the launch

    __device__ __forceinline__ long long mask_at(int b, int h, int query, int key) const {
        return b * mask_b + h * mask_h + (long long)query * mask_i + (long long)key * mask_j;
    }
    __device__ __forceinline__ long long bias_at(int b, int h, int query, int key) const {
        return b * bias_b + h * bias_h + (long long)query * bias_i + (long long)key * bias_j;
    }
};

// Where a lane stands: rows and columns of its fragments are counted from here, (own.row + dr, own.col + dc).
struct Place {
    int row, col;
    int keys_left;                                                 // visible: dc (dkdv: dr) < keys_left
    int ahead;                                                     // causal: dc - dr (dkdv: dr - dc) <= ahead
};

struct Hot { static constexpr bool value = false; };
struct Edge { static constexpr bool value = true; };

// ---- tiles and fragments --------------------------------------------------------------------------------------------

// A tile of BC rows to shared memory, 16 bytes a thread at a time. dst, src: this thread's chunk of its first row.
// present(i) says whether the row i rows further is to be read; else zeros are written (0 * NaN would be NaN). Where D
// is no multiple of 16, so is the half k-step past it, in every tile.
template <int D, int BC, int NT, class Present>
__device__ __forceinline__ void load_tile(unsigned dst, const element* src, int chunk, Present present) {
    constexpr int CHUNKS = Head<D>::CHUNKS, LANES = Head<D>::LANES, ROWS = NT / LANES;
    static_assert(BC % ROWS == 0, "the threads don't fit the tile");
    if (LANES != CHUNKS && chunk >= 2 * Head<D>::STEPS) return;
    #pragma unroll
    for (int i = 0; i < BC; i += ROWS)
        copy_async_16(dst + i * Head<D>::STRIDE, src + i * D, (LANES == CHUNKS || chunk < CHUNKS) && present(i));
}

// A fragments of 16*MT rows straight from global memory: once per block, so shared memory would not pay.
template <int D, int MT>
__device__ __forceinline__ void load_rows(unsigned (&a)[MT][Head<D>::STEPS][4], const element* src, int row, int rows,
                                          int lane) {
    #pragma unroll
    for (int m = 0; m < MT; m++)
        #pragma unroll
        for (int k = 0; k < Head<D>::STEPS; k++)
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = row + m * 16 + (lane >> 2) + 8 * (i & 1), d = k * 16 + (lane & 3) * 2 + 8 * (i >> 1);
                const bool inside = r < rows && k * 16 + 8 * (i >> 1) < D;
                a[m][k][i] = inside ? *reinterpret_cast<const unsigned*>(src + (size_t)r * D + d) : 0u;
            }
}

// A fragments that don't fit the registers: k-steps from HELD on lie in shared memory, each lane its own 16 bytes (so
// that no barrier is needed), lane beside lane.
template <int HELD, int NT, int MT, int STEPS>
__device__ __forceinline__ void park(uint4* parked, const unsigned (&a)[MT][STEPS][4]) {
    #pragma unroll
    for (int m = 0; m < MT; m++)
        #pragma unroll
        for (int k = HELD; k < STEPS; k++) {
            uint4 x;
            x.x = a[m][k][0];
            x.y = a[m][k][1];
            x.z = a[m][k][2];
            x.w = a[m][k][3];
            parked[(m * (STEPS - HELD) + k - HELD) * NT] = x;
        }
}

template <int HELD, int NT, int MT, int STEPS>
__device__ __forceinline__ void fetch(unsigned (&a)[4], const uint4* parked, const unsigned (&held)[MT][STEPS][4],
                                      int m, int k) {
    if (k < HELD) {
        #pragma unroll
        for (int i = 0; i < 4; i++) a[i] = held[m][k][i];
    } else {
        const uint4 x = parked[(m * (STEPS - HELD) + k - HELD) * NT];
        a[0] = x.x;
        a[1] = x.y;
        a[2] = x.z;
        a[3] = x.w;
    }
}

template <int D, int MT>
__device__ __forceinline__ void store_rows(element* dst, const float (&sum)[MT][D / 8][4], float factor, int row,
                                           int rows, int lane) {
    #pragma unroll
    for (int m = 0; m < MT; m++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = row + m * 16 + (lane >> 2) + 8 * half;
            if (r < rows)
                #pragma unroll
                for (int n = 0; n < D / 8; n++)
                    *reinterpret_cast<unsigned*>(dst + (size_t)r * D + n * 8 + (lane & 3) * 2) =
                        pack(sum[m][n][2 * half] * factor, sum[m][n][2 * half + 1] * factor);
        }
}

template <int D, int MT>
__device__ __forceinline__ void clear(float (&sum)[MT][D / 8][4]) {
    #pragma unroll
    for (int m = 0; m < MT; m++)
        #pragma unroll
        for (int n = 0; n < D / 8; n++) sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0.f;
}
