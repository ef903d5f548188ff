// Softmax cross-entropy on the rows of (rows, V) logits: the loss, and its gradient for dloss = 1, in one kernel.
//
//   L   = S_i ( a (log l - (x_t - m)) + sum_c b_c (log l - (x_c - m)) )
//   dx_c = S_i ( p_c (a + sum_k b_k) - b_c - [c = t] a )                        p_c = exp(x_c - m) / l
//
//   m the row's maximum        l = sum_c exp(x_c - m)       S_i what the reduction multiplies row i by
//   a = (1 - smoothing) w_t    b_c = smoothing / V * w_c    w the class weights; both 0 where t is ignored
//
// The gradient may lie where the logits lie (in place): each lane writes only what it alone has read, and the one
// number that several lanes want, x_t, is read by all before the barrier after which the first one writes.
// A row of -inf alone, or with a +inf or NaN, has no loss: NaN, as has one whose target is no class. An ignored row is
// not read: its loss is 0 and its gradient zeros.
//
// Traffic, V up to LANES * HELD * WIDTH: one read and one write of the logits. Beyond: two reads, one write.
// Static, NVRTC 13.0, sm_80, float32, no stack, no spill: V = 32,000 takes 62 registers and 18 instructions per number,
// V = 50,257 and 50,304 (two reads) 32 and 36 registers. At the memory's peak 16,384 rows of 50,304 16-bit logits take
// 1.5 ms on an H100 and 2.4 on an A100, if the second read comes from memory too (estimates: 3 x 1.65 GB; not timed).
//
// Defines: those of rows.cuh, SMOOTHED 0 | 1, WEIGHTED 0 | 1 (class weights), and what is wanted: ENTRY_LOSS for
// cross_entropy, ENTRY_SUMS for inverse_weight and sum_losses, ENTRY_SCALE for scale_gradient.

#include "rows.cuh"

#ifndef SMOOTHED
#define SMOOTHED 0
#endif
#ifndef WEIGHTED
#define WEIGHTED 0
#endif

constexpr int ACCUMULATOR_THREADS = 1024;  // of the two kernels that add up over the rows, in one block

#define NOT_A_NUMBER Real(__int_as_float(0x7fc00000))

// What a row's target means.
struct Target {
    int column;    // 0 where it is no class
    bool ignored;
    Real weight;   // w_t; 0 where it is ignored, NaN where it is no class
};

__device__ __forceinline__ Target target_of(long long t, long long ignore_index, int V, const Real* weights) {
    const bool ignored = t == ignore_index, exists = t >= 0 && t < V;
    Target target = {exists ? (int)t : 0, ignored, Real(1)};
#if WEIGHTED
    target.weight = weights[target.column];
#endif
    if (ignored) target.weight = 0;
    else if (!exists) target.weight = NOT_A_NUMBER;
    return target;
}

// b_c / smoothing * V
__device__ __forceinline__ Real weight_of(const Real* weights, int column) {
#if WEIGHTED
    return weights[column];
#else
    return 1;
#endif
}

// What is summed over the columns besides the exponentials.
struct Smooth {
    Real logits;   // sum of b_c (x_c - m)
    Real weights;  // sum of b_c
};

__device__ __forceinline__ void add_smooth(Smooth& smooth, Real shifted, const Real* weights, int column, Real share) {
#if SMOOTHED
    const Real b = share * weight_of(weights, column);
    smooth.logits += b == Real(0) ? Real(0) : b * shifted;  // not 0 * -inf
    smooth.weights += b;
#endif
}

