// Attention of one query per head over a cache of keys and values: the step of text generation.
//
//     s_j = scale * q . k_j     y = sum_j softmax(s)_j v_j     over the keys j < key_lengths[b] that the mask shows
//
// What it is: kernel 1 cuts the keys of every sequence into `splits` ranges, so that one query fills the whole GPU; each
// block goes once over the keys and values of its range with an online softmax, for all query heads of a group at once
// (grouped queries: the group's heads share the reads). Kernel 2 merges the partial results. No atomics: every number is
// written by one thread, in an order that does not depend on the schedule.
// What it is not: it has no backward and no dropout, and its products run on the plain cores, not the tensor cores.
// [Dao et al. 2023, "Flash-Decoding for long-context inference"; the merge of two (m, l): Milakov and Gimelshein 2018]
//
// Traffic and roofline. K and V are read once: 2 * B * Hkv * length * D * sizeof(element) bytes; the rest, partial results
// included, is 2 * G / (keys per split) of that with G heads in the group, 6 % at 8 heads and 256 keys. Each element takes
// part in G products and sums, so memory is the bound: bytes / bandwidth. B 1, Hkv 8, D 128, f16, 32k keys are 134 MB:
// 40 us at 3.35 TB/s (H100), 66 us at 2.04 TB/s (A100, 80 GB). That takes bandwidth * latency, about 18 KB if the latency
// is 0.7 us, in flight on each multiprocessor all the time: so the next tile's keys and values are on their way, in
// registers, while one is computed: 64 bytes a thread with 8 heads, 128 with fewer: 16 and 32 KB with two blocks.
// Groups of more than 8 heads are served by several blocks: the second one finds K and V in the L2 cache, with luck.
//
// Why split. Without it there are B * Hkv blocks: 8 for the example, on 132 multiprocessors.
//
// Variants tried (compiled for sm_75 to sm_100, run on the CPU; no timings): f16, D 64, 8 heads, registers on sm_80
//     q in registers, a tile is loaded when it is due           240     memory is idle while a tile is computed
//     q in shared memory                                        183     a 16-byte read, free of conflicts, per 4 elements
//     q in shared memory, the next tile on its way (this)       177     up to 5 spills unless RESIDENT blocks are asked for
//
// Defines: HEAD_SIZE (a multiple of 8), one of ELEMENT_F32, ELEMENT_F16, ELEMENT_BF16 (sm_80 and later), ELEMENT_F64,
// HEADS (query heads per block: 1, 2, 4, 8; at most 2 for f64), MASKED (0, 1), and the one entry point that is wanted,
// ENTRY_SPLIT or ENTRY_MERGE. Block: 128 threads. Limit: Tmax * D < 2^31.
//
// ---- layout
//
//     q, y           (B, H, D)             head h uses key/value head h / (H / Hkv)
//     k, v           (B, Hkv, Tmax, D)     rows from key_lengths[b] on are not read
//     mask           uint8, 0 = hidden; strides over (b, h, key) are given, that over the keys is 1 or 0
//     partial_state  (splits, B*H, 2)      m: the largest score, base 2;  l: sum of 2^(s - m).  m = -inf: nothing was seen
//     partial_sum    (splits, B*H, D)      sum of 2^(s - m) v, not divided; not written where nothing was seen
//
// A tile of keys and the lanes of a warp, D = 64, f16 (a row is 128 bytes = 8 chunks of 16, LANES = 8, ROWS = 4):
//
//              chunk 0   1   2  ...  7
//     key 0    lane  0   1   2  ...  7        one load of a warp: 4 rows, 512 bytes in a piece
//     key 1    lane  8   9  10  ... 15
//     key 2    lane 16  ...                   keys 4-7 are warp 1, 8-11 warp 2, 12-15 warp 3;
//     key 3    lane 24  ...                   keys 16-31: the same again, UNROLL times: TILE = ROWS * WARPS * UNROLL
//
// The query in shared memory, in float: [head][part][lane of the row][PART], part p holding the lane's elements p*PART to
// p*PART + PART-1, so that neighbouring lanes read neighbouring 16 bytes.
//
// A number of chunks that is no power of two (D = 40: 5) leaves lanes idle; they load nothing. More than 32 chunks (D =
// 256, f32): a lane has PER_LANE of them, 32 apart. Each row of lanes keeps an (m, l, sum) of its own for every head; they
// meet at the end, within the warp by shuffles, between warps in shared memory.

