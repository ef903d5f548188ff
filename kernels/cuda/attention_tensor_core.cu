// Attention forward on tensor cores, for half and bfloat16 from sm_80 on: y = dropout(softmax(scale q k' + bias)) v,
// one tile of keys after the other, so that no score ever goes to memory. The definition is `minilm.ops.attention`;
// below sm_80, in float32 and for head size 256 attention.cu serves.
//
//   attention_forward    grid (ceil(TQ / QUERIES), B * H), block 32 WARPS, dynamic shared memory as drawn below
//
// A block holds QUERIES query rows, each warp 16 ROW_TILES of them, and goes over the visible keys, COLUMNS at a time:
//
//   S = Q K'                      mma.m16n8k16, sums in float32 registers
//   m' = max(m, rowmax S)         4 lanes hold a row: 2 shuffles
//   a = 2^(c (m - m'))            c = scale log2(e): one multiply-add and one ex2 for each score
//   P = 2^(c (S - m'))            the C fragment of S, packed in pairs, is the A fragment of the next product
//   l = a l + rowsum P, O = a O + P V
//
// and at the end y = O / l and lse = c m + log2(l), in base 2; where a row sees nothing, y = 0 and lse = +inf.
//
//      one tile, time --->
//      S = Q K(j)    ########                     the warps meet twice: V(j) must be there before the second product,
//      softmax               ########             K(j+1) after it, when nobody reads tile j any more
//      O += P V(j)                   ########
//      copy K(j+1)   ........................
//      copy V(j+1)                           ................ (of the next tile's time)
//
// The loop has two bodies: one without a test, for tiles that every row sees and that a whole tile follows; and one
// that hides scores and zeros keys past the end. Of a causal grid the blocks with the longest rows start first.
//
// Hidden keys and values may hold NaN: those past a sequence's length are never read (copies of 0 bytes write zeros);
// with a mask or a bias, values that no row of a warp sees are zeroed before the product, for 0 * NaN is NaN.
//
// Shared memory, with a row of WIDTH = D rounded up to 16 elements:
//
//   [ Q: QUERIES rows ][ K stage 0: COLUMNS rows ][ K stage 1 ][ V stage 0 ][ V stage 1 ]
//
//   A row is CHUNKS = WIDTH / 8 chunks of 16 bytes. ldmatrix reads one chunk of 8 rows at once, and would find them in
//   the same banks; so the chunks of a row change places, FIELD neighbours among themselves, and those of 8 rows lie
//   apart:
//
//   D = 64, FIELD 8    row 0   0 1 2 3 4 5 6 7        D = 80, FIELD 2    row 0-3   0 1 2 3 4 5 6 7 8 9
//   chunk c of row r   row 1   1 0 3 2 5 4 7 6        c ^ (r / 4 & 1)    row 4-7   1 0 3 2 5 4 7 6 9 8
//   at c ^ (r & 7)     row 2   2 3 0 1 6 7 4 5
//                      ...
//
//   If D is no multiple of 16, the last chunk of Q and K holds zeros, which are written once.
//
// Given as defines by the launcher (tensor_core.py has the table of shapes):
//   HEAD                                head size D, a multiple of 8 from 16 to 128
//   ROW_TILES  WARPS  COLUMNS           16-row tiles of a warp, warps of a block, keys of a tile
//   ELEMENT_F16 or ELEMENT_BF16         what q, k, v, y and bias hold
//   CAUSAL  HAS_MASK  HAS_BIAS  DROPOUT 0 or 1. Key lengths need none: they are where the keys end
// Arrays are C-contiguous: q, y (B, H, TQ, D), k, v (B, HKV, TK, D), lse (B, H, TQ); q, k, v, y begin at multiples of
// 16 bytes. A mask or bias has strides, 0 where it is broadcast; along the keys the stride is 0 or 1.
//
// Figures, compiled by NVRTC 13 (`python -m minilm.kernels compile` prints them all); the source is run on the CPU, and
// was not run on a GPU. Loop: instructions of the loop without a test, for one tile, and for 1000 multiply-adds;
// float16, full / causal. Spills: none.
//
//   D     ROW_TILES WARPS COLUMNS   sm    registers   loop        per 1000 FMA
//   64    2         4     64        80    251 / 251   578 / 578   2.20 / 2.20   (Triton 3.9: 630, 2.40)
//                                   90    255 / 255   582 / 582   2.22 / 2.22
//                                   100   254 / 249   554 / 555   2.11 / 2.12
//   128   1         8     64        80    205 / 205   446 / 446   1.70 / 1.70
//                                   90    218 / 215   454 / 454   1.73 / 1.73
//                                   100   213 / 215   440 / 438   1.68 / 1.67
//
// What the loop owes its size to, each measured at sm_80:
//   1. A lane's addresses in K and V are FIELD / 2 registers each; the stage is uniform, and the load adds it for
//      nothing. Exclusive ors on a moving address instead, with 2 undone: 592 instructions at D = 64.
//   2. An asynchronous copy has 12 bits for a distance in global memory. A thread copies neighbouring rows, and one
//      pointer serves them all. With rows 16 apart: 587 instructions at D = 64, 481 at D = 128 (4 warps).
//   3. 8 warps at D = 128 halve each thread's copies: 446 instructions, with 4 warps 460. 32 rows a warp spill there.
//   4. The second launch bound. Without it the compiler held some instances with dropout to 128 registers, and spilled.
//   5. Dropout's words are drawn in a loop that isn't unrolled and kept as bits, before the scores take registers.
//
// [Dao 2023, "FlashAttention-2", sections 3.1 and 3.3; Milakov and Gimelshein 2018, for the running maximum]

