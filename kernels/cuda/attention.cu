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
// compile shows all): naive 29 to 32, tiles 56, forward 154, dkdv 156 and dq 146, that is 12 warps per multiprocessor.
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
// THREADS. A block is TX lanes by TY groups. A thread owns RM rows of a tile; of its scores CN columns, of its sums
// every TX-th vector of 16 bytes. The TX lanes of a row are neighbours in one warp: a row's maximum is a few shuffles,
// and scores change hands through shared memory behind a __syncwarp.
//
//     scores, BR x BC: columns                    sums, BR x D: vectors of 16 bytes
//                 0     1    ..  15    16   ..                0     1    ..  15    16   ..
//     row 0     lane0 lane1    lane15 lane0       row 0     lane0 lane1    lane15 lane0
//     row 1     the RM rows of group 0            row 1     the RM rows of group 0
//     row RM    group 1                           row RM    group 1
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
// Defines: HEAD (D: a multiple of 8 from 16 to 128, or 256); ELEMENT_F32 or ELEMENT_F64.
// Arrays are C-contiguous and 16-byte aligned: q, o (B, H, Tq, D), k, v (B, Hkv, Tk, D), lse, delta (B, H, Tq), dS
// (B, H, Tq, Tk). Grids: (tiles of rows, heads, B). Causal is aligned at the end: key j is visible to query i iff
// j <= i + Tk - Tq.

#include "philox.cuh"

#if defined(ELEMENT_F64)
typedef double real;
__device__ __forceinline__ real power_of_two(real x) { return exp2(x); }
__device__ __forceinline__ real logarithm(real x) { return log2(x); }
__device__ __forceinline__ real larger(real x, real y) { return fmax(x, y); }
__device__ __forceinline__ real multiply_add(real x, real y, real z) { return fma(x, y, z); }
__device__ __forceinline__ real infinity() { return 1.0 / 0.0; }
#elif defined(ELEMENT_F32)
typedef float real;
__device__ __forceinline__ real power_of_two(real x) { return exp2f(x); }
__device__ __forceinline__ real logarithm(real x) { return log2f(x); }
__device__ __forceinline__ real larger(real x, real y) { return fmaxf(x, y); }
__device__ __forceinline__ real multiply_add(real x, real y, real z) { return fmaf(x, y, z); }
__device__ __forceinline__ real infinity() { return __int_as_float(0x7f800000); }
#else
#error "define ELEMENT_F32 or ELEMENT_F64"
#endif

#if HEAD % 8 != 0 || HEAD < 16 || (HEAD > 128 && HEAD != 256)
#error "HEAD must be a multiple of 8 from 16 to 128, or 256"
#endif

constexpr real LOG2_E = (real)1.4426950408889634074;
constexpr real LN_2 = (real)0.69314718055994530942;
constexpr int D = HEAD;
constexpr int W = 16 / sizeof(real);  // numbers in a vector of 16 bytes
constexpr int VECTORS = D / W;
constexpr int STRIDE = D + W;         // of a tile's row in shared memory
constexpr int ROW_BYTES = D * sizeof(real);

struct __align__(16) Vector { real x[W]; };

// TX lanes by TY groups of threads, RM rows and CN columns each. The larger a row, the smaller the tile.
template <int LANES, int GROUPS, int ROWS, int COLUMNS>
struct Shape {
    static constexpr int TX = LANES, TY = GROUPS, RM = ROWS, CN = COLUMNS;
    static constexpr int THREADS = TX * TY, BR = TY * RM, BC = TX * CN;
    static constexpr int NV = (VECTORS + TX - 1) / TX;  // vectors of a row of sums per thread, rounded up
};
template <bool FIRST, class A, class B> struct Choose { typedef A type; };
template <class A, class B> struct Choose<false, A, B> { typedef B type; };

typedef Choose<ROW_BYTES <= 256, Shape<16, 8, 8, 2>,
        Choose<ROW_BYTES <= 512, Shape<16, 8, 4, 2>,
        Choose<ROW_BYTES <= 1024, Shape<16, 8, 2, 1>, Shape<8, 8, 1, 1>>::type>::type>::type Forward;
