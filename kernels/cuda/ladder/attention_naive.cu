// Attention, first rung: three kernels, a thread per number, the scores in global memory. To be read, not to be used.
//
//     attention_scores     a thread per score:   S_ij = scale <q_i, k_j>, -inf past the diagonal
//     attention_softmax    a thread per row:     P = softmax(S), in place, three walks along the row
//     attention_output     a thread per output:  O_id = sum_j P_ij v_jd
//
// Traffic of one head, T queries and keys, float32: each product asks for 8 T T D bytes, two numbers per multiply-add,
// and leaves it to the caches that most are the same. S goes to memory and back, 16 T T bytes at least: written, read
// and written by the softmax (whose threads each walk a row: nothing is coalesced), read at the end. What is wrong with
// it is all of that; what is right: nobody can misunderstand it. The next rung is attention_tiles.cu.
//
// Arrays are C-contiguous, float32: q, o (heads, Tq, D), k, v (heads, Tk, D), s (heads, Tq, Tk). blockIdx.z: the head.
// Causal is aligned at the end: key j is visible to query i iff j <= i + Tk - Tq. A row that sees nothing gives 0.

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// grid (Tk / 32, Tq / 8, heads), block (32, 8)
extern "C" __global__ void attention_scores(const float* q, const float* k, float* s, int Tq, int Tk, int D, int causal,
                                            float scale) {
    const int j = blockIdx.x * 32 + threadIdx.x, i = blockIdx.y * 8 + threadIdx.y;
    if (i >= Tq || j >= Tk) return;
    const long long head = blockIdx.z;
    const float* const query = q + (head * Tq + i) * D;
    const float* const key = k + (head * Tk + j) * D;
    float sum = 0.0f;
    for (int d = 0; d < D; d++) sum += query[d] * key[d];
    s[(head * Tq + i) * Tk + j] = causal && j > i + Tk - Tq ? minus_infinity() : sum * scale;
}

// grid (Tq / 128, 1, heads), block (128)
extern "C" __global__ void attention_softmax(float* s, int Tq, int Tk) {
    const int i = blockIdx.x * 128 + threadIdx.x;
    if (i >= Tq) return;
    float* const row = s + ((long long)blockIdx.z * Tq + i) * Tk;
    float top = minus_infinity(), sum = 0.0f;
    for (int j = 0; j < Tk; j++) top = fmaxf(top, row[j]);
    if (top == minus_infinity()) top = 0.0f;  // a row that sees nothing: -inf - (-inf) would be NaN
    for (int j = 0; j < Tk; j++) sum += expf(row[j] - top);
    for (int j = 0; j < Tk; j++) row[j] = sum == 0.0f ? 0.0f : expf(row[j] - top) / sum;
}

// grid (D / 32, Tq / 8, heads), block (32, 8)
extern "C" __global__ void attention_output(const float* p, const float* v, float* o, int Tq, int Tk, int D) {
    const int d = blockIdx.x * 32 + threadIdx.x, i = blockIdx.y * 8 + threadIdx.y;
    if (i >= Tq || d >= D) return;
    const long long head = blockIdx.z;
    const float* const weights = p + (head * Tq + i) * Tk;
    const float* const values = v + head * Tk * D;
    float sum = 0.0f;
    for (int j = 0; j < Tk; j++) sum += weights[j] * values[(long long)j * D + d];
    o[(head * Tq + i) * D + d] = sum;
}
