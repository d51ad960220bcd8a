// Activations of a tile's numbers with their first and second derivatives, to a few units in the last place; NaN stays NaN.
#pragma once
#include "functions.h"
#include "trajectory_products.h"

#if defined(__x86_64__) && VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

namespace trajectory {

enum Activation { TANH, SOFTPLUS, SILU, ELU, SELU, GELU };

struct Curve {
    V value, slope, bend;
};

// n / d for d away from 0 and infinity: the processor's estimate of 1 / d and one step of Newton's method.
inline V quotient(V n, V d) {
#if VECTOR_BYTES == 64
    const V r = (V)_mm512_rcp14_ps((__m512)d);
    return n * (r * (2.0f - d * r));
#elif VECTOR_BYTES == 32 && defined(__x86_64__)
    const V r = (V)_mm256_rcp_ps((__m256)d), q = n * (r * (2.0f - d * r));
    return q + r * (n - d * q);
#else
    return n / d;
#endif
}

inline V within(V x, float bound) {  // NaN stays NaN: of two numbers one of which is NaN, the processor takes the second
#if VECTOR_BYTES == 64
    return (V)_mm512_max_ps(_mm512_set1_ps(-bound), _mm512_min_ps(_mm512_set1_ps(bound), (__m512)x));
#elif VECTOR_BYTES == 32 && defined(__x86_64__)
    return (V)_mm256_max_ps(_mm256_set1_ps(-bound), _mm256_min_ps(_mm256_set1_ps(bound), (__m256)x));
#else
    x = x > bound ? all<float>(bound) : x;
    return x < -bound ? all<float>(-bound) : x;
#endif
}

// x P(x^2) / Q(x^2), a fit on [-8.5, 8.5] to 1.2e-8 of tanh.
inline V fast_tanh(V x) {
    constexpr float p[] = {0.999999988174902f, 0.13413245154657868f, 0.0035340247981330273f, 2.125101233869651e-05f, 1.4269187680753632e-08f};
    constexpr float q[] = {1.0f, 0.46746567886913953f, 0.026022743396185f, 0.00033488615154849246f, 8.145106059521588e-07f};
    x = within(x, 8.5f);
    const V z = x * x;
    return quotient(x * polynomial(p, z), polynomial(q, z));
}

inline V sigmoid(V x) {
    const V e = exponential<float>(x > 0.0f ? -x : x);
    return quotient(x > 0.0f ? all<float>(1.0f) : e, e + 1.0f);
}

// The standard normal's distribution function: exp(-x^2 / 2) times a fit of Mills' ratio to 2.5e-9.
inline V normal_below(V x) {
    constexpr float p[] = {0.5000000012644386f, 0.426182263478789f, 0.17438836459442675f, 0.03768261228198477f, 0.003685836292207491f};
    constexpr float q[] = {1.0f, 1.6502492794940047f, 1.1654828161427933f, 0.4461340023171865f, 0.09446794054152437f, 0.009238761201125429f};
    const V size = within(x < 0.0f ? -x : x, 10.0f);
    const V tail = exponential<float>(-0.5f * size * size) * quotient(polynomial(p, size), polynomial(q, size));
    return x > 0.0f ? 1.0f - tail : tail;
}

template <int activation> INLINE Curve curve(V a) {
    if (activation == TANH) {
        const V h = fast_tanh(a), s = 1.0f - h * h;
        return {h, s, -2.0f * h * s};
    }
    if (activation == SOFTPLUS) {
        const Soft<float> both = soft<float>(a);
        return {both.plus, both.sigmoid, both.sigmoid * (1.0f - both.sigmoid)};
    }
    if (activation == SILU) {
        const V on = sigmoid(a), off = 1.0f - on, h = a * on;
        return {h, on + h * off, on * off * (2.0f + a * (off - on))};
    }
    if (activation == GELU) {
        const V below = normal_below(a), density = 0.398942280401432678f * exponential<float>(-0.5f * a * a);
        return {a * below, below + a * density, density * (2.0f - a * a)};
    }
    constexpr float scale = activation == SELU ? 1.0507009873554805f : 1.0f, alpha = activation == SELU ? 1.0507009873554805f * 1.6732632423543772f : 1.0f;
    const V e = alpha * exponential<float>(a > 0.0f ? V{} : a);
    return {a > 0.0f ? scale * a : e - alpha, a > 0.0f ? all<float>(scale) : e, a > 0.0f ? V{} : e};
}

}  // namespace trajectory