#include "fragments.cuh"

typedef unsigned int Word;                                                   // two elements
constexpr int D = HEAD;
constexpr int WIDTH = (D + 15) / 16 * 16;                                    // of a row in shared memory
constexpr int CHUNKS = WIDTH / 8, REAL_CHUNKS = D / 8;                        // of a row, with padding and without
constexpr int FIELD = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
constexpr int ROW_BYTES = WIDTH * 2;
constexpr int STAGE = COLUMNS * ROW_BYTES;                                   // from one stage to the other, in bytes
constexpr int THREADS = 32 * WARPS;
constexpr int QUERIES = 16 * ROW_TILES * WARPS;
constexpr int LANES = CHUNKS > 8 ? 16 : CHUNKS > 4 ? 8 : CHUNKS > 2 ? 4 : 2; // threads that copy one row
constexpr int COPIERS = THREADS / LANES;                                     // rows that are copied at the same time
constexpr int QUERY_ROWS = QUERIES / COPIERS, KEY_ROWS = COLUMNS / COPIERS;  // rows of a tile that one thread copies
constexpr int D_STEPS = WIDTH / 16, KEY_STEPS = COLUMNS / 16;                // products of depth 16 in Q K' and in P V
constexpr int KEY_TILES = COLUMNS / 8, D_TILES = D / 8;                      // 8 columns of S each, and of O
constexpr bool HIDING = HAS_MASK || HAS_BIAS;                                // hidden keys may stand anywhere
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(D % 8 == 0 && D >= 16 && D <= 128, "head sizes are multiples of 8 from 16 to 128");
static_assert(COLUMNS % COPIERS == 0 && QUERIES % COPIERS == 0, "each thread copies whole rows");
static_assert(COLUMNS % 16 == 0 && COLUMNS <= 64, "the kept weights of a lane's two rows fit 32 bits");

struct No { static constexpr bool value = false; };
struct Yes { static constexpr bool value = true; };

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// The place of a row's chunk: see the layout above.
__device__ __forceinline__ int place(int row, int chunk) { return chunk ^ (row / (8 / FIELD) & (FIELD - 1)); }

