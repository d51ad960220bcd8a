// The affine map with a bounded log-scale, x = z exp(a) + b with a = B tanh(raw / B), its inverse, and the backward of both.
//
// Parameters of an element: b, raw. With cotangents g of x and h of a: z receives g exp(a), b receives g and a receives
// g z exp(a) + h. For z = (x - b) exp(-a), of which h belongs to -a: x receives g exp(-a), b its negative, a its product
// with b - x, less h.
#include "functions.h"
#include "tiles.h"

namespace {

template <class T> struct BoundedAffine {
    typedef Vec<T> V;
    T bound;
    bool inverse;
    static constexpr int count = 2;

    void tile(const T* value, const T* params, T* out, T* slope) const {
        V p[2];
        columns_of<T>(params, count, p);
        const V v = load<T>(value), log_scale = bound * hyperbolic_tangent<T>(p[1] / bound), a = inverse ? -log_scale : log_scale;
        const V scale = exponential<T>(a);
        store<T>(out, inverse ? (v - p[0]) * scale : v * scale + p[0]);
        store<T>(slope, a);
    }

    void backward_tile(const T* grad_out, const T* grad_slope, const T* value, const T* params, T* grad_value, T* grad_params) const {
        V p[2];
        columns_of<T>(params, count, p);
        const V v = load<T>(value), g = load<T>(grad_out), h = load<T>(grad_slope), bend = hyperbolic_tangent<T>(p[1] / bound);
        const V a = bound * bend, passed = g * exponential<T>(inverse ? -a : a);
        const V to_a = inverse ? passed * (p[0] - v) - h : passed * v + h;
        store<T>(grad_value, passed);
        p[0] = inverse ? -passed : g;
        p[1] = to_a * (T(1) - bend * bend);
        rows_of<T>(p, count, grad_params);
    }
};

}  // namespace

EXPORT(bounded_affine, (BoundedAffine<T>{T(bound), inverse != 0}), double bound)
