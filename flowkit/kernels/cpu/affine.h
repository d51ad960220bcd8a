// The affine map x = z exp(a) + b without a limit on its log-scale a, its inverse, and the backward of both.
//
// Parameters of an element: b, a. With cotangents g of x and h of the log-slope: z receives g exp(a), b receives g and a receives
// g z exp(a) + h. For z = (x - b) exp(-a), whose log-slope is -a: x receives g exp(-a), b its negative, a receives
// -g (x - b) exp(-a) - h. The scale may be infinite or 0: then products are formed in the order of the reference.
#pragma once
#include "functions.h"
#include "tiles.h"

namespace {

template <class T> struct Affine {
    typedef Vec<T> V;
    bool inverse;
    static constexpr int count = 2;

    INLINE void map_columns(V given, V* p, V& out, V& slope) const {
        slope = inverse ? -p[1] : p[1];
        const V scale = unlimited_exponential<T>(slope);
        out = inverse ? (given - p[0]) * scale : given * scale + p[0];
    }

    INLINE void return_columns(V g, V h, V given, V* p, V& grad_value) const {
        const V scale = unlimited_exponential<T>(inverse ? -p[1] : p[1]);
        grad_value = g * scale;
        p[1] = inverse ? g * (p[0] - given) * scale - h : g * given * scale + h;
        p[0] = inverse ? -grad_value : g;
    }
};

template <class T, class Use> void with_affine(int inverse, const Use& use) { use(Affine<T>{inverse != 0}); }

}  // namespace