// A thread's part of a tile: one chunk of N neighbouring rows. `to` and `from` are those of the first row. GUARDED:
// rows from `rows` on become zeros, and what lies there is not read. `tile` is added last: so K and V share the rest.
template <int N, bool GUARDED>
__device__ __forceinline__ void copy_rows(unsigned tile, unsigned to, const element* from, int rows) {
    #pragma unroll
    for (int i = 0; i < N; i++)
        copy_async_16(tile + (to ^ place(i, 0) * 16) + i * ROW_BYTES, from + i * D, !GUARDED || i < rows);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward(
    const element* __restrict__ q, const element* __restrict__ k, const element* __restrict__ v,
    element* __restrict__ y, float* __restrict__ lse,
    const int* __restrict__ key_lengths,                                     // null: every sequence has TK keys
    int H, int HKV, int TQ, int TK,
    float scale_log2, Word q_keep, Word q_flip                               // |scale| log2(e); scale's sign, as bits
#if HAS_MASK
    , const unsigned char* __restrict__ mask, long long mask_b, long long mask_h, long long mask_i, long long mask_j
#endif
#if HAS_BIAS
    , const element* __restrict__ bias, long long bias_b, long long bias_h, long long bias_i, long long bias_j
#endif
#if DROPOUT
    , unsigned long long seed, unsigned threshold, float keep_scale
#endif
) {
    extern __shared__ uint4 shared[];
    const unsigned q_tile = shared_address(shared), k_tile = q_tile + QUERIES * ROW_BYTES, v_tile = k_tile + 2 * STAGE;
    const int lane = threadIdx.x & 31, warp_row = (threadIdx.x >> 5) * ROW_TILES * 16;
    const int row0 = (CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * QUERIES;
    const int head = blockIdx.y, b = head / H, h = head - b * H, kv_head = b * HKV + h / (H / HKV);
    q += offset_of(head, TQ, D);
    k += offset_of(kv_head, TK, D);
    v += offset_of(kv_head, TK, D);
    y += offset_of(head, TQ, D);
    lse += offset_of(head, TQ);

    // Causal: row i sees keys 0 .. i + ahead. Nobody reads a key from `keys` on.
    const int keys = key_lengths ? max(0, min(TK, key_lengths[b])) : TK, ahead = TK - TQ;
    const int seen_by_any = CAUSAL ? max(0, min(keys, row0 + QUERIES + ahead)) : keys;
    const int seen_by_all = CAUSAL ? max(0, min(keys, row0 + 1 + ahead)) : keys;
    const int tiles = (seen_by_any + COLUMNS - 1) / COLUMNS;
    const int plain_tiles = HIDING ? 0 : min(seen_by_all / COLUMNS, keys / COLUMNS - 1);

    const int copy_row = threadIdx.x / LANES, copy_chunk = threadIdx.x % LANES;
    const bool copies = REAL_CHUNKS == LANES || copy_chunk < REAL_CHUNKS;
    const int query_row = copy_row * QUERY_ROWS, key_row = copy_row * KEY_ROWS;
    const unsigned copy_to = (key_row * CHUNKS + place(key_row, copy_chunk)) * 16;
    const element* k_next = k + key_row * D + copy_chunk * 8;
    const element* v_next = v + key_row * D + copy_chunk * 8;
    if (copies) {
        copy_rows<QUERY_ROWS, true>(q_tile, (query_row * CHUNKS + place(query_row, copy_chunk)) * 16,
                                    q + (row0 + query_row) * D + copy_chunk * 8, TQ - row0 - query_row);
        copy_rows<KEY_ROWS, true>(k_tile, copy_to, k_next, keys - key_row);
    }
    commit_copies();
    if (copies) copy_rows<KEY_ROWS, true>(v_tile, copy_to, v_next, keys - key_row);
    commit_copies();
    if (D < WIDTH && copy_chunk == REAL_CHUNKS) {                            // of Q and of both stages of K
        for (int row = copy_row; row < QUERIES + 2 * COLUMNS; row += COPIERS)
            shared[row * CHUNKS + place(row, copy_chunk)] = make_uint4(0, 0, 0, 0);
    }
    k_next += COLUMNS * D;
    v_next += COLUMNS * D;
    wait_copies<1>();
    __syncthreads();

    Word query[ROW_TILES][D_STEPS][4];
    #pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
        #pragma unroll
        for (int step = 0; step < D_STEPS; step++) {
            const int row = warp_row + 16 * m + (lane & 15);
            load_matrix_x4(query[m][step], q_tile + (row * CHUNKS + place(row, 2 * step + (lane >> 4))) * 16);
            #pragma unroll
            for (int i = 0; i < 4; i++) query[m][step][i] = query[m][step][i] & q_keep ^ q_flip;
        }

    float sum[ROW_TILES][D_TILES][4], peak[ROW_TILES][2], total[ROW_TILES][2];   // O, m, l (l: this lane's columns)
    #pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        peak[m][0] = peak[m][1] = -infinity();
        total[m][0] = total[m][1] = 0.0f;
        #pragma unroll
        for (int n = 0; n < D_TILES; n++) sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0.0f;
    }

    // Where the lane reads K and V, for each place of a chunk among its FIELD neighbours; the rest are immediates.
    const int k_row = (lane & 7) + 8 * (lane >> 4), v_row = lane & 15;
    unsigned k_from[FIELD / 2], v_from[FIELD / 2], stage = 0;
    #pragma unroll
    for (int i = 0; i < FIELD / 2; i++) {
        k_from[i] = k_tile + (k_row * CHUNKS + place(k_row, 2 * i + (lane >> 3 & 1))) * 16;
        v_from[i] = v_tile + (v_row * CHUNKS + place(v_row, 2 * i + (lane >> 4))) * 16;
    }
    const float unit = HAS_BIAS ? 1.0f : scale_log2;                         // a bias is added to scaled scores

    auto attend = [&](int column0, auto guarded) {
        constexpr bool GUARDED = decltype(guarded)::value;
        const unsigned next = stage ^ STAGE;
        const int rows_left = keys - column0 - COLUMNS - key_row;
        if (copies) copy_rows<KEY_ROWS, GUARDED>(k_tile, copy_to + next, k_next, rows_left);
        k_next += COLUMNS * D;
        commit_copies();

#if DROPOUT
        Word kept[ROW_TILES];                                                // bits 4 n ..: columns 8 n ..
        #pragma unroll
        for (int m = 0; m < ROW_TILES; m++) kept[m] = 0;
        #pragma unroll 1
        for (int n = 0; n < KEY_TILES; n++)
            #pragma unroll
            for (int m = 0; m < ROW_TILES; m++)
                kept[m] |= draw_kept(seed, head, row0 + warp_row + 16 * m + (lane >> 2),
                                     column0 + 8 * n + 2 * (lane & 3), threshold) << 4 * n;
#endif

        float score[ROW_TILES][KEY_TILES][4];
        #pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
            #pragma unroll
            for (int n = 0; n < KEY_TILES; n++)
                score[m][n][0] = score[m][n][1] = score[m][n][2] = score[m][n][3] = 0.0f;
        #pragma unroll
        for (int step = 0; step < D_STEPS; step++)
            #pragma unroll
            for (int n = 0; n < KEY_TILES; n += 2) {
                Word key[4];
                const int chunk = 2 * step / FIELD * FIELD, among = 2 * step % FIELD / 2;
                load_matrix_x4(key, k_from[among] + stage + chunk * 16 + n * 8 * ROW_BYTES);
                #pragma unroll
                for (int m = 0; m < ROW_TILES; m++) {
                    mma_m16n8k16(score[m][n], query[m][step], key[0], key[1]);
                    mma_m16n8k16(score[m][n + 1], query[m][step], key[2], key[3]);
                }
            }

        Word seen = 0;                                                       // bits 2 n, 2 n + 1: by a row of this lane
        #pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                if (GUARDED) {
                    const int row = row0 + warp_row + 16 * m + (lane >> 2) + 8 * half;
                    const int column = column0 + 2 * (lane & 3);
                    // The row's last visible column, counted from `column`; and the last for which there is more to
                    // read: an array that is broadcast along the keys (stride 0) is read once for a row.
                    int last = row >= TQ ? -1 : (CAUSAL ? min(keys - 1, row + ahead) : keys - 1) - column;
#if HAS_MASK
                    const unsigned char* mask_at = mask + b * mask_b + h * mask_h + row * mask_i + column * mask_j;
                    if (mask_j == 0 && last >= 0 && !*mask_at) last = -1;
                    const int last_masked = mask_j == 0 ? -1 : last;
#endif
#if HAS_BIAS
                    const element* bias_at = bias + b * bias_b + h * bias_h + row * bias_i + column * bias_j;
                    const float row_bias = bias_j == 0 && last >= 0 ? (float)*bias_at : 0.0f;
                    if (row_bias == -infinity()) last = -1;
                    const int last_biased = bias_j == 0 ? -1 : last;
#endif
                    #pragma unroll
                    for (int n = 0; n < KEY_TILES; n++)
                        #pragma unroll
                        for (int i = 0; i < 2; i++) {
                            const int offset = 8 * n + i;
                            float& s = score[m][n][2 * half + i];
                            bool visible = offset <= last;
#if HAS_MASK
                            if (offset <= last_masked) visible = mask_at[offset];
#endif
#if HAS_BIAS
                            float added = row_bias;
                            if (offset <= last_biased) added = (float)bias_at[offset];
                            visible = visible && added != -infinity();
                            s = fmaf(s, scale_log2, added * LOG2_E);
#endif
                            s = visible ? s : -infinity();
                            if (HIDING && visible) seen |= 1u << (2 * n + i);
                        }
                }
                float highest = peak[m][half];
                #pragma unroll
                for (int n = 0; n < KEY_TILES; n++)
                    highest = fmaxf(highest, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
                highest = maximum_of_row(highest);
                const float shift = GUARDED && highest == -infinity() ? 0.0f : highest * unit;   // -inf - -inf is NaN
                const float shrink = exp2_fast(fmaf(peak[m][half], unit, -shift));
                peak[m][half] = highest;
                float added = 0.0f;
                #pragma unroll
                for (int n = 0; n < KEY_TILES; n++) {
                    float& left = score[m][n][2 * half];
                    float& right = score[m][n][2 * half + 1];
                    left = exp2_fast(fmaf(left, unit, -shift));
                    right = exp2_fast(fmaf(right, unit, -shift));
                    added += left + right;                                   // l sums what dropout is yet to hit
#if DROPOUT
                    left = kept[m] >> (4 * n + 2 * half) & 1 ? left : 0.0f;
                    right = kept[m] >> (4 * n + 2 * half) & 2 ? right : 0.0f;
#endif
                }
                total[m][half] = total[m][half] * shrink + added;
                #pragma unroll
                for (int n = 0; n < D_TILES; n++) {
                    sum[m][n][2 * half] *= shrink;
                    sum[m][n][2 * half + 1] *= shrink;
                }
            }
        if (HIDING) {                                                        // by a row of the warp
            seen |= __shfl_xor_sync(~0u, seen, 4);
            seen |= __shfl_xor_sync(~0u, seen, 8);
            seen |= __shfl_xor_sync(~0u, seen, 16);
        }

        wait_copies<1>();
        __syncthreads();                                                     // V(j) is there
        #pragma unroll
        for (int step = 0; step < KEY_STEPS; step++) {
            Word weight[ROW_TILES][4];
            #pragma unroll
            for (int m = 0; m < ROW_TILES; m++)
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* pair = &score[m][2 * step + i / 2][i % 2 * 2];
                    weight[m][i] = pack(pair[0], pair[1]);
                }
            const Word bits = seen >> 4 * step;                              // a lane's rows of V are its columns of S
            const Word upper = (bits & 1 ? 0xFFFFu : 0) | (bits & 2 ? 0xFFFF0000u : 0);
            const Word lower = (bits & 4 ? 0xFFFFu : 0) | (bits & 8 ? 0xFFFF0000u : 0);
            #pragma unroll
            for (int n = 0; n < D_TILES; n += 2) {
                Word value[4];
                const int chunk = n / FIELD * FIELD, among = n % FIELD / 2;
                load_matrix_x4_trans(value, v_from[among] + stage + chunk * 16 + step * 16 * ROW_BYTES);
                if (HIDING) {
                    value[0] &= upper;
                    value[1] &= lower;
                    value[2] &= upper;
                    value[3] &= lower;
                }
                #pragma unroll
                for (int m = 0; m < ROW_TILES; m++) {
                    mma_m16n8k16(sum[m][n], weight[m], value[0], value[1]);
                    if (n + 1 < D_TILES) mma_m16n8k16(sum[m][n + 1], weight[m], value[2], value[3]);
                }
            }
        }
        if (copies) copy_rows<KEY_ROWS, GUARDED>(v_tile, copy_to + next, v_next, rows_left);
        v_next += COLUMNS * D;
        commit_copies();
        wait_copies<1>();
        __syncthreads();                                                     // K(j+1) is there, and nobody reads tile j
        stage = next;
    };

    int j = 0;
    #pragma unroll 1
    for (; j < plain_tiles; j++) attend(j * COLUMNS, No());
    #pragma unroll 1
    for (; j < tiles; j++) attend(j * COLUMNS, Yes());
    wait_copies<0>();

    // The results go through the warp's own rows of the query tile, so that they are stored 16 bytes at a time.
    #pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            const float l = sum_of_row(total[m][half]);
            const int row = warp_row + 16 * m + (lane >> 2) + 8 * half;
            if (row0 + row < TQ && (lane & 3) == 0)
                lse[row0 + row] = l > 0.0f ? peak[m][half] * unit + log2f(l) : infinity();
            float factor = l > 0.0f ? 1.0f / l : 0.0f;
#if DROPOUT
            factor *= keep_scale;
#endif
            #pragma unroll
            for (int n = 0; n < D_TILES; n++)
                reinterpret_cast<Word*>(shared + row * CHUNKS + place(row, n))[lane & 3] =
                    pack(sum[m][n][2 * half] * factor, sum[m][n][2 * half + 1] * factor);
        }
    __syncwarp();
    #pragma unroll
    for (int i = 0; i < 16 * ROW_TILES; i += 32 / LANES) {
        const int row = warp_row + i + lane / LANES, chunk = lane % LANES;
        if (row0 + row < TQ && chunk < REAL_CHUNKS)
            *reinterpret_cast<uint4*>(y + (row0 + row) * D + chunk * 8) = shared[row * CHUNKS + place(row, chunk)];
    }
}
