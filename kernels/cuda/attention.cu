// Exact attention, forward and backward, on plain cores: any GPU, all options; float32, float64 for gradient checks.
//
//     S = scale q k' + bias   P = softmax(S)   O = dropout(P) v   LSE = log2 sum_j exp(S_j)   [Dao et al. 2022, 2023]
//
// What it is not: the fast path for 16-bit types on sm_80 and later (attention_tensor_core.cu). No tensor core is used;
// every product and sum is made in the element type.
//
// THE LADDER. minilm.kernels.cuda.ladder.attention(q, k, v, rung=...) runs the first three. Bytes per head, float32, T
// queries and keys, not causal. "Asked": what the threads load, most of it served by caches; "S": the scores' own trips
// to memory and back. The example is T = 4096, D = 64, on an H100 (3.35 TB/s; 67 TFLOP/s float32; 989 TFLOP/s float16,
// of which mma.sync reaches 63 % at best). The times are ESTIMATES from these numbers: bounds, nobody's measurements.
//
//     rung                     idea                            asked          S       example         least time
//     ladder/attention_naive   a thread per score, 3 kernels   16 T T D       16 T T  17 GB + 268 MB  104 us: memory
//     ladder/attention_tiles   products by 32 x 32 tiles       16 T T D / 32  16 T T  0.5 GB + same   104 us: memory
//     attention (this file)    online softmax: S stays here    8 T T D / BR   none    134 MB          64 us: cores
//     attention_tensor_core    mma.sync, 16 bits, BR = 128     4 T T D / BR   none    34 MB           7 us: tensor
//
// Roofline: with S in memory there are 4 T T D / 16 T T = D / 4 operations a byte, 16 in the example, left of the
// float32 ridge at 20: two products of 32 us each, and 40 us for the softmax between them. Without S it is
// 4 T T D / 16 T D = T / 4, far to the right. Registers, without spills (NVRTC, sm_80, D = 64; python -m minilm.kernels
// compile shows all): naive 29 to 32, tiles 56, forward 164, dkdv 144 and dq 128, that is 12 warps per multiprocessor.
//
// ONLINE SOFTMAX. A row keeps its maximum m, its sum l and its unnormalised output o; a tile of scores updates them by
//     m' = max(m, max s)    l = l 2^(m-m') + sum 2^(s-m')    o = o 2^(m-m') + 2^(s-m') v      and at the end O = o / l.
// Scores are in base 2: q is multiplied by c = scale log2(e) when it is read, and a bias by log2(e).
//
// BACKWARD recomputes P = 2^(S - LSE) from q, k and LSE, tile by tile, without atomics: each result is written by one
// thread, each sum has one order.
//     D_i = rowsum(dO O)    dV = P' dO    dS = P (dO V' - D)    dQ = scale dS K    dK = scale dS' Q
//     attention_delta    a warp per query:            D, 0 for a query that sees nothing
//     attention_dkdv     a block per tile of keys:    over the queries of all query heads of the group: dK, dV
//     attention_dq       a block per tile of queries: over the keys: dQ, and dS where a bias wants its gradient
// The last two are ONE body. It holds a tile of "rows" and streams tiles of "columns":
//
//             rows R1, R2    columns C1, C2    S = R1 C1'    dP = R2 C2'    sums in registers
//     dkdv    K, V           Q, dO             K Q'          V dO'          sum2 += P dO (dV)    sum1 += dS Q (dK)
//     dq      Q, dO          K, V              Q K'          dO V'                               sum1 += dS K (dQ)
//
// THREADS, their rows and columns: attention.cuh, with the products of tiles.
//
// SHARED MEMORY, at most 48 KB. A tile's row is D numbers and 16 bytes of padding: D is a multiple of 8, so that the
// stride is an odd number of 16-byte units, and eight lanes that read eight rows meet all banks once.
//     forward     [ Q: BR ][ K, then V: BC ][ P: BR x (BC + pad) ]
//     backward    [ R1: BR ][ R2: BR ][ C1: BC ][ C2: BC, or in C1's place ][ P, then dS: BR x (BC + pad) ]
//
// TWO KINDS OF TILES. Most are seen whole: no test at all. The edge body serves tiles that the diagonal, a length or
// the end of the keys cuts, and every tile where there is a mask, bias or dropout. There a weight of 0 is not
// multiplied: what is hidden may be NaN. Tiles past the diagonal or past the length are never visited.
//
// Defines: HEAD (D: a multiple of 8 from 16 to 128, or 256); ELEMENT_F32 or ELEMENT_F64; and the one entry point that
// is wanted, ENTRY_FORWARD, ENTRY_DELTA, ENTRY_DKDV or ENTRY_DQ: each takes a second to compile.
// Arrays are C-contiguous and 16-byte aligned: q, o (B, H, Tq, D), k, v (B, Hkv, Tk, D), lse, delta (B, H, Tq), dS
// (B, H, Tq, Tk). Grids: (tiles of rows, heads, B). Causal is aligned at the end: key j is visible to query i iff
// j <= i + Tk - Tq.