#if defined(ELEMENT_F16)
#include <cuda_fp16.h>
typedef __half Element;
typedef float Sum;
#elif defined(ELEMENT_BF16)
#include <cuda_bf16.h>
typedef __nv_bfloat16 Element;
typedef float Sum;
#elif defined(ELEMENT_F32)
typedef float Element;
typedef float Sum;
#elif defined(ELEMENT_F64)
typedef double Element;
typedef double Sum;
#else
#error "attention_decode.cu: define one of ELEMENT_F32, ELEMENT_F16, ELEMENT_BF16, ELEMENT_F64"
#endif
#include "offsets.cuh"
#include "ptx.cuh"

constexpr int D = HEAD_SIZE;
constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int VECTOR = 16 / (int)sizeof(Element);                          // elements of a 16-byte chunk
constexpr int CHUNKS = D / VECTOR;                                         // chunks of a row
constexpr int LANES = CHUNKS > 16 ? 32 : CHUNKS > 8 ? 16 : CHUNKS > 4 ? 8 : CHUNKS > 2 ? 4 : 2;  // lanes on a row
constexpr int PER_LANE = (CHUNKS + LANES - 1) / LANES;                     // chunks of a lane
constexpr int WIDTH = PER_LANE * VECTOR;                                   // elements of a lane
constexpr int PART = 16 / (int)sizeof(Sum);                                // numbers of the query that a lane reads at once
constexpr int ROWS = 32 / LANES;                                           // rows that a warp's load covers
constexpr int STRIDE = ROWS * WARPS;                                       // rows that the block's load covers
constexpr int UNROLL = HEADS * WIDTH >= 64 || PER_LANE > 2 ? 2 : 4;        // fewer where the heads need the registers
constexpr int TILE = STRIDE * UNROLL;
constexpr int RESIDENT = 2;  // blocks for which a multiprocessor has registers; unasked, ptxas spills to fit in more
static_assert(D % 8 == 0 && D >= 16 && D <= 256, "head sizes 16 to 256 in steps of 8");

__device__ __forceinline__ float to_sum(float x) { return x; }
__device__ __forceinline__ double to_sum(double x) { return x; }
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float power_of_2(float x) { return exp2_fast(x); }
__device__ __forceinline__ double power_of_2(double x) { return exp2(x); }
#if defined(ELEMENT_F16)
__device__ __forceinline__ float to_sum(__half x) { return __half2float(x); }
__device__ __forceinline__ __half to_element(float x) { return __float2half(x); }
#elif defined(ELEMENT_BF16)
__device__ __forceinline__ float to_sum(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ __nv_bfloat16 to_element(float x) { return __float2bfloat16(x); }
#else
__device__ __forceinline__ Element to_element(Sum x) { return x; }
#endif
__device__ __forceinline__ Sum minus_infinity() { return (Sum)__int_as_float((int)0xff800000u); }

// 2^(m - top), the weight of a partial result in a merge whose largest score is top. Nothing seen weighs 0: the
// difference would be -inf - (-inf) = NaN where top is -inf too.
__device__ __forceinline__ Sum merge_weight(Sum m, Sum top) { return m == minus_infinity() ? (Sum)0 : power_of_2(m - top); }

__device__ __forceinline__ void unpack(const uint4 (&chunks)[PER_LANE], Sum (&x)[WIDTH]) {
    const Element* elements = reinterpret_cast<const Element*>(chunks);
    #pragma unroll
    for (int i = 0; i < WIDTH; i++) x[i] = to_sum(elements[i]);
}

// The online softmax of one row of lanes, for every head of the block.
struct State {
    Sum m[HEADS];           // the largest score so far, in powers of 2
    Sum l[HEADS];           // sum of 2^(s - m)
    Sum sum[HEADS][WIDTH];  // sum of 2^(s - m) v, this lane's elements of it
};

// This lane's chunks of one tile.
struct Tile {
    uint4 keys[UNROLL][PER_LANE], values[UNROLL][PER_LANE];
};

// `k`, `v` point at this lane's chunk of its first key, whose number is `first`. RAGGED: keys from `end` on are not there;
// their chunks are zeros, since 0 * NaN would be NaN.
template <bool RAGGED>
__device__ __forceinline__ void load(Tile& tile, const Element* k, const Element* v, int chunk, int first, int end) {
    #pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        #pragma unroll
        for (int c = 0; c < PER_LANE; c++) {
            const bool in_row = CHUNKS % LANES == 0 || chunk + c * LANES < CHUNKS;
            const bool inside = in_row && (!RAGGED || first + u * STRIDE < end);
            const int offset = u * STRIDE * D + c * LANES * VECTOR;
            tile.keys[u][c] = tile.values[u][c] = make_uint4(0, 0, 0, 0);
            if (inside) {
                tile.keys[u][c] = *reinterpret_cast<const uint4*>(k + offset);
                tile.values[u][c] = *reinterpret_cast<const uint4*>(v + offset);
            }
        }
    }
}

