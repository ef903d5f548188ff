// Softmax, second rung: a block per row, its threads reading neighbouring columns, and two reductions in shared memory.
// float32.
//
// Every fetched byte is used now, but the row is still read three times: 3 N floats in, N out. Each reduction halves
// the number of partial results between barriers:
//
//   partial | 0 1 2 3 4 5 6 7 |  + distance 4 ->  | 0 1 2 3 |  + distance 2 ->  | 0 1 |  + distance 1 ->  | 0 |

#define THREADS 256

__device__ __forceinline__ float reduce(float* partial, float value, bool largest) {
    const int t = threadIdx.x;
    partial[t] = value;
    __syncthreads();
    for (int distance = THREADS / 2; distance > 0; distance /= 2) {
        if (t < distance) {
            const float a = partial[t], b = partial[t + distance];
            partial[t] = largest ? fmaxf(a, b) : a + b;
        }
        __syncthreads();
    }
    const float result = partial[0];
    __syncthreads();  // the next reduction writes to partial
    return result;
}

extern "C" __global__ void __launch_bounds__(THREADS) softmax_shared(const float* x, float* y, int rows, int N) {
    __shared__ float partial[THREADS];
    x += (long long)blockIdx.x * N;
    y += (long long)blockIdx.x * N;

    float top = x[0];
    for (int c = threadIdx.x; c < N; c += THREADS) top = fmaxf(top, x[c]);
    top = reduce(partial, top, true);
    const float shift = top < -3.402823466e38f ? 0.0f : top;  // a row of -inf gives zeros
    float sum = 0.0f;
    for (int c = threadIdx.x; c < N; c += THREADS) sum += expf(x[c] - shift);
    sum = reduce(partial, sum, false);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int c = threadIdx.x; c < N; c += THREADS) y[c] = expf(x[c] - shift) * inverse;
}