#include "attention.cuh"

// ---- forward. One block per multiprocessor is asked for: without a number, ptxas may spill to have more of them.

template <class S>
struct Rows {  // what a thread keeps of its RM rows
    real m[S::RM], l[S::RM];  // maximum; this lane's part of the sum
    Vector o[S::RM][S::NV];
};

// One tile of keys: scores from `q` and `kv` (keys), weights to `p`, then values into the keys' place.
template <class S, bool EDGE>
__device__ __forceinline__ void forward_tile(Rows<S>& rows, const Head& head, const real* q, real* kv, real* p,
                                             const real* k, const real* v, int row0, int col0, int lane, int group) {
    __syncthreads();  // the values of the tile before have been read
    load_tile<S::BC, S::THREADS>(kv, k, col0, head.keys, 1);
    __syncthreads();
    real s[S::RM][S::CN];
    multiply_transposed<S>(s, q, kv, lane, group);
    #pragma unroll
    for (int r = 0; r < S::RM; r++) {
        const int i = row0 + group * S::RM + r;
        real m = rows.m[r];
        #pragma unroll
        for (int c = 0; c < S::CN; c++) {
            if (EDGE) s[r][c] = head.score(s[r][c], i, col0 + lane + S::TX * c);
            m = larger(m, s[r][c]);
        }
        #pragma unroll
        for (int step = S::TX / 2; step > 0; step >>= 1) m = larger(m, __shfl_xor_sync(0xffffffffu, m, step));
        const real shift = EDGE && m == -infinity() ? (real)0 : m;  // nothing seen yet: -inf - (-inf) would be NaN
        const real shrink = power_of_two(rows.m[r] - shift);
        rows.m[r] = m;
        rows.l[r] *= shrink;
        #pragma unroll
        for (int c = 0; c < S::CN; c++) {
            real weight = power_of_two(s[r][c] - shift);
            rows.l[r] += weight;  // before dropout
            if (EDGE) weight *= head.kept(i, col0 + lane + S::TX * c);
            p[(group * S::RM + r) * (S::BC + W) + lane + S::TX * c] = weight;
        }
        #pragma unroll
        for (int n = 0; n < S::NV; n++)
            #pragma unroll
            for (int e = 0; e < W; e++) rows.o[r][n].x[e] *= shrink;
    }
    __syncthreads();  // the keys have been read, and the weights are written
    load_tile<S::BC, S::THREADS>(kv, v, col0, head.keys, 1);
    __syncthreads();
    accumulate<S, EDGE>(rows.o, p, kv, lane, group);
}

