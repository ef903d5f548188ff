// From head to head. An array may hold 2^31 numbers and more; a single head holds fewer, and the launchers see to it.
// So within a head offsets are made in 32 bits, and from head to head, or from row to row of all heads, here, in 64.

#pragma once

// Where head or row `index` of an array (.., rows, columns) begins, counted in numbers from the array's first.
__device__ __forceinline__ long long offset_of(long long index, long long rows, long long columns = 1) {
    return index * rows * columns;
}
