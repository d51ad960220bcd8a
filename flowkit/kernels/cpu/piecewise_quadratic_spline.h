// The monotone piecewise-quadratic spline: value and log-slope, inverse, and the closed-form backward of both, each in one pass.
//
// Notation of kernels/piecewise_quadratic.py; S = v u + v' t is the slope, c = (1 - f) E / sum_j m_j exp(a_j), so v_k = f + c exp(a_k).
// In the bin, with cotangents g of y and h of l = log S:
//     t: Gt = g W S + h (v' - v) / S    x: Gt / W    X: -Gt / W    W: (v - v') t (g t / 2 + h / (S W))    Y: g
//     v: g W t (1 + u) / 2 + h u / S    v': g W t^2 / 2 + h t / S
// The bins before it, j < k, reach X by W_j and Y by W_j (v_j + v_{j+1}) / 2: so W_j receives -Gt / W + g (v_j + v_{j+1}) / 2, and v_j
// receives g m_j (half of that at the first knot and at the k-th). With p_j the cotangent of v_j and A = sum p_j (v_j - f) over the
// knots that are not given,
//     a_j: (v_j - f) (p_j - q m_j)    m_j: -q (v_j - f)    m_j of a given knot: -q (1 - f)    with q = A / ((1 - f) E)
// and m_j is half of the sum of W_{j-1} and W_j. The inverse is recomputed from y; with cotangents g of x and h of its log-slope -l,
// y receives e = (g - h dl/dt / W) / S, and the parameters what the forward map gives them for (-e, -h).
#pragma once
#include "bins.h"

