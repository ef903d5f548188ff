// Attention backward on tensor cores: dQ, dK, dV (and dS for a bias) with mma.sync.m16n8k16. Deterministic: no atomics,
// every element is summed by one thread, in one order. float16 or bfloat16 in and out, float32 sums, sm_80 and later.
//
//   attention_backward_stats   per query: -D = -rowsum(dO * O) and LSE, laid out and padded for the other two
//   attention_backward_dkdv    a block per tile of keys,    loop over tiles of queries:  dK, dV
//   attention_backward_dq      a block per tile of queries, loop over tiles of keys:     dQ, and dS if asked for
//
// The last two are ONE body. A tile of "rows" stays in registers, tiles of "columns" stream through shared memory:
//
//           rows R1, R2  columns C1, C2   S = R1 C1'   dP = R2 C2'   sums kept in registers
//     dkdv  K, V         Q, dO            K Q'         V dO'         dV += P dO     dK += dS Q  (P, dS: keys x queries)
//     dq    Q, dO        K, V             Q K'         dO V'         dQ += dS K                 (P, dS: queries x keys)
//
// so that S and dP come out of the tensor core with the output's rows as rows. A packed accumulator of P or dS *is* the
// A operand of the next product: no shuffle, no trip through shared memory, and each warp owns its output rows alone.
//
//     P = exp2(S c + bias log2(e) - LSE), c = scale log2(e); LSE in base 2, +inf for a query that sees nothing: P = 0
//     dS = P (dP - D)           -D is where dP's accumulator starts: the subtraction costs nothing
//     dropout, M = kept/(1-p):  dV += (P M) dO    dS = P (M dP - D)       M is drawn again (philox.cuh), never stored
//
// Seven products instead of the five of a backward that adds up dQ atomically: the price of the same bits on every run.
//
// Shared memory, two stages for cp.async. A row of a tile is D/8 chunks of 16 bytes; one more is left empty (and, for D
// no multiple of 16, one before it holds zeros), so that the eight rows of an 8x8 matrix meet eight bank groups:
//
//     stage 0                            stage 1      dkdv only                        if HELD < 2*D/16
//     [ C1: BC rows ][ C2: BC rows ]     [ C1 ][ C2 ] [ stats 0: BC*16 ][ stats 1 ]    [ parked: 16 bytes a lane ]
//
//     row of D = 64, 144 bytes:   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | empty |    chunk c of row r: bank group (r + c) % 8
//
// Defines. ELEMENT_F16 or ELEMENT_BF16. HEAD: D, 16 to 128 in steps of 8. KV_* for dkdv, DQ_* for dq, neither for stats
// (each is compiled alone): MT (16-row tiles per warp), NW (warps), BC (columns per tile), HELD (k-steps of R1, then of
// R2, in registers). Options, if used: CAUSAL (key <= query + TK - TQ), GROUPED (H > HKV), HAS_LENGTHS, HAS_MASK,
// HAS_BIAS, DROPOUT, BIAS_GRADIENT (dS).
// What is hidden may hold NaN: its weight and dS are selected to be 0, and where a 0 would be multiplied by it (C1 and
// C2 in the last products), zeros or finite numbers are put in its place.
// Limits: TQ*D, TK*D below 2^31 per head (TQ*D per group of query heads), TK below 2^24 with a mask, bias or dS.
//
// What the shape of this code was bought with. instr: instructions of a warp for 1000 multiply-adds of its thread's
// share, over a whole tile (copies, barrier and addresses included); D = 64, float16, sm_80, full, through NVRTC. The
// figures are static: this file was run on the CPU, and compiled for sm_80, 90 and 100. It has not met a GPU.
//
//   version                                                           dkdv: spills  instr     dq: spills  instr
//   16 columns at a time, that loop unrolled by 2 or 4                    3 - 28    -            15 - 19  -
//   that loop rolled, scores 8 columns at a time, one record of
//   statistics per query pair (one pointer), thread and block
//   indices read anew for every tile; swizzled rows                            0    1.42               0  1.66
//   rows one chunk longer instead of swizzled: every step along D
//   is an immediate, no exclusive or; half of R2 parked (HELD 6)               0    1.36               0  1.64
//   __launch_bounds__(threads, 1): the compiler stops saving registers
//   at the price of instructions (2 blocks per SM either way)                  0    1.36               0  1.43
//
//   Triton 3.9, for comparison                                                89    2.22               0  1.68
//
// As it stands (full, causal; float16 and bfloat16 alike; no spills, no stack; 4 warps, two blocks per SM):
//
//                 D = 64: registers  instr        shared     D = 128: registers  instr        shared memory, bytes
//   dkdv  sm_80   252, 251           1.36, 1.37   47,104     255, 255            1.24, 1.26   71,680
//         sm_90   254, 251           1.39, 1.40              255, 255            1.29, 1.33
//   dq    sm_80   218, 217           1.43, 1.45   36,864     193, 195            1.33, 1.36   69,632
//         sm_90   206, 208           1.46, 1.49              193, 195            1.37, 1.43