typedef Choose<ROW_BYTES <= 256, Shape<16, 8, 4, 2>,
        Choose<ROW_BYTES <= 512, Shape<16, 8, 4, 1>,
        Choose<ROW_BYTES <= 1024, Shape<8, 16, 1, 1>, Shape<8, 4, 1, 1>>::type>::type>::type Backward;
constexpr bool ONE_STREAM = ROW_BYTES > 256;  // backward: C1 and C2 take turns in one buffer, C1 is read twice
constexpr bool TWO_PASSES = ROW_BYTES > 512;  // dkdv: the sums of dK and dV together would not fit the registers

// The options of a call, as the launcher gives them; pointers are null where there is nothing.
struct Options {
    const int* key_lengths;
    const unsigned char* mask;
    long long mask_b, mask_h, mask_i, mask_j;
    const real* bias;
    long long bias_b, bias_h, bias_i, bias_j;
    int Tq, Tk, causal;
    unsigned long long seed;
    unsigned int threshold;
    real keep_scale;
};
#define OPTION_PARAMETERS \
    const int* key_lengths, const unsigned char* mask, \
    long long mask_b, long long mask_h, long long mask_i, long long mask_j, \
    const real* bias, long long bias_b, long long bias_h, long long bias_i, long long bias_j, \
    int Tq, int Tk, int causal, unsigned long long seed, unsigned int threshold, real keep_scale
#define OPTION_ARGUMENTS \
    {key_lengths, mask, mask_b, mask_h, mask_i, mask_j, bias, bias_b, bias_h, bias_i, bias_j, \
     Tq, Tk, causal, seed, threshold, keep_scale}

// The options as one head sees them.
struct Head {
    const unsigned char* mask;
    const real* bias;
    long long mask_i, mask_j, bias_i, bias_j;
    int Tq, keys;            // queries; keys within this sequence's length
    int causal, diagonal;    // the last key that query i may see is i + diagonal
    unsigned long long seed;
    unsigned int number, threshold;
    real keep_scale;
    bool plain;              // no mask, bias or dropout: a tile can be seen whole

    __device__ __forceinline__ Head(const Options& o, int b, int h, int H)
        : mask(o.mask ? o.mask + b * o.mask_b + h * o.mask_h : nullptr),
          bias(o.bias ? o.bias + b * o.bias_b + h * o.bias_h : nullptr),
          mask_i(o.mask_i), mask_j(o.mask_j), bias_i(o.bias_i), bias_j(o.bias_j), Tq(o.Tq), keys(o.Tk),
          causal(o.causal), diagonal(o.Tk - o.Tq), seed(o.seed), number((unsigned int)(b * H + h)),
          threshold(o.threshold), keep_scale(o.keep_scale), plain(!o.mask && !o.bias && o.threshold == 0) {
        if (o.key_lengths) keys = max(0, min(o.Tk, o.key_lengths[b]));  // clamped: lengths on a device are not checked
    }
    // The keys that some query before `end` may see: 0 .. result - 1.
    __device__ __forceinline__ int keys_before(int end) const {
        return causal ? max(0, min(keys, end + diagonal)) : keys;
    }
    // Whether every query from i on may see every key before `end`.
    __device__ __forceinline__ bool whole(int i, int end) const {
        return plain && end <= keys && (!causal || end - 1 <= i + diagonal);
    }
    // The score in base 2 with its bias, -infinity where it is hidden. The bounds come first: they guard the reads.
    __device__ __forceinline__ real score(real s, int i, int j) const {
        if (i >= Tq || j >= keys || (causal && j > i + diagonal)) return -infinity();
        if (mask && !mask[i * mask_i + j * mask_j]) return -infinity();
        if (bias) {
            const real added = bias[i * bias_i + j * bias_j];
            return added == -infinity() ? added : multiply_add(added, LOG2_E, s);  // NaN scores are hidden by it, too
        }
        return s;
    }
    // What dropout multiplies a weight by: 0, or 1 / (1 - p).
    __device__ __forceinline__ real kept(int i, int j) const {
        if (threshold == 0) return 1;
        return keeps(seed, number, i, j, threshold) ? keep_scale : (real)0;
    }
};

