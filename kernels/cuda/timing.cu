// What a timer needs besides events: a kernel that only takes time, and one that only moves memory.
//
// spin    One thread waits for `cycles` of its multiprocessor's clock. Whatever is queued behind it starts when it ends,
//         back to back: how long Python took to queue it no longer shows in the time between two events.
// triad   a = b + s·c over n numbers: two arrays read, one written, 12 bytes per number, every access 16 bytes wide and
//         two loads of four in flight in each thread. [McCalpin 1995, "STREAM"] What it reaches is the bandwidth that a
//         kernel can have. The grid has ceil(n / (16 · TRIAD_THREADS)) blocks; the arrays start on a multiple of 16 bytes.

#ifndef TRIAD_THREADS
#define TRIAD_THREADS 256
#endif

constexpr int EACH = 4;  // groups of four numbers that a thread loads before it stores any

extern "C" __global__ void spin(long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) {
    }
}

extern "C" __global__ void __launch_bounds__(TRIAD_THREADS)
    triad(float* a, const float* b, const float* c, float s, long long n) {
    const long long first = (long long)blockIdx.x * (4 * EACH * TRIAD_THREADS) + 4 * threadIdx.x;
    if (first - 4 * threadIdx.x + 4 * EACH * TRIAD_THREADS <= n) {
        float4 x[EACH], y[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            x[k] = *(const float4*)(b + first + 4 * k * TRIAD_THREADS);
            y[k] = *(const float4*)(c + first + 4 * k * TRIAD_THREADS);
        }
#pragma unroll
        for (int k = 0; k < EACH; k++)
            *(float4*)(a + first + 4 * k * TRIAD_THREADS) =
                make_float4(x[k].x + s * y[k].x, x[k].y + s * y[k].y, x[k].z + s * y[k].z, x[k].w + s * y[k].w);
    } else {  // the last block, where n ends within it
        for (int k = 0; k < EACH; k++)
            for (int j = 0; j < 4; j++) {
                const long long i = first + 4 * k * TRIAD_THREADS + j;
                if (i < n) a[i] = b[i] + s * c[i];
            }
    }
}
