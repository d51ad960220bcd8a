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
    typedef typename Knots<T>::Place Place;
    typedef Axis<T, Layout> Bins;
    typedef Interval<T, Layout> Base;
    using Base::bins, Base::ends, Base::inverse, Base::low, Base::high;
    T unit;

    // The bins that LANES values are in; `before` are the distances of their corners from that of the interval.
    struct Found {
        Place x, y;
        V number, raw0, raw1, before_x, before_y, w, h, per_w, s, distance, d0, d1, t, u;
    };

    // Raw slopes of the knots; that of a linear end is not there.
    template <class Columns> Columns* slopes_of(Columns* columns) const { return columns + 2 * bins - (ends == LINEAR ? 1 : 0); }

    // Chooses the bins by their ends along one axis.
    INLINE void choose(Place place, const Place* searched, const V* bent, const Bins& along_x, const Bins& along_y, Bin<T>& x, Bin<T>& y, Found& a) const {
        const V end = ends == LINEAR ? all<T>(unit) : bent[ends == CIRCULAR ? 0 : bins];
        a.number = V{}, a.raw0 = ends == LINEAR ? end : bent[0], a.raw1 = bent[1];
        for (int j = 1; j < bins; j++) {
            const auto here = place >= searched[j - 1];
            x.choose(here, along_x, j), y.choose(here, along_y, j);
            a.raw0 = here ? bent[j] : a.raw0, a.raw1 = here ? (j + 1 < bins ? bent[j + 1] : end) : a.raw1;
            a.number = here ? all<T>(T(j)) : a.number;
        }
    }

    // The bins that values are in, among those along both axes.
    INLINE void find(V v, const V* bent, const Bins& along_x, const Bins& along_y, Found& a) const {
        Bin<T> x(along_x), y(along_y);
        if (inverse) {
            const Place place = along_y.place(v);
            choose(place, along_y.ends, bent, along_x, along_y, x, y, a);
            a.distance = along_y.between(y.from, place);
        } else {
            const Place place = along_x.place(v);
            choose(place, along_x.ends, bent, along_x, along_y, x, y, a);
            a.distance = along_x.between(x.from, place);
        }
        a.distance += v - v;  // NaN has no place
        a.x = x.from, a.y = y.from, a.before_x = along_x.between(along_x.first(), x.from), a.before_y = along_y.between(along_y.first(), y.from);
        a.w = x.size(along_x), a.h = y.size(along_y), a.per_w = reciprocal<T>(a.w), a.s = along_y.over(a.h, a.per_w, along_x);
    }

    // t and 1 - t, from the distance and the slopes.
    INLINE void locate(Found& a) const {
        if (!inverse) {
            a.t = within<T>(a.distance * a.per_w, T(0), T(1)), a.u = T(1) - a.t;
            return;
        }
        const V r = within<T>(a.distance * reciprocal<T>(a.h), T(0), T(1)), rest = T(1) - r, m = rest * a.d0 - r * a.d1;
        const auto rising = m >= T(0);
        const V root = square_root<T>(m * m + T(4) * a.s * a.s * r * rest) + (rising ? m : -m), near = T(2) * a.s * (rising ? r : rest);
        const V far = smaller<V>(all<T>(Number<T>::most), root), share = reciprocal<T>(far + near);  // the square of a steep end may be no number
        a.t = (rising ? near : far) * share, a.u = (rising ? far : near) * share;
    }

    INLINE void map_columns(V given, V* columns, V& out, V& slope) const {
        V wide[Layout::most], tall[Layout::most];
        const Bins along_x(*this, columns, wide), along_y(*this, columns + bins, tall);
        Found a;
        find(within<T>(given, low, high), slopes_of(columns), along_x, along_y, a);
        a.d0 = soft<T>(a.raw0).plus + T(FLOOR), a.d1 = soft<T>(a.raw1).plus + T(FLOOR);
        locate(a);
        const V s = a.s, t = a.t, u = a.u, q = t * u, per_d = reciprocal<T>(s * (t * t + u * u) + (a.d0 + a.d1) * q), ratio = s * per_d;
        const V steep = logarithm<T>(ratio * (ratio * (a.d1 * t * t + T(2) * s * q + a.d0 * u * u)));
        const V made = inverse ? along_x.at(a.x, a.before_x, t * a.w) : along_y.at(a.y, a.before_y, a.h * ((s * t * t + a.d0 * q) * per_d));
        this->put_ends(given, made, steep, out, slope);
    }

    INLINE void return_columns(V grad_out, V grad_slope, V given, V* columns, V& grad_value) const {
        const Bins along_x(*this, columns, columns), along_y(*this, columns + bins, columns + bins);
        Found a;
        find(within<T>(given, low, high), slopes_of(columns), along_x, along_y, a);
        const Soft<T> soft0 = soft<T>(a.raw0), soft1 = soft<T>(a.raw1);
        a.d0 = soft0.plus + T(FLOOR), a.d1 = soft1.plus + T(FLOOR);
        locate(a);
        const V d0 = a.d0, d1 = a.d1, s = a.s, t = a.t, u = a.u, q = t * u, tt = d1 * t * t, uu = d0 * u * u;
        const V per_d = reciprocal<T>(s * (t * t + u * u) + (d0 + d1) * q), p = tt + T(2) * s * q + uu, per_p = reciprocal<T>(p);
        const V lt = T(2) * (((d1 * t - d0 * u) + s * (u - t)) * per_p - (d0 + d1 - T(2) * s) * (u - t) * per_d);
        V g = grad_out, h = grad_slope, received;
        if (ends == LINEAR) {  // beyond the ends the parameters receive nothing
            const auto inside = (given >= low) & (given <= high);
            g = inside ? g : V{}, h = inside ? h : V{};
        }
        if (inverse) {
            h = -h;
            received = (g + h * lt * a.per_w) * reciprocal<T>(s * per_d * (s * per_d * p));
            g = -received;
        }
        const V scaled = g * a.h * per_d, to_t = scaled * s * p * per_d + h * lt;
        if (!inverse) received = to_t * a.per_w;
        grad_value = this->received(given, grad_out, received);
        const V hs = T(2) * h * q * (per_p + (d0 + d1) * per_d * (a.w * reciprocal<T>(a.h))), to_s = scaled * q * (tt - uu) * per_d + hs;
        const V lean = scaled * s * t * per_d * (tt * (T(1) + u) + T(2) * s * q + uu * t);
        const V rise = (s * t * t + d0 * q) * per_d, fall = (s * u * u + d1 * q) * per_d, both = T(2) * q * per_d;
        const V to_0 = (scaled * q * fall + h * (u * u * per_p - both)) * soft0.sigmoid;
        const V to_1 = (h * (t * t * per_p - both) - scaled * q * rise) * soft1.sigmoid;
        const Spread<T> x(*this, along_x.scale, a.number, a.before_x, a.w, -to_t * a.per_w, -(lean + h * lt * t + hs * s) * a.per_w);
        const Spread<T> y(*this, along_y.scale, a.number, a.before_y, a.h, g, g * rise + to_s * a.per_w);
        spread(a.number, x, y, to_0, to_1, columns);
    }

    // From the chosen bin to the raw numbers of all bins, over the shares that the columns hold.
    INLINE void spread(V number, const Spread<T>& x, const Spread<T>& y, V to_0, V to_1, V* wide) const {
        V *tall = wide + bins, *bent = slopes_of(wide);
        const V zero = {};
        for (int j = 0; j < bins; j++) {
            const auto behind = number > T(j), reached = number > T(j - 1), near = number > T(j - 2);
            wide[j] *= behind ? x.below : reached ? x.here : x.none;
            tall[j] *= behind ? y.below : reached ? y.here : y.none;
            if (j > 0 || ends != LINEAR) bent[j] = behind ? zero : reached ? to_0 : j > 0 && near ? to_1 : zero;
        }
        const V last = number == T(bins - 1) ? to_1 : zero;
        if (ends == BOUNDED) bent[bins] = last;
        if (ends == CIRCULAR) bent[0] += last;
    }
};

template <class T, class Use> void with_rational_quadratic(int bins, int ends, int inverse, double low, double high, double unit, const Use& use) {
    if constexpr (sizeof(T) == sizeof(float))  // in double it would only take longer to compile
        if (bins == UsualLayout::bins && ends == UsualLayout::ends) return use(RationalQuadratic<T, UsualLayout>{{{}, inverse != 0, T(low), T(high)}, T(unit)});
    use(RationalQuadratic<T, AnyLayout>{{{bins, ends, 2 * bins + knot_count(bins, ends)}, inverse != 0, T(low), T(high)}, T(unit)});
}

}  // namespace