#include "attention_tensor_core_backward.cuh"

// ---- statistics: a record of 8 floats for each pair of queries ------------------------------------------------------
//
//      -D0  -D1  -D0  -D1  LSE0  LSE1  0  0
//
// Its first 16 bytes are the start of dP's accumulator (rows g and g + 8, columns 2t and 2t + 1), in one load.

__device__ __forceinline__ int minus_d_at(int query) { return query / 2 * 8 + (query & 1); }
__device__ __forceinline__ int lse_at(int query) { return query / 2 * 8 + 4 + (query & 1); }

#if !defined(KV_MT) && !defined(DQ_MT)
// LANES threads per query, 16 bytes each; grid (ceil(padded * LANES / 128), B*H), 128 threads. padded: TQ rounded up to
// a multiple of KV_BC. Queries past TQ, and those that see nothing, get D = 0 and LSE = +inf, hence P = 0.
extern "C" __global__ void __launch_bounds__(128) attention_backward_stats(
    const element* out, const element* dout, const float* lse, float* stats, int TQ, int padded) {
    constexpr int LANES = Head<HEAD>::LANES;
    const int id = blockIdx.x * 128 + threadIdx.x, query = id / LANES, chunk = id % LANES;
    const int head = blockIdx.y;
    float sum = 0.f;
    if (query < TQ && chunk < Head<HEAD>::CHUNKS) {
        const long long at = offset_of(head, TQ, HEAD) + query * HEAD + chunk * 8;
        const uint4 a = *reinterpret_cast<const uint4*>(out + at);
        const uint4 b = *reinterpret_cast<const uint4*>(dout + at);
        const unsigned o[4] = {a.x, a.y, a.z, a.w}, d[4] = {b.x, b.y, b.z, b.w};
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 x = unpack(o[i]), y = unpack(d[i]);
            sum = fmaf(x.x, y.x, sum);
            sum = fmaf(x.y, y.y, sum);
        }
    }
    #pragma unroll
    for (int i = LANES / 2; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);   // the same order on every run
    if (chunk == 0 && query < padded) {
        const float l = query < TQ ? lse[offset_of(head, TQ) + query] : INFINITE;
        const float minus_d = l < INFINITE ? -sum : 0.f;
        stats += offset_of(head, padded, 4);
        stats[minus_d_at(query)] = stats[minus_d_at(query) + 2] = minus_d;
        stats[lse_at(query)] = l;
        stats[query / 2 * 8 + 6 + (query & 1)] = 0.f;
    }
}
#endif

// ---- the body -------------------------------------------------------------------------------------------------------

