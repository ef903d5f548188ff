// Attention, second rung: the products by tiles in shared memory, the scores still in global memory. To be read, not
// to be used.
//
//     attention_scores     a block per 32 x 32 scores:   S = scale q k', -inf past the diagonal
//     attention_softmax    a warp per row:               P = softmax(S), in place, coalesced
//     attention_output     a block per 32 x 32 outputs:  O = P v
//
// A number that is read into shared memory serves 32 threads: a product asks for 8 T T D / 32 bytes instead of 8 T T D.
// The softmax's lanes read neighbours. S still goes to memory and back, 16 T T bytes at least, and for long rows that
// is what bounds it: the next rung, ../attention.cu, never writes S.
//
//     a tile of a and of b (both by rows of 32 numbers of the summed axis) gives the block's tile of a b'
//
//          b: rows j0 ..              a block is 32 x 8 threads: thread (x, y) has column x
//       a  ┌────────┐                 and rows y, y + 8, y + 16, y + 24 of the result.
//       i0 │ S tile │                 Rows of b are 33 numbers apart: 32 threads read a column
//       .. └────────┘                 of it, and 33 steps through all 32 banks.
//
// Arrays as in attention_naive.cu.

constexpr int TILE = 32, PITCH = TILE + 1, STEPS = 4;  // 8 rows of threads, STEPS rows of the result each

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// tile[y][x] = x_matrix[row0 + y][col0 + x], zero outside (rows, columns); `transposed` swaps the tile's axes
__device__ __forceinline__ void load_tile(float (&tile)[TILE][PITCH], const float* matrix, int row0, int col0, int rows,
                                          int columns, bool transposed) {
    for (int y = threadIdx.y; y < TILE; y += TILE / STEPS) {
        const int row = row0 + y, column = col0 + (int)threadIdx.x;
        const float value = row < rows && column < columns ? matrix[(long long)row * columns + column] : 0.0f;
        if (transposed) tile[threadIdx.x][y] = value;
        else tile[y][threadIdx.x] = value;
    }
}

// sum[n] += <row y + 8 n of a, row x of b>
__device__ __forceinline__ void multiply(float (&sum)[STEPS], const float (&a)[TILE][PITCH],
                                         const float (&b)[TILE][PITCH]) {
    for (int c = 0; c < TILE; c++)
        #pragma unroll
        for (int n = 0; n < STEPS; n++) sum[n] += a[threadIdx.y + TILE / STEPS * n][c] * b[threadIdx.x][c];
}

// grid (Tk / 32, Tq / 32, heads), block (32, 8)
extern "C" __global__ void attention_scores(const float* q, const float* k, float* s, int Tq, int Tk, int D, int causal,
                                            float scale) {
    __shared__ float a[TILE][PITCH], b[TILE][PITCH];
    const int i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
    const long long head = blockIdx.z;
    float sum[STEPS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int d0 = 0; d0 < D; d0 += TILE) {
        __syncthreads();  // the tiles before have been read
        load_tile(a, q + head * Tq * D, i0, d0, Tq, D, false);
        load_tile(b, k + head * Tk * D, j0, d0, Tk, D, false);
        __syncthreads();
        multiply(sum, a, b);
    }
    #pragma unroll
    for (int n = 0; n < STEPS; n++) {
        const int i = i0 + threadIdx.y + TILE / STEPS * n, j = j0 + threadIdx.x;
        const bool visible = !causal || j <= i + Tk - Tq;
        if (i < Tq && j < Tk) s[(head * Tq + i) * Tk + j] = visible ? sum[n] * scale : minus_infinity();
    }
}

// grid (Tq / 8, 1, heads), block (32, 8)
extern "C" __global__ void attention_softmax(float* s, int Tq, int Tk) {
    const int i = blockIdx.x * 8 + threadIdx.y;
    if (i >= Tq) return;  // a whole warp leaves
    float* const row = s + ((long long)blockIdx.z * Tq + i) * Tk;
    float top = minus_infinity(), sum = 0.0f;
    for (int j = threadIdx.x; j < Tk; j += 32) top = fmaxf(top, row[j]);
    for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    if (top == minus_infinity()) top = 0.0f;  // a row that sees nothing: -inf - (-inf) would be NaN
    for (int j = threadIdx.x; j < Tk; j += 32) sum += expf(row[j] - top);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    for (int j = threadIdx.x; j < Tk; j += 32) row[j] = sum == 0.0f ? 0.0f : expf(row[j] - top) / sum;
}

// grid (D / 32, Tq / 32, heads), block (32, 8)
extern "C" __global__ void attention_output(const float* p, const float* v, float* o, int Tq, int Tk, int D) {
    __shared__ float a[TILE][PITCH], b[TILE][PITCH];
    const int i0 = blockIdx.y * TILE, d0 = blockIdx.x * TILE;
    const long long head = blockIdx.z;
    float sum[STEPS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int j0 = 0; j0 < Tk; j0 += TILE) {
        __syncthreads();  // the tiles before have been read
        load_tile(a, p + head * Tq * Tk, i0, j0, Tq, Tk, false);
        load_tile(b, v + head * Tk * D, j0, d0, Tk, D, true);  // rows of b are columns of v
        __syncthreads();
        multiply(sum, a, b);
    }
    #pragma unroll
    for (int n = 0; n < STEPS; n++) {
        const int i = i0 + threadIdx.y + TILE / STEPS * n, d = d0 + threadIdx.x;
        if (i < Tq && d < D) o[(head * Tq + i) * D + d] = sum[n];
    }
}
