// The rational-quadratic spline: value and log-slope, inverse, and the closed-form backward of both, each in one pass.
//
// Notation of kernels/rational_quadratic.py; u = 1 - t. All sums but m, D_t, P_t and G0, G1 are of non-negative terms:
//     D = s (t^2 + u^2) + (d0 + d1) q     R = (s t^2 + d0 q) / D     1 - R = (s u^2 + d1 q) / D     P = d1 t^2 + 2 s q + d0 u^2
//     l = log(s^2 P / D^2)                dl/dt = (2 (d1 t - d0 u) + 2 s (u - t)) / P - 2 (d0 + d1 - 2 s)(u - t) / D
// Cotangents g of y and h of l give, with A = g H / D and c = d1 t^2 - d0 u^2:
//     of t    Gt = A s P / D + h dl/dt
//     of s    Gs = A q c / D + 2 h q (1 / P + (d0 + d1) / (s D))
//     of d0   G0 = A q (1 - R) + h (u^2 / P - 2 q / D)
//     of d1   G1 = -A q R + h (t^2 / P - 2 q / D)
// and, as t = (x - X) / W, s = H / W and y = Y + H R:
//     x: Gt / W    X: -Gt / W    W: -(Gt t + Gs s) / W    Y: g    H: g R + Gs / W
// where in the third A (s P t + s q c) / D = A s t (d1 t^2 (1 + u) + 2 s t u + d0 u^2 t) / D has no cancellation.
// The inverse is recomputed from y by the root; with cotangents g of x and h of its log-slope -l, y receives
// e = (g - h dl/dt / W) / (dy/dx), and the parameters what the forward map gives them for (-e, -h).
#pragma once
#include "bins.h"