#ifdef ENTRY_LOSS
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
cross_entropy(const Element* logits, const long long* targets, const Real* weights, const Real* inverse,
              Element* dlogits, Real* losses, Element* rounded_losses, long long rows, int V, long long ignore_index,
              Real smoothing) {
    __shared__ Real partial_top[WARPS], partial_sum[WARPS];
#if SMOOTHED
    __shared__ Real partial_logits[WARPS], partial_weights[WARPS];
#endif
    const long long row = row_of_thread();
    if (row >= rows) return;  // whole warps leave, and only where a warp is a row: no one waits for them
    const int first = lane_of_thread() * WIDTH;
    const Target target = target_of(targets[row], ignore_index, V, weights);
    logits += offset_of(row, V);
    dlogits += dlogits ? offset_of(row, V) : 0;

    if (target.ignored) {  // the same in every lane of the row
        Access zeros;
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) zeros.x[j] = 0;
        #pragma unroll 1
        for (int column = dlogits ? first : V; column < V; column += STRIDE) store(dlogits + column, zeros);
        if (first == 0 && losses) losses[row] = 0;
        if (first == 0 && rounded_losses) rounded_losses[row] = to_element(0);
        return;
    }
    const Real target_logit = to_real(logits[target.column]);
    const Real share = smoothing / V;
    Smooth smooth = {0, 0};
    Real top = MINUS_INFINITY, sum = 0;

#if HELD > 0
    Access held[HELD];
    #pragma unroll
    for (int a = 0; a < HELD; a++)
        held[a] = reals_of(first + a * STRIDE < V ? load(logits + first + a * STRIDE) : packed_of(MINUS_INFINITY));
    if (WARPS == 1) __syncwarp();  // in place: x_t is read before its lane writes there; else reduce_row's barrier
    #pragma unroll
    for (int a = 0; a < HELD; a++)
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) top = larger(top, held[a].x[j]);
    top = reduce_row<Largest>(top, partial_top);
    const Real shift = top - top == Real(0) ? top : NOT_A_NUMBER;  // inf - inf is NaN
    #pragma unroll
    for (int a = 0; a < HELD; a++)
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            const Real shifted = held[a].x[j] - shift;
            if (first + a * STRIDE < V) add_smooth(smooth, shifted, weights, first + a * STRIDE + j, share);
            held[a].x[j] = power(shifted * POWER_UNIT);
            sum += held[a].x[j];
        }
#else
    // The maximum and the sum together: with a larger maximum the sum so far is rescaled, as in softmax.cu.
    Real m = MINUS_INFINITY;
    for (int start = first; start < V; start += GROUP * STRIDE) {
        Access group[GROUP];
        #pragma unroll
        for (int g = 0; g < GROUP; g++)
            group[g] = reals_of(start + g * STRIDE < V ? load(logits + start + g * STRIDE) : packed_of(MINUS_INFINITY));
        const Real before = m;
        #pragma unroll
        for (int g = 0; g < GROUP; g++)
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) m = larger(m, group[g].x[j]);
        const Real base = m == MINUS_INFINITY ? Real(0) : m;
        sum *= power((before - base) * POWER_UNIT);
        #pragma unroll
        for (int g = 0; g < GROUP; g++)
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) sum += power((group[g].x[j] - base) * POWER_UNIT);
    }
    top = reduce_row<Largest>(m, partial_top);
    const Real shift = top - top == Real(0) ? top : NOT_A_NUMBER;
    sum *= power((m - shift) * POWER_UNIT);
#if SMOOTHED
    #pragma unroll GROUP
    for (int column = first; column < V; column += STRIDE) {  // the logits once more: x - m wants the whole row's m
        const Access x = reals_of(load(logits + column));
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) add_smooth(smooth, x.x[j] - shift, weights, column + j, share);
    }
#endif
#endif

    sum = reduce_row<Sum>(sum, partial_sum);
#if SMOOTHED
    smooth.logits = reduce_row<Sum>(smooth.logits, partial_logits);
    smooth.weights = reduce_row<Sum>(smooth.weights, partial_weights);
