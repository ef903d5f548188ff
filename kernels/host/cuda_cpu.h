// Compiles an unmodified .cu file (kernels only) as C++: the language extensions, vector types and intrinsics that the
// kernels use, on top of the fibers. What isn't here doesn't compile, and the builder says what and where.
//
// In a kernel's source, CUDA_CPU_MODEL is defined where it is compiled for the CPU.

#pragma once

#include "scheduler.h"

#define CUDA_CPU_MODEL 1

#undef INFINITY  // NVRTC has neither
#undef NAN

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// Static shared memory: one block runs at a time, so a static variable belongs to the block. They lie together in a
// section, so that it can be poisoned before each block. Dynamic: the builder rewrites `extern __shared__ T name[];`.
#if defined(CUDA_CPU_ASAN) || defined(CUDA_CPU_TSAN)
#define __shared__ static
#else
#define __shared__ static __attribute__((used, section("cuda_shared")))
#endif
#define CUDA_CPU_DYNAMIC_SHARED(T, name) T* const name = (T*)cuda_cpu::dynamic_shared

namespace {

// ---- built-in variables and vector types ----------------------------------------------------------------------------

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define threadIdx (cuda_cpu::self().thread)
#define blockIdx (cuda_cpu::self().block)
#define blockDim (cuda_cpu::block_size)
#define gridDim (cuda_cpu::grid_size)
#define warpSize 32

#define CUDA_CPU_VECTORS(T, name)                                                                     \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                \
    struct name##3 { T x, y, z; };                                                                    \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };                \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                        \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_CPU_VECTORS(float, float)
CUDA_CPU_VECTORS(double, double)
CUDA_CPU_VECTORS(int, int)
CUDA_CPU_VECTORS(signed char, char)
CUDA_CPU_VECTORS(unsigned char, uchar)
CUDA_CPU_VECTORS(short, short)
CUDA_CPU_VECTORS(unsigned short, ushort)
CUDA_CPU_VECTORS(long long, longlong)
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- barriers, shuffles, votes --------------------------------------------------------------------------------------

inline void __syncthreads(CUDA_CPU_WHERE) { cuda_cpu::wait_for_block(file, line); }
inline void __syncwarp(unsigned mask = ~0u, CUDA_CPU_WHERE) { cuda_cpu::wait_for_warp(mask, true, file, line); }

namespace cuda_cpu {

// What `lane` offered. A lane outside the mask offered nothing.
template <class T>
inline T shuffle(unsigned mask, T value, int lane, const char* file, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
    uint32_t words[2] = {0, 0};
    memcpy(words, &value, sizeof value);
    exchange(mask, words, 2, nullptr, file, line);
    if (!(mask >> lane & 1))
        CUDA_CPU_FAIL("%s:%d: thread %d shuffles from lane %d, which isn't in its mask %08x", file, line, self().number, lane,
                      mask);
    fetch(words, lane, 2);
    memcpy(&value, words, sizeof value);
    return value;
}

inline unsigned ballot(unsigned mask, bool predicate, const char* file, int line) {
    const uint32_t word = predicate;
    exchange(mask, &word, 1, nullptr, file, line);
    unsigned votes = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (mask >> lane & 1) {
            uint32_t vote;
            fetch(&vote, lane, 1);
            votes |= vote << lane;
        }
    return votes;
}

// The first lane of the segment of `width` lanes that `lane` lies in.
inline int segment(int lane, int width) { return lane & ~(width - 1); }

}  // namespace cuda_cpu

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_CPU_WHERE) {
    const int lane = cuda_cpu::self().lane;
    return cuda_cpu::shuffle(mask, value, cuda_cpu::segment(lane, width) + (source & (width - 1)), file, line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32, CUDA_CPU_WHERE) {
    const int lane = cuda_cpu::self().lane, source = lane ^ distance;
    const bool outside = source >= cuda_cpu::segment(lane, width) + width;
    return cuda_cpu::shuffle(mask, value, outside ? lane : source, file, line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, CUDA_CPU_WHERE) {
    const int lane = cuda_cpu::self().lane, source = lane + (int)distance;
    const bool outside = source >= cuda_cpu::segment(lane, width) + width;
    return cuda_cpu::shuffle(mask, value, outside ? lane : source, file, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, CUDA_CPU_WHERE) {
    const int lane = cuda_cpu::self().lane, source = lane - (int)distance;
    return cuda_cpu::shuffle(mask, value, source < cuda_cpu::segment(lane, width) ? lane : source, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_CPU_WHERE) {
    return cuda_cpu::ballot(mask, predicate != 0, file, line);
}
inline int __any_sync(unsigned mask, int predicate, CUDA_CPU_WHERE) {
    return cuda_cpu::ballot(mask, predicate != 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_CPU_WHERE) {
    return cuda_cpu::ballot(mask, predicate != 0, file, line) == mask;
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

#define CUDA_CPU_MINMAX(T)                                \
    inline T min(T a, T b) { return b < a ? b : a; }      \
    inline T max(T a, T b) { return a < b ? b : a; }
CUDA_CPU_MINMAX(int)
CUDA_CPU_MINMAX(unsigned)
CUDA_CPU_MINMAX(long)
CUDA_CPU_MINMAX(unsigned long)
CUDA_CPU_MINMAX(long long)
CUDA_CPU_MINMAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <class To, class From>
inline To cuda_cpu_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline int __float_as_int(float x) { return cuda_cpu_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_cpu_bits<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_cpu_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_cpu_bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_cpu_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_cpu_bits<double>(x); }

inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
inline int __float2int_rz(float x) { return (int)x; }

inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
inline T __ldg(const T* address) { return *address; }
template <class T>
inline T __ldcs(const T* address) { return *address; }
template <class T>
inline T __ldcg(const T* address) { return *address; }
template <class T>
inline void __stcs(T* address, T value) { *address = value; }
template <class T>
inline void __stcg(T* address, T value) { *address = value; }

// A cycle of this machine takes a nanosecond.
inline long long clock64() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

using ::isfinite;
using ::isinf;
using ::isnan;

}  // namespace

#include "cuda_bf16.h"
#include "cuda_fp16.h"

// ---- the launch -----------------------------------------------------------------------------------------------------

namespace {
namespace cuda_cpu {

template <class T> struct Kind { static constexpr char code = '?'; };
template <> struct Kind<float> { static constexpr char code = 'f'; };
template <> struct Kind<double> { static constexpr char code = 'f'; };
template <> struct Kind<__half> { static constexpr char code = 'f'; };
template <> struct Kind<__nv_bfloat16> { static constexpr char code = 'b'; };
template <> struct Kind<bool> { static constexpr char code = 'u'; };
template <> struct Kind<unsigned char> { static constexpr char code = 'u'; };
template <> struct Kind<signed char> { static constexpr char code = 'i'; };
template <> struct Kind<unsigned short> { static constexpr char code = 'u'; };
template <> struct Kind<short> { static constexpr char code = 'i'; };
template <> struct Kind<unsigned> { static constexpr char code = 'u'; };
template <> struct Kind<int> { static constexpr char code = 'i'; };
template <> struct Kind<long> { static constexpr char code = 'i'; };
template <> struct Kind<unsigned long> { static constexpr char code = 'u'; };
template <> struct Kind<long long> { static constexpr char code = 'i'; };
template <> struct Kind<unsigned long long> { static constexpr char code = 'u'; };

template <class T> struct Plain { using type = T; };
template <class T> struct Plain<const T> { using type = T; };
template <class T> struct Plain<volatile T> { using type = T; };
template <class T> struct Size { static constexpr int bytes = sizeof(T); };
template <> struct Size<void> { static constexpr int bytes = 0; };

// A parameter's type as text: "f4" a float, "pf2" a pointer to half, "p?16" a pointer to something else of 16 bytes.
template <class T>
struct Parameter {
    static int write(char* text) { return sprintf(text, "%c%d ", Kind<typename Plain<T>::type>::code, (int)sizeof(T)); }
};
template <class T>
struct Parameter<T*> {
    using Element = typename Plain<T>::type;
    static int write(char* text) { return sprintf(text, "p%c%d ", Kind<Element>::code, Size<Element>::bytes); }
};
template <class T> struct Parameter<T* const> : Parameter<T*> {};

template <int... I> struct Numbers {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { using type = Numbers<I...>; };

template <class... P>
struct Call {
    void (*kernel)(P...);
    void** arguments;
    template <int... I>
    void run(Numbers<I...>) { kernel(*(typename Plain<P>::type*)arguments[I]...); }
    static void enter(void* self) { ((Call*)self)->run(typename Count<sizeof...(P)>::type()); }
};

template <class... P>
void launch(void (*kernel)(P...), const Config& config, void** arguments) {
    Call<P...> call = {kernel, arguments};
    entry = &Call<P...>::enter;
    entry_argument = &call;
    launch_blocks(config);
}

template <class... P>
const char* signature(void (*)(P...)) {
    static char text[8 * sizeof...(P) + 8];
    char* at = text;
    int written[] = {0, (at += Parameter<P>::write(at), 0)...};
    (void)written;
    return text;
}

}  // namespace cuda_cpu
}  // namespace

// One kernel of the source, callable from Python. The arguments come as pointers to their values, as for
// cuLaunchKernel.
#define CUDA_CPU_EXPORT(kernel)                                                                            \
    extern "C" __attribute__((visibility("default"))) const char* cuda_cpu_signature() {                   \
        return cuda_cpu::signature(kernel);                                                                \
    }                                                                                                      \
    extern "C" __attribute__((visibility("default"))) const char* cuda_cpu_launch(                         \
        const cuda_cpu::Config* config, void** arguments) {                                                \
        cuda_cpu::launch(kernel, *config, arguments);                                                      \
        return cuda_cpu::error_code ? cuda_cpu::error_message : nullptr;                                   \
    }                                                                                                      \
    extern "C" __attribute__((visibility("default"))) void cuda_cpu_guard(void* memory, size_t bytes, int on) { \
        cuda_cpu::guard(memory, bytes, on);                                                                \
    }

// Features of CUDA that the CPU run doesn't have, by a name that the compiler repeats in its message.
#define asm CUDA_CPU_HAS_NO_inline_PTX
#define printf CUDA_CPU_HAS_NO_printf
