// What forward and backward of attention.cu share: the element type, the shapes of the tiles, the options of a call and
// what one head sees of them, and the products of tiles.
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

#pragma once

#include "offsets.cuh"
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
