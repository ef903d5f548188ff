// Softmax, first rung: a thread per row, three passes over global memory: maximum, sum, result. float32.
//
// Reads 3 N floats and writes N a row, and worse: the 32 threads of a warp read 32 rows at once, so that each 4-byte
// read fetches a 32-byte sector of its own; what the caches don't keep until the next read is fetched eight times.

extern "C" __global__ void softmax_naive(const float* x, float* y, int rows, int N) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += (long long)row * N;
    y += (long long)row * N;

    float top = x[0];
    for (int c = 1; c < N; c++) top = fmaxf(top, x[c]);
    const float shift = top < -3.402823466e38f ? 0.0f : top;  // a row of -inf gives zeros
    float sum = 0.0f;
    for (int c = 0; c < N; c++) sum += expf(x[c] - shift);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int c = 0; c < N; c++) y[c] = expf(x[c] - shift) * inverse;
}
