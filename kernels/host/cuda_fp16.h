// half for the CPU: rounds to nearest even after every operation, as the hardware does.

#pragma once

#include "fibers.h"

namespace {
namespace cuda_cpu {

#ifdef __F16C__  // by the builtins of <immintrin.h>, which takes longer to compile than most kernels
typedef float Floats __attribute__((vector_size(16)));
typedef short Halves __attribute__((vector_size(16)));
inline uint16_t half_of(float value) { return (uint16_t)__builtin_ia32_vcvtps2ph(Floats{value}, 0)[0]; }
inline float float_of_half(uint16_t bits) { return __builtin_ia32_vcvtph2ps(Halves{(short)bits})[0]; }
#else
inline uint16_t half_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint16_t sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) return sign | 0x7E00 | (bits >> 13 & 0x1FF);  // NaN
    if (bits >= 0x477FF000) return sign | 0x7C00;                        // from 65520 on: infinity
    if (bits < 0x38800000) {  // below 2^-14: half's last place is 2^-24, that of a float in [1/2, 1)
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, 4);
        return sign | (uint16_t)(bits - 0x3F000000);
    }
    bits += 0xC8000FFFu + (bits >> 13 & 1);  // another exponent bias, and half a unit of the last place, ties to even
    return sign | (uint16_t)(bits >> 13);
}
inline float float_of_half(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3FF;
    if (!exponent) return (sign ? -1.f : 1.f) * (float)mantissa * 5.9604644775390625e-8f;  // 2^-24
    const uint32_t wide = sign | (exponent == 31 ? 0x7F800000 : (exponent + 112) << 23) | mantissa << 13;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
#endif

}  // namespace cuda_cpu

struct __half {
    uint16_t bits;
    __half() = default;
    __half(float value) : bits(cuda_cpu::half_of(value)) {}
    __half(double value) : bits(cuda_cpu::half_of((float)value)) {}
    __half(int value) : bits(cuda_cpu::half_of((float)value)) {}
    operator float() const { return cuda_cpu::float_of_half(bits); }
};
struct alignas(4) __half2 { __half x, y; };
typedef __half half;
typedef __half2 half2;

#define CUDA_CPU_ELEMENT __half
#define CUDA_CPU_PAIR __half2
#include "sixteen_bits.h"
#undef CUDA_CPU_ELEMENT
#undef CUDA_CPU_PAIR

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half2 __float2half2_rn(float x) { return {x, x}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    x.bits = bits;
    return x;
}

}  // namespace
