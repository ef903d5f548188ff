// Every PTX instruction that the kernels use, each in a device function of its own, for sm_80 and later; and beside
// each its CPU twin, written from the layout tables of the PTX ISA ("Warp-level matrix instructions", "Data movement").
//
//   ELEMENT_BF16 1    the matrices hold __nv_bfloat16; else half. `element` names the type
//
// A shared-memory address is 32 bits of bytes. Two elements share a register, the lower one in the lower half.
//
// Fragments of mma.m16n8k16, g = lane / 4, t = lane % 4; "2t" means columns (or rows) 2t and 2t + 1:
//
//         A 16 x 16 (row, k)              B 16 x 8 (k, column)          C, D 16 x 8 (row, column)
//            k: 2t      2t + 8                 column: g                       column: 2t
//     row g     | a[0] | a[2] |         k 2t      | b[0] |           row g     | d[0] d[1] |
//     row g + 8 | a[1] | a[3] |         k 2t + 8  | b[1] |           row g + 8 | d[2] d[3] |
//
// So D, packed in pairs, is the A of a next product: a[0] = (d[0], d[1]), a[1] = (d[2], d[3]) of its first 8 columns,
// a[2] and a[3] of the 8 beside them.
//
// ldmatrix reads matrices of 8 rows of 16 bytes. Lane 8 m + r gives the address of row r of matrix m; of matrix m a
// lane gets register m: row g, elements 2t and 2t + 1; transposed: rows 2t and 2t + 1, element g.

#pragma once

#include <cuda_fp16.h>
#if ELEMENT_BF16
#include <cuda_bf16.h>
typedef __nv_bfloat16 element;
#else
typedef __half element;
#endif

#ifdef CUDA_CPU_MODEL

// ---- the twins ------------------------------------------------------------------------------------------------------

inline int thread_index() { return threadIdx.x; }
inline int block_index() { return blockIdx.x; }

inline unsigned shared_address(const void* pointer) { return cuda_cpu::address_of(pointer); }

// 16 bytes from `from`, or four times `word`. No memcpy: ThreadSanitizer doesn't see one that the compiler expands.
inline void store_16(char* to, const void* from, unsigned word) {
    for (int i = 0; i < 4; i++) ((unsigned*)to)[i] = from ? ((const unsigned*)from)[i] : word;
}

// From its issue on the target belongs to the copy, and holds NaN: whoever still reads what was there before, or reads
// before the wait, meets it, and ThreadSanitizer sees a write here. The bytes come at the wait.
inline void copy_async_16(unsigned to, const void* from, bool present, CUDA_CPU_WHERE) {
    char* destination = cuda_cpu::shared_pointer(to, 16, file, line);
    if (present && (size_t)from % 16)
        CUDA_CPU_FAIL("%s:%d: misaligned: thread %d copies 16 bytes from %p", file, line, cuda_cpu::self().number,
                      from);
    store_16(destination, nullptr, ~0u);
    cuda_cpu::defer({destination, from, present ? 16 : 0, cuda_cpu::self().group});
}

inline void commit_copies() { cuda_cpu::self().group++; }

template <int N>
inline void wait_copies() {
    cuda_cpu::Copy copy;
    while (cuda_cpu::take(cuda_cpu::self().group - N, &copy))
        store_16(copy.destination, copy.bytes ? copy.source : nullptr, 0);
}

template <int COUNT>
inline void load_matrices(unsigned* registers, unsigned address, bool transposed, const char* file, int line) {
    cuda_cpu::exchange(~0u, &address, 1, nullptr, file, line);
    const int g = cuda_cpu::self().lane / 4, t = cuda_cpu::self().lane % 4;
    for (int matrix = 0; matrix < COUNT; matrix++) {
        unsigned short pair[2];
        for (int i = 0; i < 2; i++) {
            unsigned row;
            cuda_cpu::fetch(&row, 8 * matrix + (transposed ? 2 * t + i : g), 1);
            memcpy(&pair[i], cuda_cpu::shared_pointer(row, 16, file, line) + 2 * (transposed ? g : 2 * t + i), 2);
        }
        registers[matrix] = pair[0] | (unsigned)pair[1] << 16;
    }
}
inline void load_matrix_x4(unsigned* registers, unsigned address, CUDA_CPU_WHERE) {
    load_matrices<4>(registers, address, false, file, line);
}
inline void load_matrix_x4_trans(unsigned* registers, unsigned address, CUDA_CPU_WHERE) {
    load_matrices<4>(registers, address, true, file, line);
}
inline void load_matrix_x2(unsigned* registers, unsigned address, CUDA_CPU_WHERE) {
    load_matrices<2>(registers, address, false, file, line);
}

