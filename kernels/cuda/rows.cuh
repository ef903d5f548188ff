// What the kernels over rows share: element types, accesses of 16 bytes, and reductions over the lanes of one row.
//
// Defines, given by the launcher:
//   ELEMENT_F32 | ELEMENT_F16 | ELEMENT_BF16 | ELEMENT_F64   numbers in memory; arithmetic is in float (F64: double)
//   LANES     the threads that share a row: 32 (a block of 128 threads has 4 rows) or 64 ... 1024 (one block per row)
//   WIDE      1: rows start on 16 bytes and their length is a multiple of 16 bytes, so every access is 128 bits wide
//   HELD      accesses of one lane: a row of LANES * HELD * WIDTH numbers lies in registers. 0: longer rows, read twice
//
//   access a of lane t holds columns (a*LANES + t)*WIDTH ... + WIDTH-1: neighbours in a warp read neighbouring memory
//
//             lane 0      lane 1            lane LANES-1
//   a = 0   | WIDTH ... | WIDTH ... | ... | WIDTH ...   |
//   a = 1   | ...

// The kernels declare __launch_bounds__(BLOCK, 1): without the 1 the compiler aims at two blocks of 1024 threads on a
// multiprocessor and spills for it.

#pragma once

#include "offsets.cuh"
#include "ptx.cuh"

#if defined(ELEMENT_F16)
#include <cuda_fp16.h>
typedef __half Element;
typedef float Real;
__device__ __forceinline__ Real to_real(Element x) { return __half2float(x); }
__device__ __forceinline__ Element to_element(Real x) { return __float2half_rn(x); }
#define ELEMENT_BYTES 2
#elif defined(ELEMENT_BF16)
#include <cuda_bf16.h>
typedef __nv_bfloat16 Element;
typedef float Real;
__device__ __forceinline__ Real to_real(Element x) { return __bfloat162float(x); }
__device__ __forceinline__ Element to_element(Real x) { return __float2bfloat16_rn(x); }
#define ELEMENT_BYTES 2
#elif defined(ELEMENT_F64)
typedef double Element;
typedef double Real;
__device__ __forceinline__ Real to_real(Element x) { return x; }
__device__ __forceinline__ Element to_element(Real x) { return x; }
#define ELEMENT_BYTES 8
#else
typedef float Element;
typedef float Real;
__device__ __forceinline__ Real to_real(Element x) { return x; }
__device__ __forceinline__ Element to_element(Real x) { return x; }
#define ELEMENT_BYTES 4
#endif

#ifndef LANES
#define LANES 32
#endif
#ifndef HELD
#define HELD 0
#endif
#ifndef WIDE
#define WIDE 0
#endif

constexpr int WIDTH = WIDE ? 16 / ELEMENT_BYTES : 1;
constexpr int WARPS = LANES / 32;
constexpr int STRIDE = LANES * WIDTH;             // columns from one access of a lane to its next
constexpr int GROUP = sizeof(Real) == 8 ? 1 : 4;  // accesses of a lane in flight together, where a row is read twice
constexpr int BLOCK = LANES == 32 ? 128 : LANES;
constexpr int ROWS_PER_BLOCK = BLOCK / LANES;
static_assert(LANES % 32 == 0 && LANES <= 1024 && (LANES & (LANES - 1)) == 0, "LANES is 32, 64, ... or 1024");

// exp(x * ln 2 / unit) with the unit that is cheapest: the scores come multiplied by POWER_UNIT.
#if defined(ELEMENT_F64)
constexpr Real POWER_UNIT = 1.0;
__device__ __forceinline__ Real power(Real x) { return exp(x); }
__device__ __forceinline__ Real logarithm(Real x) { return log(x); }
__device__ __forceinline__ Real larger(Real a, Real b) { return fmax(a, b); }
#else
constexpr Real POWER_UNIT = 1.44269504088896340736f;  // log2 e
__device__ __forceinline__ Real power(Real x) { return exp2_fast(x); }
__device__ __forceinline__ Real logarithm(Real x) { return logf(x); }
__device__ __forceinline__ Real larger(Real a, Real b) { return fmaxf(a, b); }  // a NaN is dropped, and met in the sum
#endif

#define MINUS_INFINITY Real(__int_as_float(0xff800000u))  // NVRTC knows no INFINITY

// One access of WIDTH numbers: as it lies in memory (16 bytes at an address that is a multiple of 16, or one element),
// and as numbers to calculate with.
#if WIDE
typedef uint4 Packed;
#else
typedef Element Packed;
#endif
struct Access { Real x[WIDTH]; };

__device__ __forceinline__ Packed load(const Element* from) { return *reinterpret_cast<const Packed*>(from); }

__device__ __forceinline__ Access reals_of(const Packed& packed) {
    const Element* element = reinterpret_cast<const Element*>(&packed);
    Access access;
    #pragma unroll
    for (int j = 0; j < WIDTH; j++) access.x[j] = to_real(element[j]);
    return access;
}

__device__ __forceinline__ void store(Element* to, const Access& access) {
    Packed packed;
    Element* element = reinterpret_cast<Element*>(&packed);
    #pragma unroll
    for (int j = 0; j < WIDTH; j++) element[j] = to_element(access.x[j]);
    *reinterpret_cast<Packed*>(to) = packed;
}

// WIDTH times the same number, packed.
__device__ __forceinline__ Packed packed_of(Real value) {
    Packed packed;
    Element* element = reinterpret_cast<Element*>(&packed);
    #pragma unroll
    for (int j = 0; j < WIDTH; j++) element[j] = to_element(value);
    return packed;
}

// Which row this thread works on, and as which of its lanes.
__device__ __forceinline__ long long row_of_thread() {
    return (long long)blockIdx.x * ROWS_PER_BLOCK + (ROWS_PER_BLOCK == 1 ? 0 : threadIdx.x / LANES);
}
__device__ __forceinline__ int lane_of_thread() { return ROWS_PER_BLOCK == 1 ? threadIdx.x : threadIdx.x % LANES; }

struct Sum { static __device__ __forceinline__ Real of(Real a, Real b) { return a + b; } };
struct Largest { static __device__ __forceinline__ Real of(Real a, Real b) { return larger(a, b); } };

// The same result, bit for bit, in every lane of the row: each combines the same pairs, first in its warp by a
// butterfly of shuffles, then over the warps' results. `partial` holds COUNT numbers, one a warp, and serves one
// reduction only: another one would need a barrier before it writes there again.
template <class Operation, int COUNT = WARPS>
__device__ __forceinline__ Real reduce_row(Real value, Real* partial) {
    #pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = Operation::of(value, __shfl_xor_sync(0xffffffffu, value, distance));
    if (COUNT > 1) {
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
        __syncthreads();
        value = partial[threadIdx.x % COUNT];  // COUNT is a power of two: the butterfly stays among the warps' results
        #pragma unroll
        for (int distance = COUNT / 2; distance > 0; distance /= 2)
            value = Operation::of(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}