// The online softmax over one tile. `mask` points at its first key of this lane, for the first head of the block.
template <bool RAGGED>
__device__ __forceinline__ void visit(State& state, const Sum (&q)[HEADS][WIDTH / PART][LANES][PART], const Tile& tile,
                                      const unsigned char* mask, long long mask_head, int mask_key,
                                      int heads, int chunk, int first, int end) {
    unsigned int hidden = 0;  // a bit for each (key, head)
#if MASKED
    #pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        #pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h < heads && (!RAGGED || first + u * STRIDE < end) && !mask[h * mask_head + u * STRIDE * mask_key])
                hidden |= 1u << (u * HEADS + h);
        }
    }
#endif
    Sum x[UNROLL][WIDTH];
    #pragma unroll
    for (int u = 0; u < UNROLL; u++) unpack(tile.keys[u], x[u]);
    Sum weight[UNROLL][HEADS];  // first the scores, then 2^(s - m)
    #pragma unroll
    for (int h = 0; h < HEADS; h++) {
        Sum query[WIDTH];
        #pragma unroll
        for (int p = 0; p < WIDTH / PART; p++) {
            const uint4 bits = *reinterpret_cast<const uint4*>(q[h][p][chunk]);
            #pragma unroll
            for (int i = 0; i < PART; i++) query[p * PART + i] = reinterpret_cast<const Sum*>(&bits)[i];
        }
        #pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            Sum dot = 0;
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) dot += query[i] * x[u][i];
            #pragma unroll
            for (int other = LANES / 2; other; other /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, other);
            if ((RAGGED && first + u * STRIDE >= end) || (MASKED && (hidden >> (u * HEADS + h) & 1)))
                dot = minus_infinity();
            weight[u][h] = dot;
        }
    }
    #pragma unroll
    for (int h = 0; h < HEADS; h++) {
        Sum top = state.m[h];
        #pragma unroll
        for (int u = 0; u < UNROLL; u++) top = larger(top, weight[u][h]);
        const Sum shift = top == minus_infinity() ? (Sum)0 : top;  // nothing visible yet: -inf - (-inf) would be NaN
        const Sum shrink = power_of_2(state.m[h] - shift);
        state.m[h] = top;
        state.l[h] *= shrink;
        #pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            weight[u][h] = power_of_2(weight[u][h] - shift);
            state.l[h] += weight[u][h];
        }
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) state.sum[h][i] *= shrink;
    }
    #pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        Sum value[WIDTH];
        unpack(tile.values[u], value);
        #pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (MASKED && (hidden >> (u * HEADS + h) & 1)) continue;  // it may be NaN: left out, not weighted 0
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) state.sum[h][i] += weight[u][h] * value[i];
        }
    }
}