namespace {

template <class T, class Layout> struct RationalQuadratic : Interval<T, Layout> {
    typedef Vec<T> V;
    typedef Interval<T, Layout> Base;
    using Base::bins, Base::ends, Base::inverse, Base::low, Base::high;
    T unit;

    // What is known of LANES elements once their bins are found.
    struct Tile {
        typename Knots<T>::Place x, y;
        V number, w, h, raw0, raw1, scale_w, scale_h, t, u;
    };

    // Of the raw widths and heights it leaves what unscaled_softmax does.
    INLINE void find(V v, V* wide, Tile& a) const {
        const T least = this->least(), stretch = this->stretch();
        V* tall = wide + bins;
        a.scale_w = unscaled_softmax<T>(wide, bins), a.scale_h = unscaled_softmax<T>(tall, bins);
        const V stretch_w = a.scale_w * stretch, stretch_h = a.scale_h * stretch;
        const V* bent = tall + bins - (ends == LINEAR ? 1 : 0);  // of a linear end the number is not there
        const V end = ends == LINEAR ? all<T>(unit) : bent[ends == CIRCULAR ? 0 : bins];
        Knots<T> along_x(low, high), along_y(low, high);
        const auto place = along_x.place(v);
        a.x = a.y = along_x.first();
        a.w = wide[0] * stretch_w + least, a.h = tall[0] * stretch_h + least;
        a.raw0 = ends == LINEAR ? end : bent[0], a.raw1 = bent[1];
        V w = a.w, h = a.h, last = a.raw1;
        a.number = V{};
        for (int j = 1; j < bins; j++) {
            const auto x = along_x.next(w), y = along_y.next(h);
            const V next = j + 1 < bins ? bent[j + 1] : end;
            const auto here = place >= (inverse ? y : x);
            w = wide[j] * stretch_w + least, h = tall[j] * stretch_h + least;
            a.x = here ? x : a.x, a.w = here ? w : a.w, a.y = here ? y : a.y, a.h = here ? h : a.h;
            a.raw0 = here ? last : a.raw0, a.raw1 = here ? next : a.raw1;
            a.number = here ? all<T>(T(j)) : a.number;
            last = next;
        }
    }

    // t and 1 - t of a value within the interval.
    INLINE void locate(V v, Tile& a, V s, V d0, V d1) const {
        const Knots<T> knots(low, high);
        const V nan = v - v, from = knots.between(inverse ? a.y : a.x, knots.place(v)) + nan;  // NaN has no place
        if (!inverse) {
            a.t = within<T>(from / a.w, T(0), T(1)), a.u = T(1) - a.t;
            return;
        }
        const V r = within<T>(from / a.h, T(0), T(1)), left = T(1) - r, m = left * d0 - r * d1;
        const auto rising = m >= T(0);
        const V far = square_root<T>(m * m + T(4) * s * s * r * left) + (rising ? m : -m), near = T(2) * s * (rising ? r : left), sum = T(1) / (far + near);
        a.t = (rising ? near : far) * sum, a.u = (rising ? far : near) * sum;
    }

    INLINE void map_columns(V given, V* columns, V& out, V& slope) const {
        Tile a;
        const V v = within<T>(given, low, high);
        find(v, columns, a);
        const V s = a.h / a.w, d0 = soft<T>(a.raw0).plus + T(FLOOR), d1 = soft<T>(a.raw1).plus + T(FLOOR);
        locate(v, a, s, d0, d1);
        const V t = a.t, u = a.u, q = t * u, shrink = T(1) / (s * (t * t + u * u) + (d0 + d1) * q), ratio = s * shrink;
        const V steep = logarithm<T>(ratio * ratio * (d1 * t * t + T(2) * s * q + d0 * u * u));
        const Knots<T> knots(low, high);
        const V made = inverse ? knots.value(a.x) + t * a.w : knots.value(a.y) + a.h * ((s * t * t + d0 * q) * shrink);
        this->put_ends(given, made, steep, out, slope);
    }

    INLINE void return_columns(V grad_out, V grad_slope, V given, V* columns, V& grad_value) const {
        Tile a;
        const V v = within<T>(given, low, high);
        find(v, columns, a);
        const Soft<T> s0 = soft<T>(a.raw0), s1 = soft<T>(a.raw1);
        const V s = a.h / a.w, d0 = s0.plus + T(FLOOR), d1 = s1.plus + T(FLOOR), per_w = T(1) / a.w;
        locate(v, a, s, d0, d1);
        const V t = a.t, u = a.u, q = t * u, per_d = T(1) / (s * (t * t + u * u) + (d0 + d1) * q);
        const V p = d1 * t * t + T(2) * s * q + d0 * u * u, per_p = T(1) / p, rise = (s * t * t + d0 * q) * per_d, fall = (s * u * u + d1 * q) * per_d;
        const V lt = (T(2) * (d1 * t - d0 * u) + T(2) * s * (u - t)) * per_p - T(2) * (d0 + d1 - T(2) * s) * (u - t) * per_d;
        V g = grad_out, h = grad_slope, received;
        if (inverse) {
            h = -h;
            const V dydx = s * s * p * per_d * per_d;
            received = (g + h * lt * per_w) / dydx;
            g = -received;
        }
        const V scaled = g * a.h * per_d, c = d1 * t * t - d0 * u * u;
        const V gt = scaled * s * p * per_d + h * lt;
        if (!inverse) received = gt * per_w;
        const V hs = T(2) * h * q * (per_p + (d0 + d1) * per_d / s), gs = scaled * q * c * per_d + hs;
        const V lean = scaled * s * t * per_d * (d1 * t * t * (T(1) + u) + T(2) * s * q + d0 * u * u * t);
        V gx = -gt * per_w, gw = -(lean + h * lt * t + hs * s) * per_w, gy = g, gh = g * rise + gs * per_w;
        V g0 = (scaled * q * fall + h * (u * u * per_p - T(2) * q * per_d)) * s0.sigmoid;
        V g1 = (h * (t * t * per_p - T(2) * q * per_d) - scaled * q * rise) * s1.sigmoid;
        const V zero = {};
        if (ends == LINEAR) {
            const auto inside = (given >= low) & (given <= high);
            gx = inside ? gx : zero, gw = inside ? gw : zero, gy = inside ? gy : zero, gh = inside ? gh : zero, g0 = inside ? g0 : zero, g1 = inside ? g1 : zero;
        }
        grad_value = this->received(given, grad_out, received);
        spread_all(a, columns, gx, gw, gy, gh, g0, g1);
    }

    // From the chosen bin to the raw numbers of all bins, over the shares that the columns hold.
    INLINE void spread_all(const Tile& a, V* wide, V gx, V gw, V gy, V gh, V g0, V g1) const {
        V* tall = wide + bins;
        V* bent = tall + bins;
        const Knots<T> knots(low, high);
        this->spread(wide, a.scale_w, a.number, knots.between(knots.first(), a.x), a.w, gx, gw);
        this->spread(tall, a.scale_h, a.number, knots.between(knots.first(), a.y), a.h, gy, gh);
        const V zero = {};
        const int first = ends == LINEAR ? 1 : 0, last = ends == BOUNDED ? bins : bins - 1;
        for (int j = first; j <= last; j++) bent[j - first] = a.number == T(j) ? g0 : a.number == T(j - 1) ? g1 : zero;
        if (ends == CIRCULAR) bent[0] += a.number == T(bins - 1) ? g1 : zero;
    }
};

template <class T, class Use> void with_rational_quadratic(int bins, int ends, int inverse, double low, double high, double unit, const Use& use) {
    typedef UsualLayout Usual;
    if (bins == Usual::bins && ends == Usual::ends) return use(RationalQuadratic<T, Usual>{{{}, inverse != 0, T(low), T(high)}, T(unit)});
    use(RationalQuadratic<T, AnyLayout>{{{bins, ends, 2 * bins + knot_count(bins, ends)}, inverse != 0, T(low), T(high)}, T(unit)});
}

}  // namespace
