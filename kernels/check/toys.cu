// One toy kernel per wrapper of ptx.cuh: what an instruction does, shown on numbers whose result NumPy knows. toys.py
// launches them, on a GPU (where they try the instructions' text) and on the CPU (where they try the twins).
//
// One warp, one block. Compiled twice, with ELEMENT_F16 and with ELEMENT_BF16.

#include "fragments.cuh"

// out[m][lane]: the registers of x4, x4.trans and x2, from four matrices of 8 x 8 numbers, lane i giving row i.
extern "C" __global__ void toy_load_matrix(const unsigned short* x, unsigned* out) {
    __shared__ __align__(16) unsigned short rows[32 * 8];
    const int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) rows[lane * 8 + i] = x[lane * 8 + i];
    __syncwarp();
    unsigned plain[4], transposed[4], two[2];
    load_matrix_x4(plain, shared_address(rows + lane * 8));
    load_matrix_x4_trans(transposed, shared_address(rows + lane * 8));
    load_matrix_x2(two, shared_address(rows + lane * 8));
    for (int m = 0; m < 4; m++) {
        out[m * 32 + lane] = plain[m];
        out[(4 + m) * 32 + lane] = transposed[m];
    }
    for (int m = 0; m < 2; m++) out[(8 + m) * 32 + lane] = two[m];
}

// d = c + 2 a b, by both forms of the product. a (16, 16), b (16, 8), c, d (16, 8); fragments as ptx.cuh draws them.
extern "C" __global__ void toy_mma(const unsigned short* a, const unsigned short* b, const float* c, float* d) {
    const int group = threadIdx.x >> 2, in_group = threadIdx.x & 3;
    unsigned a_part[4] = {0, 0, 0, 0}, b_part[2] = {0, 0};
    float c_part[4], d_part[4];
    for (int i = 0; i < 8; i++) {
        const int row = group + (i & 2 ? 8 : 0), column = in_group * 2 + (i & 1) + (i & 4 ? 8 : 0);
        a_part[i / 2] |= (unsigned)a[row * 16 + column] << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++) {
        const int row = in_group * 2 + (i & 1) + (i & 2 ? 8 : 0);
        b_part[i / 2] |= (unsigned)b[row * 8 + group] << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++) c_part[i] = c[(group + (i & 2 ? 8 : 0)) * 8 + in_group * 2 + (i & 1)];
    mma_m16n8k16(d_part, a_part, b_part, c_part);
    mma_m16n8k16(d_part, a_part, b_part[0], b_part[1]);
    for (int i = 0; i < 4; i++) d[(group + (i & 2 ? 8 : 0)) * 8 + in_group * 2 + (i & 1)] = d_part[i];
}

// Three groups of copies, each waited for by its place in the queue. x (3, 128): four floats per thread and group, of
// which the threads from `present` on copy nothing and must find zeros, where NaN stood before.
extern "C" __global__ void toy_copy_async(const float* x, float* out, int present) {
    __shared__ __align__(16) float rows[3 * 128];
    const int lane = threadIdx.x;
    for (int i = 0; i < 12; i++) rows[lane * 12 + i] = __int_as_float(0x7fc00000);
    __syncwarp();
    for (int g = 0; g < 3; g++) {
        const int at = g * 128 + lane * 4;
        copy_async_16(shared_address(rows + at), x + at, lane < present);
        commit_copies();
    }
    wait_copies<2>();
    __syncwarp();
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = rows[lane * 4 + i];
    wait_copies<1>();
    __syncwarp();
    for (int i = 0; i < 4; i++) out[128 + lane * 4 + i] = rows[128 + lane * 4 + i];
    wait_copies<0>();
    __syncwarp();
    for (int i = 0; i < 4; i++) out[256 + lane * 4 + i] = rows[256 + lane * 4 + i];
}

// y[i] = 2^x[i], i < n.
extern "C" __global__ void toy_exp2(const float* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = exp2_fast(x[i]);
}

// Two floats packed into a register, and unpacked: rounded to the element type, to nearest even. x, y (n, 2).
extern "C" __global__ void toy_pack(const float* x, float* y, unsigned* packed, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        packed[i] = pack(x[2 * i], x[2 * i + 1]);
        const float2 back = unpack(packed[i]);
        y[2 * i] = back.x;
        y[2 * i + 1] = back.y;
    }
}

// Pairs of which NaN and infinities are made finite.
extern "C" __global__ void toy_finite(const unsigned* x, unsigned* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = finite(x[i]);
}
