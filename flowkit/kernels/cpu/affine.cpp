// The affine map x = z exp(a) + b without a limit on its log-scale a, its inverse, and the backward of both.
//
// Parameters of an element: b, a. With cotangents g of x and h of the log-slope: z receives g exp(a), b receives g and a receives
// g z exp(a) + h. For z = (x - b) exp(-a), whose log-slope is -a: x receives g exp(-a), b its negative, a receives
// -g (x - b) exp(-a) - h. The scale may be infinite or 0: then products are formed in the order of the reference.
#include "functions.h"
#include "tiles.h"

namespace {

template <class T> struct Affine {
    typedef Vec<T> V;
    bool inverse;
    static constexpr int count = 2;

    void tile(const T* value, const T* params, T* out, T* slope) const {
        V p[2];
        columns_of<T>(params, count, p);
        const V v = load<T>(value), a = inverse ? -p[1] : p[1], scale = unlimited_exponential<T>(a);
        store<T>(out, inverse ? (v - p[0]) * scale : v * scale + p[0]);
        store<T>(slope, a);
    }

    void backward_tile(const T* grad_out, const T* grad_slope, const T* value, const T* params, T* grad_value, T* grad_params) const {
        V p[2];
        columns_of<T>(params, count, p);
        const V v = load<T>(value), g = load<T>(grad_out), h = load<T>(grad_slope), scale = unlimited_exponential<T>(inverse ? -p[1] : p[1]);
        const V passed = g * scale;
        p[1] = inverse ? g * (p[0] - v) * scale - h : g * v * scale + h;
        p[0] = inverse ? -passed : g;
        store<T>(grad_value, passed);
        rows_of<T>(p, count, grad_params);
    }
};

}  // namespace

// the last argument is not used: a map without constants
EXPORT(affine, (Affine<T>{inverse != 0}), int)