// Rows first .. first + N - 1 of x (rows, D), times `factor`, into a tile; zeros from row `rows` on.
template <int N, int THREADS>
__device__ __forceinline__ void load_tile(real* tile, const real* x, int first, int rows, real factor) {
    #pragma unroll 4
    for (int i = threadIdx.x; i < N * VECTORS; i += THREADS) {
        const int r = i / VECTORS, c = i % VECTORS * W;
        Vector v;
        #pragma unroll
        for (int w = 0; w < W; w++) v.x[w] = 0;
        if (first + r < rows) v = *reinterpret_cast<const Vector*>(x + (long long)(first + r) * D + c);
        #pragma unroll
        for (int w = 0; w < W; w++) v.x[w] *= factor;
        *reinterpret_cast<Vector*>(tile + r * STRIDE + c) = v;
    }
}

// product[r][c] = <row group*RM + r of a, row lane + TX*c of b>
template <class S>
__device__ __forceinline__ void multiply_transposed(real (&product)[S::RM][S::CN], const real* a, const real* b,
                                                    int lane, int group) {
    a += group * S::RM * STRIDE;
    b += lane * STRIDE;
    #pragma unroll
    for (int r = 0; r < S::RM; r++)
        #pragma unroll
        for (int c = 0; c < S::CN; c++) product[r][c] = 0;
    #pragma unroll 2
    for (int d = 0; d < D; d += W) {
        Vector x[S::RM], y[S::CN];
        #pragma unroll
        for (int r = 0; r < S::RM; r++) x[r] = *reinterpret_cast<const Vector*>(a + r * STRIDE + d);
        #pragma unroll
        for (int c = 0; c < S::CN; c++) y[c] = *reinterpret_cast<const Vector*>(b + c * S::TX * STRIDE + d);
        #pragma unroll
        for (int w = 0; w < W; w++)
            #pragma unroll
            for (int r = 0; r < S::RM; r++)
                #pragma unroll
                for (int c = 0; c < S::CN; c++) product[r][c] = multiply_add(x[r].x[w], y[c].x[w], product[r][c]);
    }
}

// The thread's place in the sums: vector lane + TX*n. Idle lanes repeat vector 0, and store nothing.
template <class S>
__device__ __forceinline__ int vector_of(int lane, int n) {
    return VECTORS % S::TX == 0 || lane + S::TX * n < VECTORS ? lane + S::TX * n : 0;
}

// sum[r][n] += weights (BR x BC, in shared memory) times b (BC x D). EDGE: a weight of 0 adds nothing, whatever b is.
template <class S, bool EDGE>
__device__ __forceinline__ void accumulate(Vector (&sum)[S::RM][S::NV], const real* weights, const real* b, int lane,
                                           int group) {
    constexpr int WEIGHT_STRIDE = S::BC + W;
    weights += group * S::RM * WEIGHT_STRIDE;
    #pragma unroll 1
    for (int j = 0; j < S::BC; j += W) {
        Vector p[S::RM];
        #pragma unroll
        for (int r = 0; r < S::RM; r++) p[r] = *reinterpret_cast<const Vector*>(weights + r * WEIGHT_STRIDE + j);
        #pragma unroll
        for (int w = 0; w < W; w++)
            #pragma unroll
            for (int n = 0; n < S::NV; n++) {
                const Vector y = *reinterpret_cast<const Vector*>(b + (j + w) * STRIDE + vector_of<S>(lane, n) * W);
                #pragma unroll
                for (int r = 0; r < S::RM; r++)
                    if (!EDGE || p[r].x[w] != 0)
                        #pragma unroll
                        for (int e = 0; e < W; e++) sum[r][n].x[e] = multiply_add(p[r].x[w], y.x[e], sum[r][n].x[e]);
            }
    }
}

template <class S>
__device__ __forceinline__ void clear(Vector (&sum)[S::RM][S::NV]) {
    #pragma unroll
    for (int r = 0; r < S::RM; r++)
        #pragma unroll
        for (int n = 0; n < S::NV; n++)
            #pragma unroll
            for (int e = 0; e < W; e++) sum[r][n].x[e] = 0;
}