// R1, R2: rows (resident); C1, C2: columns (streamed). out1 = scale * sum of dS C1; out2 = sum of P C2 (DKDV only).
template <bool DKDV, int D, int MT, int NW, int BC, int HELD>
__device__ __forceinline__ void backward(const element* R1, const element* R2, const element* C1, const element* C2,
                                         const float* stats, element* out1, element* out2, int rows, int cols,
                                         int padded, float scale, float c, const Options& o) {
    constexpr int BR = 16 * MT * NW, NT = 32 * NW, STEPS = Head<D>::STEPS, STRIDE = Head<D>::STRIDE;
    constexpr unsigned TILE = BC * STRIDE, STAGE = 2 * TILE, STATS = BC * 16;
    constexpr unsigned PARKED = 2 * STAGE + (DKDV ? 2 * STATS : 0);
    constexpr int HELD1 = HELD < STEPS ? HELD : STEPS, HELD2 = HELD - HELD1;    // k-steps of R1 and of R2 in registers
    constexpr int PARKED2 = MT * (STEPS - HELD1) * NT;                          // where R2 begins among what is parked
    extern __shared__ uint4 smem[];
    const unsigned base = shared_address(smem);
    const int offset = DKDV ? rows - cols : cols - rows;        // TK - TQ
    auto first_row = [&] {                                      // causal: the blocks with the most work first
        return (CAUSAL && !DKDV ? (int)gridDim.x - 1 - block_index() : block_index()) * BR;
    };
    const int row_head = blockIdx.y;
    const int group = GROUPED ? o.group : 1;
    const int column_head = DKDV ? row_head * group : row_head / group;    // dkdv: the first of its group
    R1 += offset_of(row_head, rows, D);
    R2 += offset_of(row_head, rows, D);
    out1 += offset_of(row_head, rows, D);
    C1 += offset_of(column_head, cols, D);
    C2 += offset_of(column_head, cols, D);
    stats += offset_of(DKDV ? column_head : row_head, padded, 4);
    int keys = DKDV ? rows : cols;                              // those that may be seen
    if (HAS_LENGTHS) keys = max(0, min(keys, o.key_lengths[(DKDV ? column_head : row_head) / o.heads]));

    // Columns [first, end) are visited. A hot tile needs no mask, and neither it nor the next needs a bound check.
    auto first = [&] { return CAUSAL && DKDV ? max(0, first_row() - offset) / BC * BC : 0; };
    auto end = [&] {
        if (DKDV) return HAS_LENGTHS && first_row() >= keys ? 0 : cols;
        return CAUSAL ? min(keys, min(first_row() + BR, rows) + offset) : keys;
    };
    auto hot = [&](int col0) {
        if (ALL_EDGE) return false;
        if (HAS_LENGTHS && DKDV && first_row() + BR > keys) return false;
        if (CAUSAL && DKDV && first_row() + BR - 1 > col0 + offset) return false;
        if (CAUSAL && !DKDV && col0 + BC - 1 > first_row() + offset) return false;
        return col0 + 2 * BC <= (DKDV ? cols : keys);
    };

    unsigned r1[MT][STEPS][4], r2[MT][STEPS][4];
    float sum1[MT][D / 8][4], sum2[DKDV ? MT : 1][D / 8][4], lse[MT][2], minus_d[MT][4];
    clear<D, MT>(sum1);
    clear<D, DKDV ? MT : 1>(sum2);
    {
        const int lane = thread_index() & 31, row = first_row() + (thread_index() >> 5) * 16 * MT;
        load_rows<D, MT>(r1, R1, row, rows, lane);
        load_rows<D, MT>(r2, R2, row, rows, lane);
        uint4* parked = reinterpret_cast<uint4*>(reinterpret_cast<char*>(smem) + PARKED) + thread_index();
        park<HELD1, NT>(parked, r1);
        park<HELD2, NT>(parked + PARKED2, r2);
        if (!DKDV)                                              // statistics of the lane's own rows
            #pragma unroll
            for (int m = 0; m < MT; m++)
                #pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int r = row + m * 16 + (lane >> 2) + 8 * half;
                    lse[m][half] = r < rows ? stats[lse_at(r)] : INFINITE;
                    minus_d[m][2 * half] = minus_d[m][2 * half + 1] = r < rows ? stats[minus_d_at(r)] : 0.f;
                }
    }

    unsigned stage = 0;
    int member = 0;                                             // of the group of query heads
    auto load = [&](int col0, unsigned to, auto check) {
        constexpr bool CHECK = decltype(check)::value;
        const int tid = thread_index(), r = tid / Head<D>::LANES, chunk = tid % Head<D>::LANES;
        const unsigned dst = base + to * STAGE + r * STRIDE + chunk * 16;
        const unsigned at = ((DKDV ? member * cols : 0) + col0 + r) * D + chunk * 8;
        const unsigned stats_at = ((DKDV ? member * padded : 0) + col0) * 4;
        // Queries that see nothing are zeros too, whatever they hold: their P and dS are 0, and 0 * NaN is NaN.
        const int begin = CAUSAL && DKDV ? -offset - col0 - r : -BC, stop = (DKDV ? cols : keys) - col0 - r;
        auto present = [&](int i) {
            if (!CHECK) return true;
            if (DKDV && PAIRWISE) return stats[stats_at + lse_at(r + i)] < INFINITE;
            return i >= begin && i < stop;
        };
        load_tile<D, BC, NT>(dst, C1 + at, chunk, present);
        load_tile<D, BC, NT>(dst + TILE, C2 + at, chunk, present);
        if (DKDV && tid < BC)
            copy_async_16(base + 2 * STAGE + to * STATS + tid * 16, stats + stats_at + tid * 4, true);
    };

    // The place of a lane in the tile of columns at col0.
    auto own_place = [&](int col0) {
        const int tid = thread_index(), lane = tid & 31;
        Place own;
        own.row = first_row() + (tid >> 5) * 16 * MT + (lane >> 2);
        own.col = col0 + (lane & 3) * 2;
        own.keys_left = keys - (DKDV ? own.row : own.col);
        own.ahead = DKDV ? offset - own.row + own.col : offset + own.row - own.col;  // key <= query + offset
        return own;
    };

    auto step = [&](int col0, auto edge) {
        constexpr bool EDGE = decltype(edge)::value;
        wait_copies<0>();
        __syncthreads();  // this tile has landed, and nobody reads the one before any more
        if (!EDGE || col0 + BC < end()) load(col0 + BC, stage ^ 1, edge);
        commit_copies();
        // ldmatrix: plain reads B(k = d, n = row), 8 rows by 32 of D; trans B(k = row, n = d), 16 rows by 16 of D.
        const int tid = thread_index(), lane = tid & 31;
        const unsigned plain = base + stage * STAGE + (lane & 7) * STRIDE + (lane >> 3) * 16;
        const unsigned trans = base + stage * STAGE + (lane & 15) * STRIDE + (lane >> 4) * 16;
        const uint4* parked = reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(smem) + PARKED) + tid;
        const char* tile_stats = reinterpret_cast<const char*>(smem) + 2 * STAGE + stage * STATS + (lane & 3) * 32;
        Place own = own_place(col0);
        #pragma unroll 1
        for (int q = 0; q < BC; q += 16) {                  // 16 columns: one k-step of the second products
            const unsigned char* own_mask = nullptr;
            const element* own_bias = nullptr;
            float* own_dscores = nullptr;
            if (ALL_EDGE) own = own_place(col0);            // anew: the options need the registers
            const int keys_left = own.keys_left, ahead = own.ahead;
            if (PAIRWISE) {
                const int head = DKDV ? column_head + member : row_head, b = head / o.heads, h = head % o.heads;
                const int query = DKDV ? own.col : own.row, key = DKDV ? own.row : own.col;
                if (HAS_MASK) own_mask = o.mask + o.mask_at(b, h, query, key);
                if (HAS_BIAS) own_bias = o.bias + o.bias_at(b, h, query, key);
            }
            if (BIAS_GRADIENT && !DKDV)
                own_dscores = o.dscores + offset_of(row_head, rows, cols) + offset_of(own.row, cols) + own.col;
            unsigned p[MT][4], ds[MT][4];                   // A fragments of P and dS, packed from accumulators
            #pragma unroll
            for (int n = 0; n < 2; n++) {                   // their scores 8 at a time: 8*MT registers, not 16*MT
                unsigned kept[MT];
                if (DROPOUT)
                    #pragma unroll
                    for (int m = 0; m < MT; m++) {
                        const int row = own.row + m * 16, col = own.col + q + n * 8;
                        kept[m] = DKDV ? keep_rows_of_keys(o.seed, column_head + member, row, col, o.threshold, lane)
                                       : keep_rows_of_queries(o.seed, row_head, row, col, o.threshold);
                    }
                float s[MT][4], dp[MT][4];
                const float4 d = DKDV ? *reinterpret_cast<const float4*>(tile_stats + (q + n * 8) * 16) : float4();
                const float2 l = DKDV ? *reinterpret_cast<const float2*>(tile_stats + (q + n * 8) * 16 + 16) : float2();
                const float start[4] = {d.x, d.y, d.z, d.w}, zero[4] = {0.f, 0.f, 0.f, 0.f};
                #pragma unroll
                for (int k = 0; k < STEPS; k += 2) {
                    unsigned b[4];
                    const unsigned at = plain + (q + n * 8) * STRIDE + k * 32;
                    if (k + 1 < STEPS) load_matrix_x4(b, at); else load_matrix_x2(b, at);
                    #pragma unroll
                    for (int m = 0; m < MT; m++)
                        #pragma unroll
                        for (int i = 0; i < 2 && k + i < STEPS; i++) {
                            unsigned a[4];
                            fetch<HELD1, NT>(a, parked, r1, m, k + i);
                            mma_m16n8k16(s[m], a, b + 2 * i, k + i ? s[m] : zero);
                        }
                }
                #pragma unroll
                for (int k = 0; k < STEPS; k += 2) {
                    unsigned b[4];
                    const unsigned at = plain + (q + n * 8) * STRIDE + k * 32 + TILE;
                    if (k + 1 < STEPS) load_matrix_x4(b, at); else load_matrix_x2(b, at);
                    #pragma unroll
                    for (int m = 0; m < MT; m++)
                        #pragma unroll
                        for (int i = 0; i < 2 && k + i < STEPS; i++) {
                            unsigned a[4];
                            fetch<HELD2, NT>(a, parked + PARKED2, r2, m, k + i);
                            const float* from = DROPOUT ? zero : DKDV ? start : minus_d[m];
                            mma_m16n8k16(dp[m], a, b + 2 * i, k + i ? dp[m] : from);
                        }
                }
                #pragma unroll
                for (int m = 0; m < MT; m++)
                    #pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float weight[2], dscore[2];
                        #pragma unroll
                        for (int e = 0; e < 2; e++) {
                            const int dr = m * 16 + 8 * half, dc = q + n * 8 + e, i = 2 * half + e;
                            float score = fmaf(s[m][i], c, DKDV ? -(e ? l.y : l.x) : -lse[m][half]);
                            bool visible = true;
                            if (EDGE) {
                                // Past the end: queries have LSE = +inf, keys of dkdv are not stored.
                                if (!DKDV) visible = dc < keys_left;
                                if (DKDV && HAS_LENGTHS) visible = dr < keys_left;
                                if (CAUSAL) visible = visible && (DKDV ? dr - dc <= ahead : dc - dr <= ahead);
                                if (PAIRWISE || BIAS_GRADIENT)
                                    visible = visible && own.row + dr < rows && own.col + dc < cols;
                                const int di = DKDV ? dc : dr, dj = DKDV ? dr : dc;  // query, key
                                if (HAS_MASK && visible) visible = own_mask[di * o.mask_i + dj * o.mask_j];
                                if (HAS_BIAS && visible) {
                                    const float bias = own_bias[di * o.bias_i + dj * o.bias_j];
                                    visible = bias != -INFINITE;
                                    score = fmaf(bias, LOG2_E, score);
                                }
                            }
                            float exponential = exp2_fast(score);
                            if (EDGE && !visible) exponential = 0.f;
                            weight[e] = exponential;
                            dscore[e] = exponential * dp[m][i];
                            if (DROPOUT) {
                                const float factor = kept[m] >> i & 1 ? o.keep_scale : 0.f;
                                weight[e] = exponential * factor;
                                dscore[e] = exponential * fmaf(factor, dp[m][i], DKDV ? start[i] : minus_d[m][i]);
                            }
                            // Selected, not multiplied by 0: a hidden dP may be NaN.
                            if (EDGE && !visible) dscore[e] = 0.f;
                            if (BIAS_GRADIENT && !DKDV && visible) own_dscores[dr * cols + dc] = dscore[e];
                        }
                        p[m][2 * n + half] = pack(weight[0], weight[1]);
                        ds[m][2 * n + half] = pack(dscore[0], dscore[1]);
                    }
            }
            if (DKDV)
                #pragma unroll
                for (int n = 0; n < STEPS; n++) {
                    unsigned b[4];
                    load_matrix_x4_trans(b, trans + q * STRIDE + n * 32 + TILE);
                    #pragma unroll
                    for (int m = 0; m < MT; m++) {
                        mma_m16n8k16(sum2[m][2 * n], p[m], b, sum2[m][2 * n]);
                        if (2 * n + 1 < D / 8) mma_m16n8k16(sum2[m][2 * n + 1], p[m], b + 2, sum2[m][2 * n + 1]);
                    }
                }
            #pragma unroll
            for (int n = 0; n < STEPS; n++) {
                unsigned b[4];
                load_matrix_x4_trans(b, trans + q * STRIDE + n * 32);
                #pragma unroll
                for (int i = 0; i < 4; i++)
                    if (PAIRWISE && !DKDV) b[i] = finite(b[i]);
                #pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma_m16n8k16(sum1[m][2 * n], ds[m], b, sum1[m][2 * n]);
                    if (2 * n + 1 < D / 8) mma_m16n8k16(sum1[m][2 * n + 1], ds[m], b + 2, sum1[m][2 * n + 1]);
                }
            }
        }
        stage ^= 1;
    };

    #pragma unroll 1
    do {
        int col0 = first();
        if (col0 < end()) {
            load(col0, stage, Edge{});
            commit_copies();
        }
        #pragma unroll 1
        for (; col0 < end(); col0 += BC)
            if (hot(col0)) step(col0, Hot{});
            else step(col0, Edge{});
    } while (DKDV && GROUPED && ++member < o.group);

    const int lane = thread_index() & 31, row = first_row() + (thread_index() >> 5) * 16 * MT;
    store_rows<D, MT>(out1, sum1, scale, row, rows, lane);
    if constexpr (DKDV) store_rows<D, MT>(out2 + offset_of(row_head, rows, D), sum2, 1.f, row, rows, lane);
}

