// __nv_bfloat16 for the CPU: rounds to nearest even after every operation, as the hardware does.

#pragma once

#include "fibers.h"

namespace {
namespace cuda_cpu {

inline uint16_t bfloat16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;  // NaN
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float float_of_bfloat16(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

}  // namespace cuda_cpu

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) : bits(cuda_cpu::bfloat16_of(value)) {}
    __nv_bfloat16(double value) : bits(cuda_cpu::bfloat16_of((float)value)) {}
    __nv_bfloat16(int value) : bits(cuda_cpu::bfloat16_of((float)value)) {}
    operator float() const { return cuda_cpu::float_of_bfloat16(bits); }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

#define CUDA_CPU_ELEMENT __nv_bfloat16
#define CUDA_CPU_PAIR __nv_bfloat162
#include "sixteen_bits.h"
#undef CUDA_CPU_ELEMENT
#undef CUDA_CPU_PAIR

inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {x, x}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 x;
    x.bits = bits;
    return x;
}

}  // namespace
