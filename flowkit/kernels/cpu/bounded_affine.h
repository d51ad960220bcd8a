// The affine map with a bounded log-scale, x = z exp(a) + b with a = B tanh(raw / B), its inverse, and the backward of both.
//
// Parameters of an element: b, raw. With cotangents g of x and h of a: z receives g exp(a), b receives g and a receives
// g z exp(a) + h. For z = (x - b) exp(-a), of which h belongs to -a: x receives g exp(-a), b its negative, a its product
// with b - x, less h.
#pragma once
#include "functions.h"
#include "tiles.h"

namespace {

template <class T> struct BoundedAffine {
    typedef Vec<T> V;
    T bound;
    bool inverse;
    static constexpr int count = 2;

    INLINE void map_columns(V given, V* p, V& out, V& slope) const {
        const V log_scale = bound * hyperbolic_tangent<T>(p[1] / bound), a = inverse ? -log_scale : log_scale, scale = exponential<T>(a);
        out = inverse ? (given - p[0]) * scale : given * scale + p[0];
        slope = a;
    }

    INLINE void return_columns(V g, V h, V given, V* p, V& grad_value) const {
        const V bend = hyperbolic_tangent<T>(p[1] / bound), a = bound * bend, passed = g * exponential<T>(inverse ? -a : a);
        const V to_a = inverse ? passed * (p[0] - given) - h : passed * given + h;
        p[0] = inverse ? -passed : g;
        p[1] = to_a * (T(1) - bend * bend);
        grad_value = passed;
    }
};

template <class T, class Use> void with_bounded_affine(int inverse, double bound, const Use& use) { use(BoundedAffine<T>{T(bound), inverse != 0}); }

}  // namespace
