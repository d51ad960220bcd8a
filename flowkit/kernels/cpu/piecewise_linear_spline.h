// The piecewise-linear spline: value and log-slope, inverse, and the closed-form backward of both.
//
// Notation of kernels/piecewise_linear.py; all bins are W wide. With cotangents g of y = Y + H t and h of l = log(H / W):
//     x: g H / W    Y: g    H: g t + h / H
// The inverse x = X + W r, r = (y - Y) / H, with log-slope -l passes e = g W / H on to y, and to the parameters what the forward
// map gives them for (-e, -h).
#pragma once
#include "bins.h"

namespace {

template <class T> struct PiecewiseLinear : Interval<T> {
    typedef Vec<T> V;
    using Interval<T>::bins, Interval<T>::ends, Interval<T>::inverse, Interval<T>::low, Interval<T>::high;
    T width;
    T edges[MOST_BINS];  // left ends of the bins

    struct Tile {
        typename Knots<T>::Place y;
        V number, x, h, scale, t;
    };

    // Of the raw heights it leaves what unscaled_softmax does.
    INLINE void find(V v, V* tall, Tile& a) const {
        const T least = this->least();
        a.scale = unscaled_softmax<T>(tall, bins);
        const V stretch = a.scale * this->stretch();
        Knots<T> along_y(low, high);
        const auto place = along_y.place(v);
        a.x = all<T>(low), a.y = along_y.first(), a.h = tall[0] * stretch + least, a.number = V{};
        V h = a.h;
        for (int j = 1; j < bins; j++) {
            const V x = all<T>(edges[j]);
            const auto y = along_y.next(h);
            const auto here = inverse ? place >= y : v >= x;
            h = tall[j] * stretch + least;
            a.x = here ? x : a.x, a.y = here ? y : a.y, a.h = here ? h : a.h, a.number = here ? all<T>(T(j)) : a.number;
        }
        a.t = within<T>(inverse ? (along_y.between(a.y, place) + (v - v)) / a.h : (v - a.x) / width, T(0), T(1));
    }

    INLINE void map_columns(V given, V* columns, V& out, V& slope) const {
        Tile a;
        find(within<T>(given, low, high), columns, a);
        const V made = inverse ? a.x + a.t * width : Knots<T>(low, high).value(a.y) + a.t * a.h;
        this->put_ends(given, made, logarithm<T>(a.h / width), out, slope);
    }

    INLINE void return_columns(V g, V h, V given, V* columns, V& grad_value) const {
        Tile a;
        const V zero = {};
        find(within<T>(given, low, high), columns, a);
        const V passed = inverse ? g * width / a.h : g * a.h / width;
        V gy = inverse ? -passed : g, gh = gy * a.t + (inverse ? -h : h) / a.h;
        grad_value = this->received(given, g, passed);
        if (ends == LINEAR) {
            const auto inside = (given >= low) & (given <= high);
            gy = inside ? gy : zero, gh = inside ? gh : zero;
        }
        const Knots<T> knots(low, high);
        this->spread(columns, a.scale, a.number, knots.between(knots.first(), a.y), a.h, gy, gh);
    }
};

template <class T, class Use> void with_piecewise_linear(int bins, int ends, int inverse, double low, double high, const Use& use) {
    PiecewiseLinear<T> made{{{bins, ends, bins}, inverse != 0, T(low), T(high)}, T((high - low) / bins), {}};
    for (int j = 0; j < bins; j++) made.edges[j] = T(low + j * ((high - low) / bins));
    use(made);
}

}  // namespace
