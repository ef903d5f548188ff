// What half and __nv_bfloat16 have in common, included once for each: arithmetic of one and of pairs. The sum, product
// and quotient of two such numbers are exact enough in float for one rounding to give the hardware's result; the fused
// multiply-add needs double.

inline CUDA_CPU_ELEMENT operator+(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a + (float)b; }
inline CUDA_CPU_ELEMENT operator-(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a - (float)b; }
inline CUDA_CPU_ELEMENT operator*(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a * (float)b; }
inline CUDA_CPU_ELEMENT operator/(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a / (float)b; }
inline CUDA_CPU_ELEMENT operator-(CUDA_CPU_ELEMENT a) { return -(float)a; }
inline CUDA_CPU_ELEMENT& operator+=(CUDA_CPU_ELEMENT& a, CUDA_CPU_ELEMENT b) { return a = a + b; }
inline CUDA_CPU_ELEMENT& operator-=(CUDA_CPU_ELEMENT& a, CUDA_CPU_ELEMENT b) { return a = a - b; }
inline CUDA_CPU_ELEMENT& operator*=(CUDA_CPU_ELEMENT& a, CUDA_CPU_ELEMENT b) { return a = a * b; }
inline bool operator<(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a < (float)b; }
inline bool operator>(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a > (float)b; }
inline bool operator<=(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a <= (float)b; }
inline bool operator>=(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a >= (float)b; }
inline bool operator==(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a == (float)b; }
inline bool operator!=(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return (float)a != (float)b; }

inline CUDA_CPU_ELEMENT __hadd(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return a + b; }
inline CUDA_CPU_ELEMENT __hsub(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return a - b; }
inline CUDA_CPU_ELEMENT __hmul(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return a * b; }
inline CUDA_CPU_ELEMENT __hdiv(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return a / b; }
inline CUDA_CPU_ELEMENT __hneg(CUDA_CPU_ELEMENT a) { return -a; }
inline CUDA_CPU_ELEMENT __hmax(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return fmaxf(a, b); }
inline CUDA_CPU_ELEMENT __hmin(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b) { return fminf(a, b); }
inline CUDA_CPU_ELEMENT __hfma(CUDA_CPU_ELEMENT a, CUDA_CPU_ELEMENT b, CUDA_CPU_ELEMENT c) {
    return (double)(float)a * (double)(float)b + (double)(float)c;
}

inline CUDA_CPU_PAIR __hadd2(CUDA_CPU_PAIR a, CUDA_CPU_PAIR b) { return {a.x + b.x, a.y + b.y}; }
inline CUDA_CPU_PAIR __hsub2(CUDA_CPU_PAIR a, CUDA_CPU_PAIR b) { return {a.x - b.x, a.y - b.y}; }
inline CUDA_CPU_PAIR __hmul2(CUDA_CPU_PAIR a, CUDA_CPU_PAIR b) { return {a.x * b.x, a.y * b.y}; }
inline CUDA_CPU_PAIR __hmax2(CUDA_CPU_PAIR a, CUDA_CPU_PAIR b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline CUDA_CPU_PAIR __hfma2(CUDA_CPU_PAIR a, CUDA_CPU_PAIR b, CUDA_CPU_PAIR c) {
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline float __low2float(CUDA_CPU_PAIR v) { return v.x; }
inline float __high2float(CUDA_CPU_PAIR v) { return v.y; }
inline CUDA_CPU_ELEMENT __low2half(CUDA_CPU_PAIR v) { return v.x; }
inline CUDA_CPU_ELEMENT __high2half(CUDA_CPU_PAIR v) { return v.y; }