#ifdef ENTRY_SPLIT
// Grid (splits, Hkv * parts, B): a group of more than HEADS query heads is served by `parts` blocks.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
attention_decode_split(const Element* __restrict__ q, const Element* __restrict__ k, const Element* __restrict__ v,
                       const int* __restrict__ key_lengths, const unsigned char* __restrict__ mask,
                       long long mask_batch, long long mask_head, int mask_key,
                       Sum* __restrict__ partial_state, Sum* __restrict__ partial_sum, Element* __restrict__ y,
                       int H, int Hkv, int capacity, Sum scale_log2) {
    __shared__ Sum shared_sum[WARPS][HEADS][D];
    __shared__ Sum shared_state[WARPS][HEADS][2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int chunk = lane % LANES, row = warp * ROWS + lane / LANES;
    const int split = blockIdx.x, splits = gridDim.x, b = blockIdx.z;
    const int group = H / Hkv, parts = (group + HEADS - 1) / HEADS;
    const int kv_head = blockIdx.y / parts, part = blockIdx.y % parts;
    const int first_head = kv_head * group + part * HEADS;
    const int heads = min(HEADS, group - part * HEADS);  // the last part of a group may have fewer

    // Lengths on the GPU cannot be checked by the launcher without waiting for it: nothing outside the cache is read.
    const int length = key_lengths ? max(0, min(key_lengths[b], capacity)) : capacity;
    const int tiles = (length + TILE - 1) / TILE;
    const int tiles_of_split = (tiles + splits - 1) / splits;
    const int begin = split * tiles_of_split * TILE;  // may lie behind the end: then there is nothing to do
    const int end = min(length, begin + tiles_of_split * TILE);

    // times scale * log2(e): the exponential is then a bare power of 2
    __shared__ __align__(16) Sum query[HEADS][WIDTH / PART][LANES][PART];
    State state;
    #pragma unroll
    for (int h = 0; h < HEADS; h++) {
        state.m[h] = minus_infinity();
        state.l[h] = 0;
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) state.sum[h][i] = 0;
    }
    for (int i = threadIdx.x; i < HEADS * LANES * WIDTH; i += THREADS) {
        const int h = i / (LANES * WIDTH), place = i / WIDTH % LANES, e = i % WIDTH;
        const int d = (place + e / VECTOR * LANES) * VECTOR + e % VECTOR;
        Sum x = 0;
        if (h < heads && d < D) x = to_sum(q[offset_of((long long)b * H + first_head + h, D) + d]) * scale_log2;
        query[h][e / PART][place][e % PART] = x;
    }
    __syncthreads();

    const long long start = offset_of((long long)b * Hkv + kv_head, capacity, D) + offset_of(begin + row, D)
                            + chunk * VECTOR;
    const Element* key = k + start;
    const Element* value = v + start;
    const unsigned char* shown = mask;
    if (MASKED) shown += b * mask_batch + first_head * mask_head + (long long)(begin + row) * mask_key;
    Tile now, next;
    int at = begin;
    if (at + TILE <= end) load<false>(now, key, value, chunk, at + row, end);
    for (; at + TILE <= end; at += TILE) {
        key += TILE * D;
        value += TILE * D;
        if (at + 2 * TILE <= end) load<false>(next, key, value, chunk, at + row, end);  // on their way meanwhile
        visit<false>(state, query, now, shown, mask_head, mask_key, heads, chunk, at + row, end);
        now = next;
        if (MASKED) shown += TILE * mask_key;
    }
    if (at < end) {
        load<true>(now, key, value, chunk, at + row, end);
        visit<true>(state, query, now, shown, mask_head, mask_key, heads, chunk, at + row, end);
    }

    // The rows of lanes of a warp meet ...
    #pragma unroll
    for (int h = 0; h < HEADS; h++) {
        Sum top = state.m[h];
        #pragma unroll
        for (int other = LANES; other < 32; other *= 2) top = larger(top, __shfl_xor_sync(0xffffffffu, top, other));
        const Sum weight = merge_weight(state.m[h], top);
        state.l[h] *= weight;
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) state.sum[h][i] *= weight;
        #pragma unroll
        for (int other = LANES; other < 32; other *= 2) {
            state.l[h] += __shfl_xor_sync(0xffffffffu, state.l[h], other);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) state.sum[h][i] += __shfl_xor_sync(0xffffffffu, state.sum[h][i], other);
        }
        if (lane < LANES) {
            #pragma unroll
            for (int c = 0; c < PER_LANE; c++) {
                if (chunk + c * LANES < CHUNKS) {
                    #pragma unroll
                    for (int i = 0; i < VECTOR; i++)
                        shared_sum[warp][h][(chunk + c * LANES) * VECTOR + i] = state.sum[h][c * VECTOR + i];
                }
            }
        }
        if (lane == 0) {
            shared_state[warp][h][0] = top;
            shared_state[warp][h][1] = state.l[h];
        }
    }
    __syncthreads();

    // ... then its warps, in order; a thread per (head, element).
    const long long all_heads = (long long)gridDim.z * H;
    for (int i = threadIdx.x; i < heads * D; i += THREADS) {
        const int h = i / D, d = i % D;
        const long long out_row = (long long)b * H + first_head + h;
        Sum top = minus_infinity(), l = 0, sum = 0;
        #pragma unroll
        for (int w = 0; w < WARPS; w++) top = larger(top, shared_state[w][h][0]);
        #pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const Sum weight = merge_weight(shared_state[w][h][0], top);
            l += weight * shared_state[w][h][1];
            sum += weight * shared_sum[w][h][d];
        }
        if (splits == 1) {
            y[offset_of(out_row, D) + d] = to_element(l == 0 ? (Sum)0 : sum / l);
        } else {
            const long long place = offset_of(split, all_heads) + out_row;
            if (top != minus_infinity()) partial_sum[offset_of(place, D) + d] = sum;
            if (d == 0) {
                partial_state[2 * place] = top;
                partial_state[2 * place + 1] = l;
            }
        }
    }
}
#endif