#endif
    const Real target_share = (1 - smoothing) * target.weight;  // a
    if (first == 0) {
        const Real log_sum = logarithm(sum);
        Real loss = target_share == Real(0) ? Real(0) : target_share * (log_sum - (target_logit - shift));
#if SMOOTHED
        loss += smooth.weights * log_sum - smooth.logits;
#endif
        if (losses) losses[row] = loss;
        if (rounded_losses) rounded_losses[row] = to_element(loss);
    }
    if (!dlogits) return;

    const Real scale = inverse ? *inverse : Real(1);
    const Real factor = scale * (target_share + smooth.weights) / sum;
    const Real target_power = power((target_logit - shift) * POWER_UNIT);
    Real at_target = factor * target_power - scale * target_share;
#if SMOOTHED
    at_target -= scale * share * weight_of(weights, target.column);
#endif
#if HELD > 0
    #pragma unroll
    for (int a = 0; a < HELD; a++) {
        const int column = first + a * STRIDE;
        if (column < V) {
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                held[a].x[j] *= factor;
#if SMOOTHED
                held[a].x[j] -= scale * share * weight_of(weights, column + j);
#endif
            }
            store(dlogits + column, held[a]);
        }
    }
#else
    #pragma unroll GROUP
    for (int column = first; column < V; column += STRIDE) {
        Access d = reals_of(load(logits + column));
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            d.x[j] = power((d.x[j] - shift) * POWER_UNIT) * factor;
#if SMOOTHED
            d.x[j] -= scale * share * weight_of(weights, column + j);
#endif
        }
        store(dlogits + column, d);
    }
#endif
    // The target's column once more, by the lane that has just written it: no comparison for each of the others.
    if (target.column / WIDTH % LANES == first / WIDTH) dlogits[target.column] = to_element(at_target);
}
#endif

#ifdef ENTRY_SUMS
// 1 / (sum of the targets' weights), NaN where all are ignored: what a mean multiplies by. One block, in a fixed order.
extern "C" __global__ void __launch_bounds__(ACCUMULATOR_THREADS, 1)
inverse_weight(const long long* targets, const Real* weights, Real* inverse, long long rows, int V,
               long long ignore_index) {
    __shared__ Real partial[32];
    Real sum = 0;
    for (long long row = threadIdx.x; row < rows; row += ACCUMULATOR_THREADS)
        sum += target_of(targets[row], ignore_index, V, weights).weight;
    sum = reduce_row<Sum, ACCUMULATOR_THREADS / 32>(sum, partial);
    if (threadIdx.x == 0) *inverse = sum == Real(0) ? NOT_A_NUMBER : Real(1) / sum;
}

// The rows' losses added up in a fixed order, times `inverse` for a mean. One block.
extern "C" __global__ void __launch_bounds__(ACCUMULATOR_THREADS, 1)
sum_losses(const Real* losses, const Real* inverse, Element* loss, long long rows) {
    __shared__ Real partial[32];
    Real sum = 0;
    for (long long row = threadIdx.x; row < rows; row += ACCUMULATOR_THREADS) sum += losses[row];
    sum = reduce_row<Sum, ACCUMULATOR_THREADS / 32>(sum, partial);
    if (threadIdx.x == 0) *loss = to_element(inverse ? sum * *inverse : sum);
}
#endif

#ifdef ENTRY_SCALE
// dlogits for another dloss than 1: one number for all rows (`factor`, or dloss with stride 0), or one for each (1).
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
scale_gradient(const Element* dlogits, const Element* dloss, Element* scaled, long long rows, int V, int stride,
               Real factor) {
    const long long row = row_of_thread();
    if (row >= rows) return;
    const Real by = dloss ? factor * to_real(dloss[offset_of(row, stride)]) : factor;
    dlogits += offset_of(row, V);
    scaled += offset_of(row, V);
    #pragma unroll GROUP
    for (int column = lane_of_thread() * WIDTH; column < V; column += STRIDE) {
        Access d = reals_of(load(dlogits + column));
        #pragma unroll
        for (int j = 0; j < WIDTH; j++) d.x[j] *= by;
        store(scaled + column, d);
    }
}
#endif