#ifdef ENTRY_FORWARD
extern "C" __global__ void __launch_bounds__(Forward::THREADS, 1)
attention_forward(const real* __restrict__ q, const real* __restrict__ k, const real* __restrict__ v,
                  real* __restrict__ o, real* __restrict__ lse, int H, int Hkv, real c, OPTION_PARAMETERS) {
    typedef Forward S;
    __shared__ __align__(16) real q_tile[S::BR * STRIDE];
    __shared__ __align__(16) real kv_tile[S::BC * STRIDE];
    __shared__ __align__(16) real p_tile[S::BR * (S::BC + W)];
    const Options options = OPTION_ARGUMENTS;
    const int lane = threadIdx.x % S::TX, group = threadIdx.x / S::TX;
    const int h = blockIdx.y, b = blockIdx.z;
    const int row0 = (causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * S::BR;  // causal: the long rows first
    const long long query_head = (long long)b * H + h, key_head = (long long)b * Hkv + h / (H / Hkv);
    const Head head(options, b, h, H);
    q += offset_of(query_head, Tq, D);
    k += offset_of(key_head, Tk, D);
    v += offset_of(key_head, Tk, D);

    load_tile<S::BR, S::THREADS>(q_tile, q, row0, Tq, c);
    Rows<S> rows;
    clear<S>(rows.o);
    #pragma unroll
    for (int r = 0; r < S::RM; r++) {
        rows.m[r] = -infinity();
        rows.l[r] = 0;
    }
    const int end = head.keys_before(min(row0 + S::BR, Tq));
    int col0 = 0;
    #pragma unroll 1
    for (; col0 < end && head.whole(row0, col0 + S::BC); col0 += S::BC)
        forward_tile<S, false>(rows, head, q_tile, kv_tile, p_tile, k, v, row0, col0, lane, group);
    #pragma unroll 1
    for (; col0 < end; col0 += S::BC)
        forward_tile<S, true>(rows, head, q_tile, kv_tile, p_tile, k, v, row0, col0, lane, group);

    real inverse[S::RM];
    #pragma unroll
    for (int r = 0; r < S::RM; r++) {
        real l = rows.l[r];
        #pragma unroll
        for (int step = S::TX / 2; step > 0; step >>= 1) l += __shfl_xor_sync(0xffffffffu, l, step);
        inverse[r] = l == 0 ? (real)0 : 1 / l;  // a row that sees nothing: O = 0, LSE = +inf
        const int i = row0 + group * S::RM + r;
        if (lane == 0 && i < Tq) lse[offset_of(query_head, Tq) + i] = l == 0 ? infinity() : rows.m[r] + logarithm(l);
    }
    store<S>(o + offset_of(query_head, Tq, D), rows.o, inverse, row0, Tq, lane, group);
}
#endif

// ---- backward

#ifdef ENTRY_DELTA
// D_i = <dO_i, O_i> for rows 0 .. rows - 1 of all heads; a warp per row, 4 warps per block.
extern "C" __global__ void __launch_bounds__(128)
attention_delta(const real* __restrict__ o, const real* __restrict__ d_o, const real* __restrict__ lse,
                real* __restrict__ delta, long long rows) {
    const long long row = blockIdx.x * 4ll + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    real sum = 0;
    const bool sees = row < rows && lse[row] != infinity();  // else 0, whatever dO holds
    d_o += offset_of(row, D);
    o += offset_of(row, D);
    if (sees)
        for (int d = lane; d < D; d += 32) sum = multiply_add(d_o[d], o[d], sum);
    #pragma unroll
    for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0 && row < rows) delta[row] = sum;
}
#endif

// What one pair of heads streams, in the roles of the table in the header.
struct Columns {
    const real *c1, *c2;
    int count;                // beyond it, they read as zeros
    const real *lse, *delta;  // of the queries: columns in dkdv, rows in dq
    real* dscores;            // (Tq, Tk) or null; dq only
    int Tk;
};

template <class S>
struct Sums {
    Vector one[S::RM][S::NV], two[S::RM][S::NV];
};

template <class S>
struct BackwardTiles {
    real *r1, *r2, *c1, *c2, *p;
};

