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
#include "functions.h"
#include "tiles.h"

namespace {

enum Ends { LINEAR = 0, BOUNDED = 1, CIRCULAR = 2 };
constexpr int MOST_BINS = 64;
static_assert(3 * MOST_BINS + 1 == MOST_PARAMETERS, "a tile holds the numbers of that many bins");
constexpr double FLOOR = 1e-3;

// Knots from bin sizes, without rounding errors that add up over the bins: in float64 what is lost in each sum is kept and added
// at the end; in float32 the sum runs in integers, in parts of 2^-30 of the interval from its middle.
template <class T> struct Knots {
    T low;
    Vec<T> sum = {}, lost = {};
    Knots(T low, T) : low(low) {}
    inline Vec<T> next(Vec<T> size) {
        const Vec<T> more = sum + size, added = more - sum;
        lost += (sum - (more - added)) + (size - added);
        sum = more;
        return (low + sum) + lost;
    }
};
template <> struct Knots<float> {
    static constexpr float parts = 1073741824.0f;
    Bits<float> sum = Bits<float>{} - (1 << 29);
    float to_parts, part, middle;
    Knots(float low, float high) : to_parts(parts / (high - low)), part((high - low) / parts), middle(0.5f * (low + high)) {}
    inline Vec<float> next(Vec<float> size) {
        sum += __builtin_convertvector(size * to_parts, Bits<float>);
        return __builtin_convertvector(sum, Vec<float>) * part + middle;
    }
};

template <class T> struct Spline {
    typedef Vec<T> V;
    static constexpr int L = LANES<T>;
    int bins, ends, count;
    bool inverse;
    T low, high, unit;

    // What is known of LANES elements once their bins are found.
    struct Tile {
        V columns[MOST_PARAMETERS + 2];  // from the second on, the raw numbers, then the shares of the widths and heights
        V value, number, x, w, y, h, raw0, raw1, before_w, before_h, share_w, share_h, t, u;
    };

    V softmax(V* raw) const {
        V most = raw[0], sum = {};
        for (int j = 1; j < bins; j++) most = larger<V>(raw[j], most);
        for (int j = 0; j < bins; j++) sum += raw[j] = exponential<T>(raw[j] - most);
        return T(1) / sum;
    }

    inline __attribute__((always_inline)) void find(const T* value, const T* params, Tile& a, bool keep) const {
        const T length = high - low, least = length * T(FLOOR), rest = T(1) - T(FLOOR) * T(bins);
        columns_of<T>(params, count, a.columns + 1);
        V* wide = a.columns + 1;
        V* tall = wide + bins;
        const V scale_w = softmax(wide), scale_h = softmax(tall), stretch_w = scale_w * (length * rest), stretch_h = scale_h * (length * rest);
        V v = load<T>(value);
        v = v < low ? all<T>(low) : v;
        v = a.value = v > high ? all<T>(high) : v;
        const V* bent = tall + bins - (ends == LINEAR ? 1 : 0);  // of a linear end the number is not there
        const V end = ends == LINEAR ? all<T>(unit) : bent[ends == CIRCULAR ? 0 : bins];
        a.x = a.y = all<T>(low);
        a.w = wide[0] * stretch_w + least, a.h = tall[0] * stretch_h + least;
        a.raw0 = ends == LINEAR ? end : bent[0], a.raw1 = bent[1];
        V w = a.w, h = a.h, last = a.raw1, sum_w = wide[0], sum_h = tall[0];
        Knots<T> along_x(low, high), along_y(low, high);
        a.number = a.before_w = a.before_h = V{};
        a.share_w = wide[0], a.share_h = tall[0];
        for (int j = 1; j < bins; j++) {
            const V x = along_x.next(w), y = along_y.next(h), next = j + 1 < bins ? bent[j + 1] : end;
            const auto here = v >= (inverse ? y : x);
            w = wide[j] * stretch_w + least, h = tall[j] * stretch_h + least;
            a.x = here ? x : a.x, a.w = here ? w : a.w, a.y = here ? y : a.y, a.h = here ? h : a.h;
            a.raw0 = here ? last : a.raw0, a.raw1 = here ? next : a.raw1;
            last = next;
            if (!keep) continue;
            a.number = here ? all<T>(T(j)) : a.number;
            a.before_w = here ? sum_w : a.before_w, a.before_h = here ? sum_h : a.before_h;
            a.share_w = here ? wide[j] : a.share_w, a.share_h = here ? tall[j] : a.share_h;
            sum_w += wide[j], sum_h += tall[j];
        }
        if (!keep) return;
        a.before_w *= scale_w, a.before_h *= scale_h, a.share_w *= scale_w, a.share_h *= scale_h;
        for (int j = 0; j < bins; j++) wide[j] *= scale_w, tall[j] *= scale_h;
    }

    static V clamped(V t) {
        t = t < T(0) ? V{} : t;
        return t > T(1) ? all<T>(1) : t;
    }

    static V root_of(V z) {
        V out;
        for (int i = 0; i < L; i++) out[i] = sizeof(T) == 4 ? __builtin_sqrtf(float(z[i])) : __builtin_sqrt(double(z[i]));
        return out;
    }

    void place(Tile& a, V s, V d0, V d1) const {
        if (!inverse) {
            a.t = clamped((a.value - a.x) / a.w), a.u = T(1) - a.t;
            return;
        }
        const V r = clamped((a.value - a.y) / a.h), left = T(1) - r, m = left * d0 - r * d1;
        const auto rising = m >= T(0);
        const V far = root_of(m * m + T(4) * s * s * r * left) + (rising ? m : -m), near = T(2) * s * (rising ? r : left), sum = T(1) / (far + near);
        a.t = (rising ? near : far) * sum, a.u = (rising ? far : near) * sum;
    }

    void tile(const T* value, const T* params, T* out, T* slope) const {
        Tile a;
        find(value, params, a, false);
        const V s = a.h / a.w, d0 = soft<T>(a.raw0).plus + T(FLOOR), d1 = soft<T>(a.raw1).plus + T(FLOOR), given = load<T>(value);
        place(a, s, d0, d1);
        const V t = a.t, u = a.u, q = t * u, shrink = T(1) / (s * (t * t + u * u) + (d0 + d1) * q), ratio = s * shrink;
        const V steep = logarithm<T>(ratio * ratio * (d1 * t * t + T(2) * s * q + d0 * u * u));
        V made = inverse ? a.x + t * a.w : a.y + a.h * ((s * t * t + d0 * q) * shrink);
        made = made < low ? all<T>(low) : made;
        made = made > high ? all<T>(high) : made;
        const auto inside = (given >= low) & (given <= high);
        const bool tails = ends == LINEAR;
        store<T>(out, !tails ? made : inside ? made : given);
        const V signed_steep = inverse ? -steep : steep;
        store<T>(slope, !tails ? signed_steep : inside ? signed_steep : V{});
    }

    void backward_tile(const T* grad_out, const T* grad_slope, const T* value, const T* params, T* grad_value, T* grad_params) const {
        Tile a;
        find(value, params, a, true);
        const Soft<T> s0 = soft<T>(a.raw0), s1 = soft<T>(a.raw1);
        const V s = a.h / a.w, d0 = s0.plus + T(FLOOR), d1 = s1.plus + T(FLOOR), given = load<T>(value), per_w = T(1) / a.w;
        place(a, s, d0, d1);
        const V t = a.t, u = a.u, q = t * u, per_d = T(1) / (s * (t * t + u * u) + (d0 + d1) * q);
        const V p = d1 * t * t + T(2) * s * q + d0 * u * u, per_p = T(1) / p, rise = (s * t * t + d0 * q) * per_d, fall = (s * u * u + d1 * q) * per_d;
        const V lt = (T(2) * (d1 * t - d0 * u) + T(2) * s * (u - t)) * per_p - T(2) * (d0 + d1 - T(2) * s) * (u - t) * per_d;
        const V given_out = load<T>(grad_out);
        V g = given_out, h = load<T>(grad_slope), received;
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
            received = inside ? received : given_out;
            gx = inside ? gx : zero, gw = inside ? gw : zero, gy = inside ? gy : zero, gh = inside ? gh : zero, g0 = inside ? g0 : zero, g1 = inside ? g1 : zero;
        } else {
            received = (given < low) | (given > high) ? zero : received;
        }
        store<T>(grad_value, received);
        spread(a, gx, gw, gy, gh, g0, g1);
        rows_of<T>(a.columns + 1, count, grad_params);
    }