// Rows first + group*RM + r of out (rows, D) = sum * factor[r]; rows past the end are left out.
template <class S>
__device__ __forceinline__ void store(real* out, const Vector (&sum)[S::RM][S::NV], const real (&factor)[S::RM],
                                      int first, int rows, int lane, int group) {
    #pragma unroll
    for (int r = 0; r < S::RM; r++) {
        const int row = first + group * S::RM + r;
        #pragma unroll
        for (int n = 0; n < S::NV; n++) {
            Vector y;
            #pragma unroll
            for (int e = 0; e < W; e++) y.x[e] = sum[r][n].x[e] * factor[r];
            if (row < rows && (VECTORS % S::TX == 0 || lane + S::TX * n < VECTORS))
                *reinterpret_cast<Vector*>(out + (long long)row * D + (lane + S::TX * n) * W) = y;
        }
    }
}

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
    q += query_head * Tq * D;
    k += key_head * Tk * D;
    v += key_head * Tk * D;

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
        if (lane == 0 && i < Tq) lse[query_head * Tq + i] = l == 0 ? infinity() : rows.m[r] + logarithm(l);
    }
    store<S>(o + query_head * Tq * D, rows.o, inverse, row0, Tq, lane, group);
}

// ---- backward

// D_i = <dO_i, O_i> for rows 0 .. rows - 1 of all heads; a warp per row, 4 warps per block.
extern "C" __global__ void __launch_bounds__(128)
attention_delta(const real* __restrict__ o, const real* __restrict__ d_o, const real* __restrict__ lse,
                real* __restrict__ delta, long long rows) {
    const long long row = blockIdx.x * 4ll + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    real sum = 0;
    const bool sees = row < rows && lse[row] != infinity();  // else 0, whatever dO holds
    if (sees)
        for (int d = lane; d < D; d += 32) sum = multiply_add(d_o[row * D + d], o[row * D + d], sum);
    #pragma unroll
    for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0 && row < rows) delta[row] = sum;
}

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
            if (!DKDV && EDGE && x.dscores && inside && j < x.Tk) x.dscores[(long long)i * x.Tk + j] = dp[r][n];
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
        const long long at = ((long long)b * H + h) * Tq;
        const Head head(options, b, h, H);
        if (row0 >= head.keys) break;  // behind the sequence's length: zeros
        const Columns columns = {q + at * D, d_o + at * D, Tq, lse + at, delta + at, nullptr, Tk};
        #pragma unroll 1
        for (int col0 = begin; col0 < Tq; col0 += S::BC)
            if (head.whole(col0, row0 + S::BR))
                backward_tile<S, true, ONE, TWO, false>(sums, columns, head, tiles, c, row0, col0, lane, group);
            else
                backward_tile<S, true, ONE, TWO, true>(sums, columns, head, tiles, c, row0, col0, lane, group);
    }
}

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
    load_tile<S::BR, S::THREADS>(r1_tile, k + key_head * Tk * D, row0, keys, 1);
    load_tile<S::BR, S::THREADS>(r2_tile, v + key_head * Tk * D, row0, keys, 1);
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
    if (dk) store<S>(dk + key_head * Tk * D, sums.one, ln_2, row0, Tk, lane, group);
    if (TWO_PASSES && dv) KEYS_PASS(false, true);
    if (dv) store<S>(dv + key_head * Tk * D, sums.two, one, row0, Tk, lane, group);
}

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
    const long long at = ((long long)b * H + h) * Tq, key_head = (long long)b * Hkv + h / (H / Hkv);
    const Head head(options, b, h, H);
    Sums<S> sums;
    clear<S>(sums.one);
    load_tile<S::BR, S::THREADS>(r1_tile, q + at * D, row0, Tq, c);
    load_tile<S::BR, S::THREADS>(r2_tile, d_o + at * D, row0, Tq, 1);
    const Columns columns = {k + key_head * Tk * D, v + key_head * Tk * D, head.keys, lse + at, delta + at,
                             dscores ? dscores + at * Tk : nullptr, Tk};
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
    if (dq) store<S>(dq + at * D, sums.one, factor, row0, Tq, lane, group);
}