#ifdef ENTRY_MERGE
// Merges the splits of each head, in order. A thread has four neighbouring elements; D / 4 threads to a head.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_decode_merge(const Sum* __restrict__ partial_state, const Sum* __restrict__ partial_sum,
                       Element* __restrict__ y, int all_heads, int splits) {
    const long long item = (long long)blockIdx.x * THREADS + threadIdx.x;
    const int out_row = (int)(item / (D / 4)), d = 4 * (int)(item % (D / 4));
    if (out_row >= all_heads) return;

    Sum top = minus_infinity();
    for (int s = 0; s < splits; s++) top = larger(top, partial_state[2 * (offset_of(s, all_heads) + out_row)]);
    Sum l = 0, sum[4] = {0, 0, 0, 0};
    #pragma unroll 2
    for (int s = 0; s < splits; s++) {
        const long long place = offset_of(s, all_heads) + out_row;
        const Sum m = partial_state[2 * place];
        if (m == minus_infinity()) continue;  // its sum was never written
        const Sum weight = power_of_2(m - top);
        l += weight * partial_state[2 * place + 1];
        uint4 chunks[sizeof(Sum) / 4];  // four numbers
        #pragma unroll
        for (int c = 0; c < (int)sizeof(Sum) / 4; c++)
            chunks[c] = *reinterpret_cast<const uint4*>(partial_sum + offset_of(place, D) + d + c * (16 / sizeof(Sum)));
        const Sum* part = reinterpret_cast<const Sum*>(chunks);
        #pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += weight * part[i];
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) y[offset_of(out_row, D) + d + i] = to_element(l == 0 ? (Sum)0 : sum[i] / l);
}
#endif