    // From the chosen bin to the raw numbers of all bins, over the shares that the columns hold.
    void spread(Tile& a, V gx, V gw, V gy, V gh, V g0, V g1) const {
        const T stretch = (high - low) * (T(1) - T(FLOOR) * T(bins));
        const V zero = {};
        gx *= stretch, gw *= stretch, gy *= stretch, gh *= stretch;
        const V mean_w = a.before_w * gx + a.share_w * gw, mean_h = a.before_h * gy + a.share_h * gh;
        V* wide = a.columns + 1;
        V* tall = wide + bins;
        V* bent = tall + bins;
        for (int j = 0; j < bins; j++) {
            const auto below = a.number > T(j), here = a.number == T(j);
            wide[j] *= (below ? gx : here ? gw : zero) - mean_w;
            tall[j] *= (below ? gy : here ? gh : zero) - mean_h;
        }
        const int first = ends == LINEAR ? 1 : 0, last = ends == BOUNDED ? bins : bins - 1;
        for (int j = first; j <= last; j++) bent[j - first] = a.number == T(j) ? g0 : a.number == T(j - 1) ? g1 : zero;
        if (ends == CIRCULAR) bent[0] += a.number == T(bins - 1) ? g1 : zero;
    }
};

int numbers(int bins, int ends) { return 2 * bins + (ends == LINEAR ? bins - 1 : ends == CIRCULAR ? bins : bins + 1); }

template <class T> Spline<T> spline_of(int bins, int ends, int inverse, double low, double high, double unit) {
    return {bins, ends, numbers(bins, ends), inverse != 0, T(low), T(high), T(unit)};
}

}  // namespace

EXPORT(rational_quadratic_spline, spline_of<T>(bins, ends, inverse, low, high, unit), int bins, double low, double high, int ends, double unit)
