// Softmax over the rows of a (rows, N) array, and its gradient.
//
//   y_c = exp(s (x_c - m)) / sum_k exp(s (x_k - m))      m the row's maximum, s the scale > 0
//   dx  = y (dy - <y, dy>) s
//
// With HIDING a row sees its first `limit` columns alone: those up to the diagonal (causal, aligned at the end) and
// below its sequence's key length. What is hidden doesn't count, whatever it is: y and dx are 0 there. A row that sees
// nothing, or only -inf, gives zeros; one that sees a NaN or +inf is NaN.
//
// The ladder. Traffic is what must pass through global memory for one row of N floats; the other figures are static, of
// NVRTC 13.0 for sm_80 at N = 4096, float32; none of it was timed.
//
//   rung                       idea                                      reads    writes   widest access   registers
//   ladder/softmax_naive.cu    a thread per row, three passes            3N * 8   N * 8    32 bits         30
//   ladder/softmax_shared.cu   a block per row: neighbouring columns,    3N       N        32 bits         31
//                              reductions in shared memory
//   softmax.cu                 the row in registers: one read, shuffles  N        N        128 bits        48
//                              for reductions, two barriers in all
//   softmax.cu, N > 32,768     online: maximum and sum in one pass       2N       N        128 bits        32
//
//   The factor 8 of the first rung: a warp reads 32 rows at once, a sector of 32 bytes for each 4; caches hide a part.
//   The second and third read of a rung come from L2 while the rows in flight fit there.
//
// Forward at N = 4096: 319 instructions per thread for 32 numbers, 10.0 each (Triton 3.9: 16.6), of which 6 are the
// arithmetic: maximum, subtract, scale, 2^x, add, times 1/sum; no spill, no stack. Backward: 123 for 16, 7.7 each.
//
// Roofline (estimates, at 100 % of the memory's peak): 8 bytes and about 6 operations per number lie far below
// the ridge of any GPU, so memory is all that counts: 4096 rows of 1k, 4k, 32k take 10, 40, 321 us on an H100, 16, 66,
// 527 us on an A100. The rungs above need 2 times (shared) and, uncached, 16 times (naive) as long. 128 threads of 48
// registers leave room for 10 blocks, 40 warps of 64, on a multiprocessor, each thread with eight 16-byte reads.
//
// Defines: those of rows.cuh, HIDING 0 | 1, EXACT 1 where N is LANES * HELD * WIDTH: no access needs a bound then; and
// ENTRY_BACKWARD where softmax_backward is wanted, else softmax_forward is the one that is compiled.

#include "rows.cuh"

#ifndef HIDING
#define HIDING 0
#endif
#ifndef EXACT
#define EXACT 0
#endif

// How many columns of the row are seen, 0 ... N.
__device__ __forceinline__ int visible_columns(long long row, int N, const int* key_lengths,
                                               long long rows_per_sequence, int queries, int causal) {
#if HIDING
    int limit = N;
    if (causal) limit = (int)(row % queries) + N - queries + 1;  // queries - 1 + N - queries + 1 = N at most
    if (key_lengths) limit = min(limit, key_lengths[row / rows_per_sequence]);
    return max(limit, 0);
#else
    return N;
#endif
}

// The access at `column`, with `fill` in place of what is not seen: nothing is read past `limit` but the rest of a wide
// access that begins before it, which lies in the row, since N is a multiple of WIDTH.
__device__ __forceinline__ Access seen(const Packed& packed, int column, int limit, Real fill) {
    Access access = reals_of(packed);
#if HIDING && WIDE
    #pragma unroll
    for (int j = 0; j < WIDTH; j++)
        if (column + j >= limit) access.x[j] = fill;
#endif
    return access;
}

__device__ __forceinline__ Packed load_before(const Element* row, int column, int limit, Real fill) {
    if ((EXACT && !HIDING) || column < limit) return load(row + column);
    return packed_of(fill);
}

#if HELD > 0 && !defined(ENTRY_BACKWARD)

// A row in registers: one read, one write.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
softmax_forward(const Element* x, Element* y, const int* key_lengths, long long rows, int N,
                long long rows_per_sequence, int queries, int causal, Real scale) {
    __shared__ Real partial_top[WARPS], partial_sum[WARPS];
    const long long row = row_of_thread();
    if (row >= rows) return;  // whole warps leave, and only where a warp is a row: no one waits for them
    const int limit = visible_columns(row, N, key_lengths, rows_per_sequence, queries, causal);
    const int first = lane_of_thread() * WIDTH;
    x += offset_of(row, N);
    y += offset_of(row, N);

    Access held[HELD];
    #pragma unroll
    for (int a = 0; a < HELD; a++) {
        const int column = first + a * STRIDE;
        held[a] = seen(load_before(x, column, limit, MINUS_INFINITY), column, limit, MINUS_INFINITY);
    }

    Real top = MINUS_INFINITY;
    #pragma unroll
    for (int a = 0; a < HELD; a++)
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) top = larger(top, held[a].x[j]);
    top = reduce_row<Largest>(top, partial_top);
    const Real shift = top == MINUS_INFINITY ? Real(0) : top;  // -inf - -inf would be NaN
    const Real factor = scale * POWER_UNIT;

    Real sum = 0;
    #pragma unroll
    for (int a = 0; a < HELD; a++)
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            held[a].x[j] = power((held[a].x[j] - shift) * factor);  // the difference first: m * factor may overflow
            sum += held[a].x[j];
        }
    sum = reduce_row<Sum>(sum, partial_sum);
    const Real inverse = sum == Real(0) ? Real(0) : Real(1) / sum;  // 0 only where nothing is seen; NaN stays NaN

    #pragma unroll
    for (int a = 0; a < HELD; a++) {
        const int column = first + a * STRIDE;
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) held[a].x[j] *= inverse;
        if (EXACT || column < N) store(y + column, held[a]);
    }
}