// ---- the entry points -----------------------------------------------------------------------------------------------

#define OPTION_PARAMETERS int H, int group, const int* key_lengths, \
    const unsigned char* mask, long long mask_b, long long mask_h, long long mask_i, long long mask_j, \
    const element* bias, long long bias_b, long long bias_h, long long bias_i, long long bias_j, \
    unsigned long long seed, unsigned threshold, float keep_scale
#define OPTION_VALUES H, group, key_lengths, mask, mask_b, mask_h, (int)mask_i, (int)mask_j, \
    bias, bias_b, bias_h, (int)bias_i, (int)bias_j, seed, threshold, keep_scale

#ifdef KV_MT
// grid (ceil(TK / (16*KV_MT*KV_NW)), B*HKV)
extern "C" __global__ void __launch_bounds__(32 * KV_NW, 1) attention_backward_dkdv(
    const element* q, const element* k, const element* v, const element* dout, const float* stats, element* dk,
    element* dv, int TQ, int TK, int padded, float scale, float c, OPTION_PARAMETERS) {
    const Options options = {OPTION_VALUES, nullptr};
    backward<true, HEAD, KV_MT, KV_NW, KV_BC, KV_HELD>(k, v, q, dout, stats, dk, dv, TK, TQ, padded, scale, c, options);
}
#endif

#ifdef DQ_MT
// grid (ceil(TQ / (16*DQ_MT*DQ_NW)), B*H)
extern "C" __global__ void __launch_bounds__(32 * DQ_NW, 1) attention_backward_dq(
    const element* q, const element* k, const element* v, const element* dout, const float* stats, element* dq,
    float* dscores, int TQ, int TK, int padded, float scale, float c, OPTION_PARAMETERS) {
    const Options options = {OPTION_VALUES, dscores};
    backward<false, HEAD, DQ_MT, DQ_NW, DQ_BC, DQ_HELD>(q, dout, k, v, stats, dq, nullptr, TQ, TK, padded, scale, c,
                                                        options);
}
#endif