namespace {

template <class T> struct PiecewiseQuadratic : Interval<T> {
    typedef Vec<T> V;
    using Interval<T>::bins, Interval<T>::ends, Interval<T>::inverse, Interval<T>::low, Interval<T>::high;

    struct Tile {
        V size[MOST_BINS + 2];         // from the second on, with zeros at both sides
        V rise[MOST_BINS + 1];         // of knots: exp(a - max), then v - f; 0 where the slope is given
        typename Knots<T>::Place x, y;
        V scale, extent, number, w, h, v0, v1, t, u;
    };

    // Widths, and slopes at the knots but for the factor c, which is returned; of the raw widths it leaves what unscaled_softmax does.
    inline V knots(V* columns, Tile& a) const {
        const T least = this->least();
        const V* tall = columns + bins;
        a.scale = unscaled_softmax<T>(columns, bins);
        const V stretch = a.scale * this->stretch(), zero = {};
        for (int j = 0; j < bins; j++) a.size[j + 1] = columns[j] * stretch + least;
        a.size[0] = a.size[bins + 1] = zero;
        if (ends == LINEAR) {
            a.rise[0] = a.rise[bins] = zero - T(__builtin_inf());
            for (int j = 1; j < bins; j++) a.rise[j] = tall[j - 1];
        } else {
            for (int j = 0; j < bins; j++) a.rise[j] = tall[j];
            a.rise[bins] = tall[ends == CIRCULAR ? 0 : bins];
        }
        V most = a.rise[0], weight = zero, given = zero;
        for (int j = 1; j <= bins; j++) most = larger<V>(a.rise[j], most);
        for (int j = 0; j <= bins; j++) {
            const V m = T(0.5) * (a.size[j] + a.size[j + 1]);
            const auto is_given = a.rise[j] == -T(__builtin_inf());
            a.rise[j] = is_given ? zero : exponential<T>(a.rise[j] - most) + T(1e-30);
            weight += m * a.rise[j];
            given += is_given ? m : zero;
        }
        a.extent = this->length() - given;
        return (T(1) - T(FLOOR)) * a.extent / weight;
    }

    // A rise of 0 marks a slope that is given: no other is below 1e-31.
    static V slope_at(V rise) { return rise == T(0) ? all<T>(1) : rise + T(FLOOR); }

    INLINE void find(V v, V* columns, Tile& a) const {
        const V c = knots(columns, a);
        for (int j = 0; j <= bins; j++) a.rise[j] *= c;
        Knots<T> along_x(low, high), along_y(low, high);
        const auto place = along_x.place(v);
        a.x = a.y = along_x.first(), a.w = a.size[1], a.v0 = slope_at(a.rise[0]), a.v1 = slope_at(a.rise[1]);
        a.h = T(0.5) * a.w * (a.v0 + a.v1);
        V w = a.w, h = a.h, last = a.v1;
        a.number = V{};
        for (int j = 1; j < bins; j++) {
            const auto x = along_x.next(w), y = along_y.next(h);
            const V next = slope_at(a.rise[j + 1]);
            const auto here = place >= (inverse ? y : x);
            w = a.size[j + 1], h = T(0.5) * w * (last + next);
            a.x = here ? x : a.x, a.w = here ? w : a.w, a.y = here ? y : a.y, a.h = here ? h : a.h;
            a.v0 = here ? last : a.v0, a.v1 = here ? next : a.v1;
            a.number = here ? all<T>(T(j)) : a.number;
            last = next;
        }
        locate(along_x.between(inverse ? a.y : a.x, place) + (v - v), a);  // NaN has no place
    }

    // t and 1 - t, from how far into its bin the value is.
    INLINE void locate(V from, Tile& a) const {
        if (inverse) {
            const V r = within<T>(from / a.h, T(0), T(1)), steep = square_root<T>((T(1) - r) * a.v0 * a.v0 + r * a.v1 * a.v1);
            a.t = r * ((a.v0 + a.v1) / (a.v0 + steep));
        } else {
            a.t = within<T>(from / a.w, T(0), T(1));
        }
        a.u = T(1) - a.t;
    }

    void map_columns(V given, V* columns, V& out, V& slope) const {
        Tile a;
        find(within<T>(given, low, high), columns, a);
        const Knots<T> knots(low, high);
        const V t = a.t, u = a.u, made = inverse ? knots.value(a.x) + t * a.w : knots.value(a.y) + T(0.5) * a.w * t * (a.v0 * (T(1) + u) + a.v1 * t);
        this->put_ends(given, made, logarithm<T>(a.v0 * u + a.v1 * t), out, slope);
    }

    void return_columns(V grad_out, V grad_slope, V given, V* columns, V& grad_value) const {
        Tile a;
        find(within<T>(given, low, high), columns, a);
        const V t = a.t, u = a.u, w = a.w, per_w = T(1) / w, bend = a.v1 - a.v0, steep = a.v0 * u + a.v1 * t, per_s = T(1) / steep;
        const V lt = bend * per_s, zero = {};
        V g = grad_out, h = grad_slope, received;
        if (inverse) {
            h = -h, received = (g + h * lt * per_w) * per_s;
            g = -received;
        }
        if (!inverse) received = g * steep + h * lt * per_w;
        grad_value = this->received(given, grad_out, received);
        if (ends == LINEAR) {
            const auto inside = (given >= low) & (given <= high);
            g = inside ? g : zero, h = inside ? h : zero;
        }
        const V gx = -(g * steep + h * lt * per_w), gw = -bend * t * (T(0.5) * g * t + h * per_s * per_w);
        const V g0 = T(0.5) * g * w * t * (T(1) + u) + h * u * per_s, g1 = T(0.5) * g * w * t * t + h * t * per_s;
        spread_all(a, columns, g, gx, gw, g0, g1);
    }

    // From the chosen bin to all raw numbers, over the shares of the widths and the rises of the knots.
    void spread_all(Tile& a, V* wide, V g, V gx, V gw, V g0, V g1) const {
        const V zero = {}, half = all<T>(0.5);
        V passed[MOST_BINS + 1], sum = zero;
        for (int j = 0; j <= bins; j++) {
            const V before = a.number > T(j - 1) ? a.size[j] : zero, after = a.number > T(j) ? a.size[j + 1] : zero;
            passed[j] = half * g * (before + after) + (a.number == T(j) ? g0 : a.number == T(j - 1) ? g1 : zero);
            sum += passed[j] * a.rise[j];
        }
        const V q = sum / ((T(1) - T(FLOOR)) * a.extent);
        V shift[MOST_BINS + 1];  // half the cotangent of m
        for (int j = 0; j <= bins; j++) {
            const V rise = a.rise[j];
            shift[j] = -half * q * (rise == T(0) ? all<T>(T(1) - T(FLOOR)) : rise);
            passed[j] = rise * (passed[j] - half * q * (a.size[j] + a.size[j + 1]));
        }
        V of_size[MOST_BINS], mean = zero;
        for (int j = 0; j < bins; j++) {
            const V own = a.number > T(j) ? gx + half * g * (slope_at(a.rise[j]) + slope_at(a.rise[j + 1])) : a.number == T(j) ? gw : zero;
            of_size[j] = this->stretch() * (own + shift[j] + shift[j + 1]);
            mean += of_size[j] * wide[j];
        }
        for (int j = 0; j < bins; j++) wide[j] *= (of_size[j] - mean * a.scale) * a.scale;
        V* tall = wide + bins;
        const int first = ends == LINEAR ? 1 : 0, last = ends == BOUNDED ? bins : bins - 1;
        for (int j = first; j <= last; j++) tall[j - first] = passed[j];
        if (ends == CIRCULAR) tall[0] += passed[bins];
    }
};

template <class T, class Use> void with_piecewise_quadratic(int bins, int ends, int inverse, double low, double high, const Use& use) {
    use(PiecewiseQuadratic<T>{{{bins, ends, bins + knot_count(bins, ends)}, inverse != 0, T(low), T(high)}});
}

}  // namespace