#elif HELD > 0

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
softmax_backward(const Element* dy, const Element* y, Element* dx, const int* key_lengths, long long rows, int N,
                 long long rows_per_sequence, int queries, int causal, Real scale) {
    __shared__ Real partial[WARPS];
    const long long row = row_of_thread();
    if (row >= rows) return;
    const int limit = visible_columns(row, N, key_lengths, rows_per_sequence, queries, causal);
    const int first = lane_of_thread() * WIDTH;
    dy += offset_of(row, N);
    y += offset_of(row, N);
    dx += offset_of(row, N);

    Packed held_y[HELD], held_dy[HELD];  // as they lie in memory: half the registers for 16-bit numbers
    #pragma unroll
    for (int a = 0; a < HELD; a++) {
        held_y[a] = load_before(y, first + a * STRIDE, limit, 0);
        held_dy[a] = load_before(dy, first + a * STRIDE, limit, 0);
    }
    Real dot = 0;
    #pragma unroll
    for (int a = 0; a < HELD; a++) {
        const Access p = seen(held_y[a], first + a * STRIDE, limit, 0);
        const Access dp = seen(held_dy[a], first + a * STRIDE, limit, 0);  // a NaN that is hidden must not meet y = 0
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) dot += p.x[j] * dp.x[j];
    }
    dot = reduce_row<Sum>(dot, partial);
    #pragma unroll
    for (int a = 0; a < HELD; a++) {
        const int column = first + a * STRIDE;
        const Access p = seen(held_y[a], column, limit, 0);
        Access d = seen(held_dy[a], column, limit, 0);
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) d.x[j] = p.x[j] * (d.x[j] - dot) * scale;
        if (EXACT || column < N) store(dx + column, d);
    }
}

#elif !defined(ENTRY_BACKWARD)

// A row longer than the registers of a block: a first pass for its maximum and sum together, a second one that writes.
// Each lane keeps (m, l), the maximum so far and the sum of exp(s (x - m)); with a larger m' it goes on with
// l exp(s (m - m')). [Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"]
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
softmax_forward(const Element* x, Element* y, const int* key_lengths, long long rows, int N,
                long long rows_per_sequence, int queries, int causal, Real scale) {
    __shared__ Real partial_top[WARPS], partial_sum[WARPS];
    const long long row = row_of_thread();
    if (row >= rows) return;
    const int limit = visible_columns(row, N, key_lengths, rows_per_sequence, queries, causal);
    const int first = lane_of_thread() * WIDTH;
    const Real factor = scale * POWER_UNIT;
    x += offset_of(row, N);
    y += offset_of(row, N);

    Real m = MINUS_INFINITY, l = 0;
    for (int start = first; start < limit; start += GROUP * STRIDE) {
        Access group[GROUP];
        #pragma unroll
        for (int g = 0; g < GROUP; g++) {
            const int column = start + g * STRIDE;
            group[g] = seen(load_before(x, column, limit, MINUS_INFINITY), column, limit, MINUS_INFINITY);
        }
        const Real before = m;
        #pragma unroll
        for (int g = 0; g < GROUP; g++)
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) m = larger(m, group[g].x[j]);
        const Real shift = m == MINUS_INFINITY ? Real(0) : m;
        l *= power((before - shift) * factor);
        #pragma unroll
        for (int g = 0; g < GROUP; g++)
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) l += power((group[g].x[j] - shift) * factor);
    }
    const Real top = reduce_row<Largest>(m, partial_top);
    const Real shift = top == MINUS_INFINITY ? Real(0) : top;
    const Real sum = reduce_row<Sum>(l * power((m - shift) * factor), partial_sum);
    const Real inverse = sum == Real(0) ? Real(0) : Real(1) / sum;

    for (int start = first; start < N; start += GROUP * STRIDE) {
        Packed group[GROUP];
        #pragma unroll
        for (int g = 0; g < GROUP; g++) group[g] = load_before(x, start + g * STRIDE, limit, MINUS_INFINITY);
        #pragma unroll
        for (int g = 0; g < GROUP; g++) {
            const int column = start + g * STRIDE;
            Access e = seen(group[g], column, limit, MINUS_INFINITY);
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) e.x[j] = power((e.x[j] - shift) * factor) * inverse;
            if (column < N) store(y + column, e);
        }
    }
}

#else

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
softmax_backward(const Element* dy, const Element* y, Element* dx, const int* key_lengths, long long rows, int N,
                 long long rows_per_sequence, int queries, int causal, Real scale) {
    __shared__ Real partial[WARPS];
    const long long row = row_of_thread();
    if (row >= rows) return;
    const int limit = visible_columns(row, N, key_lengths, rows_per_sequence, queries, causal);
    const int first = lane_of_thread() * WIDTH;
    dy += offset_of(row, N);
    y += offset_of(row, N);
    dx += offset_of(row, N);

    Real dot = 0;
    #pragma unroll GROUP
    for (int column = first; column < limit; column += STRIDE) {
        const Access p = seen(load(y + column), column, limit, 0);
        const Access dp = seen(load(dy + column), column, limit, 0);
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) dot += p.x[j] * dp.x[j];
    }
    dot = reduce_row<Sum>(dot, partial);
    #pragma unroll GROUP
    for (int column = first; column < N; column += STRIDE) {
        const Access p = seen(load_before(y, column, limit, 0), column, limit, 0);
        Access d = seen(load_before(dy, column, limit, 0), column, limit, 0);
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) d.x[j] = p.x[j] * (d.x[j] - dot) * scale;
        store(dx + column, d);
    }
}

#endif