// One tile of columns. DKDV: rows are keys. ONE, TWO: which of the two sums is wanted.
template <class S, bool DKDV, bool ONE, bool TWO, bool EDGE>
__device__ __forceinline__ void backward_tile(Sums<S>& sums, const Columns& x, const Head& head,
                                              const BackwardTiles<S>& tiles, real c, int row0, int col0, int lane,
                                              int group) {
    const real c1_factor = DKDV ? c : (real)1;  // queries carry c, keys nothing
    __syncthreads();  // the columns of the tile before have been read
    load_tile<S::BC, S::THREADS>(tiles.c1, x.c1, col0, x.count, c1_factor);
    if (!ONE_STREAM) load_tile<S::BC, S::THREADS>(tiles.c2, x.c2, col0, x.count, 1);
    __syncthreads();
    real s[S::RM][S::CN], dp[S::RM][S::CN];
    multiply_transposed<S>(s, tiles.r1, tiles.c1, lane, group);
    if (ONE_STREAM) {
        __syncthreads();
        load_tile<S::BC, S::THREADS>(tiles.c2, x.c2, col0, x.count, 1);
        __syncthreads();
    }
    if (ONE) multiply_transposed<S>(dp, tiles.r2, tiles.c2, lane, group);
    #pragma unroll
    for (int r = 0; r < S::RM; r++)
        #pragma unroll
        for (int n = 0; n < S::CN; n++) {
            const int row = row0 + group * S::RM + r, column = col0 + lane + S::TX * n;
            const int i = DKDV ? column : row, j = DKDV ? row : column;
            const bool inside = i < head.Tq;
            const real lse = inside ? x.lse[i] : infinity();
            real kept = 1;
            if (EDGE) {
                s[r][n] = head.score(s[r][n], i, j);
                kept = head.kept(i, j);
            }
            const real weight = power_of_two(s[r][n] - lse);  // 0 where hidden: -inf - lse; and where lse = +inf
            const bool hidden = EDGE && (s[r][n] == -infinity() || lse == infinity());  // dP may be NaN there
            s[r][n] = hidden ? (real)0 : weight * kept;
            if (ONE) dp[r][n] = hidden ? (real)0 : weight * (dp[r][n] * kept - (inside ? x.delta[i] : (real)0));
            if (!DKDV && EDGE && x.dscores && inside && j < x.Tk) x.dscores[offset_of(i, x.Tk) + j] = dp[r][n];
        }
    real* const mine = tiles.p + group * S::RM * (S::BC + W) + lane;
    if (TWO) {
        #pragma unroll
        for (int r = 0; r < S::RM; r++)
            #pragma unroll
            for (int n = 0; n < S::CN; n++) mine[r * (S::BC + W) + S::TX * n] = s[r][n];
        __syncwarp();  // the lanes of a row are in one warp
        accumulate<S, EDGE>(sums.two, tiles.p, tiles.c2, lane, group);
        __syncwarp();
    }
    if (ONE) {
        #pragma unroll
        for (int r = 0; r < S::RM; r++)
            #pragma unroll
            for (int n = 0; n < S::CN; n++) mine[r * (S::BC + W) + S::TX * n] = dp[r][n];
        if (ONE_STREAM) {
            __syncthreads();
            load_tile<S::BC, S::THREADS>(tiles.c1, x.c1, col0, x.count, c1_factor);
            __syncthreads();
        } else {
            __syncwarp();
        }
        accumulate<S, EDGE>(sums.one, tiles.p, tiles.c1, lane, group);
    }
}

#define BACKWARD_TILES(S) \
    __shared__ __align__(16) real r1_tile[S::BR * STRIDE], r2_tile[S::BR * STRIDE]; \
    __shared__ __align__(16) real c_tile[(ONE_STREAM ? 1 : 2) * S::BC * STRIDE], p_tile[S::BR * (S::BC + W)]; \
    const BackwardTiles<S> tiles = {r1_tile, r2_tile, c_tile, ONE_STREAM ? c_tile : c_tile + S::BC * STRIDE, p_tile}

// Over all query heads of the group, one after the other, so that their sum has one order.
template <class S, bool ONE, bool TWO>
__device__ __forceinline__ void keys_pass(Sums<S>& sums, const Options& options, const BackwardTiles<S>& tiles,
                                          const real* q, const real* d_o, const real* lse, const real* delta, int H,
                                          int heads, real c, int row0, int lane, int group) {
    const int Tq = options.Tq, Tk = options.Tk, b = blockIdx.z;
    // Queries before `begin` see none of these keys.
    const int begin = options.causal ? max(0, row0 - (Tk - Tq)) / S::BC * S::BC : 0;
    clear<S>(sums.one);
    clear<S>(sums.two);
    #pragma unroll 1
    for (int h = blockIdx.y * heads; h < (blockIdx.y + 1) * heads; h++) {
        const long long query_head = (long long)b * H + h, at = offset_of(query_head, Tq);
        const Head head(options, b, h, H);
        if (row0 >= head.keys) break;  // behind the sequence's length: zeros
        const Columns columns = {
            q + offset_of(query_head, Tq, D), d_o + offset_of(query_head, Tq, D), Tq, lse + at, delta + at, nullptr,
            Tk};
        #pragma unroll 1
        for (int col0 = begin; col0 < Tq; col0 += S::BC)
            if (head.whole(col0, row0 + S::BR))
                backward_tile<S, true, ONE, TWO, false>(sums, columns, head, tiles, c, row0, col0, lane, group);
            else
                backward_tile<S, true, ONE, TWO, true>(sums, columns, head, tiles, c, row0, col0, lane, group);
    }
}