// The product of a whole warp at once. Lanes offered a[0..3], b[0..1]; each gets the four numbers of D - C that are its
// own.
CUDA_CPU_UNSEEN float half_of_word(unsigned word, int upper) {
    element value;
    value.bits = (unsigned short)(word >> 16 * upper);
    return value;
}
CUDA_CPU_UNSEEN void multiply_fragments(unsigned (*board)[cuda_cpu::WORDS]) {
    float A[16][16], B[16][8], D[16][8] = {};
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 2; i++) {
            const int g = lane / 4, k = lane % 4 * 2 + i;
            A[g][k] = half_of_word(board[lane][0], i);
            A[g + 8][k] = half_of_word(board[lane][1], i);
            A[g][k + 8] = half_of_word(board[lane][2], i);
            A[g + 8][k + 8] = half_of_word(board[lane][3], i);
            B[k][g] = half_of_word(board[lane][4], i);
            B[k + 8][g] = half_of_word(board[lane][5], i);
        }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) D[row][column] += A[row][k] * B[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            board[lane][i] = cuda_cpu_bits<unsigned>(D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
}
inline void mma_m16n8k16(float* d, const unsigned* a, const unsigned* b, const float* c, CUDA_CPU_WHERE) {
    const unsigned words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    cuda_cpu::exchange(~0u, words, 6, multiply_fragments, file, line);
    unsigned product[4];
    cuda_cpu::fetch(product, cuda_cpu::self().lane, 4);
    for (int i = 0; i < 4; i++) d[i] = c[i] + cuda_cpu_bits<float>(product[i]);
}
inline void mma_m16n8k16(float* d, const unsigned* a, unsigned b0, unsigned b1, CUDA_CPU_WHERE) {
    const unsigned b[2] = {b0, b1};
    mma_m16n8k16(d, a, b, d, file, line);
}

inline float exp2_fast(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.f : y;  // .ftz: results below the normal numbers are zeros
}

#else

// ---- the instructions -----------------------------------------------------------------------------------------------

// volatile: what follows from these is computed anew where it is used, instead of living in a register across a loop.
__device__ __forceinline__ int thread_index() {
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}
__device__ __forceinline__ int block_index() {
    int index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

// 16 bytes to shared memory, both sides aligned to 16. Not present: nothing is read, and 16 zero bytes are written.
__device__ __forceinline__ void copy_async_16(unsigned to, const void* from, bool present) {
    const int bytes = present ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Closes a group of copies. wait_copies<N> waits until at most the N newest groups are still under way: for this
// thread's own copies, so that a barrier must follow before others read them.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void load_matrix_x4(unsigned* registers, unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrix_x4_trans(unsigned* registers, unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrix_x2(unsigned* registers, unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
}

#if ELEMENT_BF16
#define PTX_MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define PTX_MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif
// d = a b + c, summed in float32.
__device__ __forceinline__ void mma_m16n8k16(float* d, const unsigned* a, const unsigned* b, const float* c) {
    asm(PTX_MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
// d += a b
__device__ __forceinline__ void mma_m16n8k16(float* d, const unsigned* a, unsigned b0, unsigned b1) {
    asm(PTX_MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x to about 2 units of the last place; 0 below the normal numbers, and for -inf.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

// Two numbers in one register, rounded to the element type; and back.
__device__ __forceinline__ unsigned pack(float low, float high) {
#if ELEMENT_BF16
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
#else
    const __half2 pair = __floats2half2_rn(low, high);
#endif
    return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ __forceinline__ float2 unpack(unsigned pair) {
#if ELEMENT_BF16
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
#else
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
#endif
}