#ifdef ENTRY_DKDV
// One block per tile of keys. dk or dv may be null.
extern "C" __global__ void __launch_bounds__(Backward::THREADS, 1)
attention_dkdv(const real* __restrict__ q, const real* __restrict__ k, const real* __restrict__ v,
               const real* __restrict__ d_o, const real* __restrict__ lse, const real* __restrict__ delta,
               real* __restrict__ dk, real* __restrict__ dv, int H, int Hkv, real c, OPTION_PARAMETERS) {
    typedef Backward S;
    BACKWARD_TILES(S);
    const Options options = OPTION_ARGUMENTS;
    const int lane = threadIdx.x % S::TX, group = threadIdx.x / S::TX;
    const int b = blockIdx.z, heads = H / Hkv, row0 = blockIdx.x * S::BR;
    const long long key_head = (long long)b * Hkv + blockIdx.y;
    const int keys = Head(options, b, 0, H).keys;
    load_tile<S::BR, S::THREADS>(r1_tile, k + offset_of(key_head, Tk, D), row0, keys, 1);
    load_tile<S::BR, S::THREADS>(r2_tile, v + offset_of(key_head, Tk, D), row0, keys, 1);
    Sums<S> sums;
    real one[S::RM], ln_2[S::RM];
    #pragma unroll
    for (int r = 0; r < S::RM; r++) {
        one[r] = 1;
        ln_2[r] = LN_2;  // the queries carry scale log2(e): what is left of `scale` is 1 / log2(e)
    }
    #define KEYS_PASS(ONE, TWO) \
        keys_pass<S, ONE, TWO>(sums, options, tiles, q, d_o, lse, delta, H, heads, c, row0, lane, group)
    if (!TWO_PASSES) KEYS_PASS(true, true);
    if (TWO_PASSES && dk) KEYS_PASS(true, false);
    if (dk) store<S>(dk + offset_of(key_head, Tk, D), sums.one, ln_2, row0, Tk, lane, group);
    if (TWO_PASSES && dv) KEYS_PASS(false, true);
    if (dv) store<S>(dv + offset_of(key_head, Tk, D), sums.two, one, row0, Tk, lane, group);
}
#endif

#ifdef ENTRY_DQ
// One block per tile of queries. dq or dscores may be null; dscores come zeroed: not every tile is visited.
extern "C" __global__ void __launch_bounds__(Backward::THREADS, 1)
attention_dq(const real* __restrict__ q, const real* __restrict__ k, const real* __restrict__ v,
             const real* __restrict__ d_o, const real* __restrict__ lse, const real* __restrict__ delta,
             real* __restrict__ dq, real* __restrict__ dscores, real scale, int H, int Hkv, real c, OPTION_PARAMETERS) {
    typedef Backward S;
    BACKWARD_TILES(S);
    const Options options = OPTION_ARGUMENTS;
    const int lane = threadIdx.x % S::TX, group = threadIdx.x / S::TX;
    const int h = blockIdx.y, b = blockIdx.z;
    const int row0 = (causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * S::BR;
    const long long query_head = (long long)b * H + h, key_head = (long long)b * Hkv + h / (H / Hkv);
    const long long at = offset_of(query_head, Tq);
    const Head head(options, b, h, H);
    Sums<S> sums;
    clear<S>(sums.one);
    load_tile<S::BR, S::THREADS>(r1_tile, q + offset_of(query_head, Tq, D), row0, Tq, c);
    load_tile<S::BR, S::THREADS>(r2_tile, d_o + offset_of(query_head, Tq, D), row0, Tq, 1);
    const Columns columns = {k + offset_of(key_head, Tk, D), v + offset_of(key_head, Tk, D), head.keys,
                             lse + at, delta + at, dscores ? dscores + offset_of(query_head, Tq, Tk) : nullptr, Tk};
    const int end = head.keys_before(min(row0 + S::BR, Tq));
    int col0 = 0;
    #pragma unroll 1
    for (; col0 < end && !dscores && head.whole(row0, col0 + S::BC); col0 += S::BC)
        backward_tile<S, false, true, false, false>(sums, columns, head, tiles, c, row0, col0, lane, group);
    #pragma unroll 1
    for (; col0 < end; col0 += S::BC)
        backward_tile<S, false, true, false, true>(sums, columns, head, tiles, c, row0, col0, lane, group);
    real factor[S::RM];
    #pragma unroll
    for (int r = 0; r < S::RM; r++) factor[r] = scale;
    if (dq) store<S>(dq + offset_of(query_head, Tq, D), sums.one, factor, row0, Tq, lane, group);
}
#endif
