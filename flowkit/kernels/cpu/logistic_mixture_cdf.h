// The log-odds of a mixture of logistics, x = exp(a) logit(sum_k w_k sigmoid(t_k)) + b with t_k = (z - m_k) r_k: value and log-slope,
// the inverse by a bracketed Newton iteration, and the closed-form backward of both.
//
// Parameters of an element: K raw weights, means m, K raw log-scales, raw log-gain, shift b; log r = -B tanh(raw / B), a = B tanh(raw / B).
// With u = sigmoid(t), d = sigmoid(-t), C = sum w u, S = sum w d, N = sum w u d r:
//     o = log C - log S    x = e^a o + b    l = a + log(N (C + S) / (C S)), whatever the scale of the weights
// With shares c = w u / C, s = w d / S, n = w u d r / N and cotangents g of x (G = g e^a) and h of l:
//     of t_k      Gt = G (c d + s u) + h ((s - n) u + (n - c) d)
//     of raw w_k  G (c - s) + h (n - (c S + s C) / (C + S))
//     of m_k      -r Gt        of log r_k    t Gt + h n        of z    sum r Gt        of a    G o + h        of b    g
// where no large numbers cancel: far out on either side two of the three shares become the same. The inverse is recomputed from x; with
// cotangents g of z and h of its log-slope -l, x receives e = (g - h dl/dz) / (dx/dz), and the parameters what the forward map gives
// them for (-e, -h).
#pragma once
#include "functions.h"
#include "tiles.h"

namespace {

constexpr int MOST_COMPONENTS = (MOST_PARAMETERS - 2) / 3;
constexpr int MOST_ITERATIONS = 200;

template <class T> struct Limit;
template <> struct Limit<float> {
    static constexpr float eps = 1.1920929e-7f;
    static constexpr float near = 4e-5f;    // a Newton step below this, in units of the steepest component, leaves an error below eps / 64
    static constexpr float least = 1e-20f;  // below it sums of exponentials are formed about their largest term
    static constexpr float steepest = 31.88f;  // -2 log eps
};
template <> struct Limit<double> {
    static constexpr double eps = 2.220446049250313e-16, near = 1.8e-9, least = 1e-200, steepest = 72.08;
};

template <class T> inline bool any(Bits<T> mask) {
    uint64_t words[VECTOR_BYTES / 8], found = 0;
    std::memcpy(words, &mask, sizeof mask);
    for (uint64_t word : words) found |= word;
    return found != 0;
}

template <class V> inline V size_of(V x) { return x < 0 ? -x : x; }

template <class T> struct LogisticMixture {
    typedef Vec<T> V;
    typedef Limit<T> Is;
    int components, count;
    bool inverse;
    T bound;

    // LANES elements: their components, and what evaluate() finds at a point.
    struct Tile {
        V* columns;  // logs of the weights, means, tanh(raw / B) of scales and gain, shift
        V weight[MOST_COMPONENTS], rate[MOST_COMPONENTS], total, gain, log_gain;
        V u[MOST_COMPONENTS], d[MOST_COMPONENTS], c[MOST_COMPONENTS], s[MOST_COMPONENTS], n[MOST_COMPONENTS];  // c, s, n but for a factor
        V sum_c, sum_s, sum_n, odds, slope, log_slope;  // slope of the odds
    };

    __attribute__((noinline)) void prepare(Tile& a) const {
        V *logs = a.columns, *bends = a.columns + 2 * components;
        V most = logs[0];
        for (int k = 1; k < components; k++) most = larger<V>(logs[k], most);
        a.total = V{};
        for (int k = 0; k < components; k++) {
            logs[k] -= most;
            a.total += a.weight[k] = exponential<T>(logs[k]);
            bends[k] = hyperbolic_tangent<T>(bends[k] / bound);
            a.rate[k] = exponential<T>(-bound * bends[k]);
        }
        bends[components] = hyperbolic_tangent<T>(bends[components] / bound);
        a.log_gain = bound * bends[components], a.gain = exponential<T>(a.log_gain);
    }

    // not inlined, like root(): compiled once for all that call it
    template <bool keep> __attribute__((noinline)) void evaluate(V z, Tile& a) const {
        const V* mean = a.columns + components;
        V up = {}, down = {}, flow = {};
        for (int k = 0; k < components; k++) {
            const V t = (z - mean[k]) * a.rate[k], e = exponential<T>(-size_of<V>(t)), q = T(1) / (T(1) + e), p = e * q;
            const auto left = t < T(0);
            const V u = left ? p : q, d = left ? q : p, wu = a.weight[k] * u, wd = a.weight[k] * d, n = wu * d * a.rate[k];
            up += wu, down += wd, flow += n;
            if (keep) a.u[k] = u, a.d[k] = d, a.c[k] = wu, a.s[k] = wd, a.n[k] = n;
        }
        a.sum_c = up, a.sum_s = down, a.sum_n = flow;
        a.odds = logarithm<T>(up / down), a.slope = flow * a.total / (up * down);
        const auto far = ~(smaller<V>(smaller<V>(up, down), flow) > Is::least);
        if (any<T>(far)) evaluate_far<keep>(z, a, far);
        else a.log_slope = logarithm<T>(a.slope);
    }

    // The same for lanes where sums would lose their terms, or all be lost.
    template <bool keep> __attribute__((noinline)) void evaluate_far(V z, Tile& a, Bits<T> far) const {
        const V *logs = a.columns, *mean = a.columns + components, zero = {};
        V most_c = zero - T(__builtin_inf()), most_s = most_c, most_n = most_c, up = zero, down = zero, flow = zero;
        for (int k = 0; k < components; k++) {
            const V t = (z - mean[k]) * a.rate[k], over = t < T(0) ? zero : t, under = t > T(0) ? zero : t;
            most_c = larger<V>(logs[k] + under, most_c), most_s = larger<V>(logs[k] - over, most_s), most_n = larger<V>(logs[k] + under - over, most_n);
        }
        for (int k = 0; k < components; k++) {
            const V t = (z - mean[k]) * a.rate[k], over = t < T(0) ? zero : t, under = t > T(0) ? zero : t, q = T(1) / (T(1) + exponential<T>(under - over));
            const V c = exponential<T>(logs[k] + under - most_c) * q, s = exponential<T>(logs[k] - over - most_s) * q;
            const V n = exponential<T>(logs[k] + under - over - most_n) * q * q * a.rate[k];
            up += c, down += s, flow += n;
            if (keep) a.c[k] = far ? c : a.c[k], a.s[k] = far ? s : a.s[k], a.n[k] = far ? n : a.n[k];
        }
        const auto right = most_c > most_s;
        const V lower = right ? most_s : most_c, upper = right ? most_c : most_s;
        const V steep = (most_n - lower) - upper + logarithm<T>(flow * a.total / (up * down));
        a.odds = far ? (most_c - most_s) + logarithm<T>(up / down) : a.odds;
        a.log_slope = far ? steep : logarithm<T>(a.slope);
        a.slope = far ? exponential<T>(steep) : a.slope;
        a.sum_c = far ? up : a.sum_c, a.sum_s = far ? down : a.sum_s, a.sum_n = far ? flow : a.sum_n;
    }

    // Where the odds are what is wanted: all components' own such points lie on both sides of it. NaN where that has no end.
    __attribute__((noinline)) V root(V wanted, Tile& a) const {
        const V *mean = a.columns + components, none = V{} + T(__builtin_nan(""));
        V z = {}, low = V{} + T(__builtin_inf()), high = -low, reach = {}, steepest = {};
        for (int k = 0; k < components; k++) {
            const V away = wanted / a.rate[k], point = mean[k] + away;
            z += a.weight[k] * point;
            low = point < low ? point : low, high = point > high ? point : high;
            reach = larger<V>(size_of<V>(mean[k]) + size_of<V>(away), reach), steepest = larger<V>(a.rate[k], steepest);
        }
        z /= a.total;
        low -= T(4) * Is::eps * reach, high += T(4) * Is::eps * reach;
        auto done = ~(high - low < T(__builtin_inf())) | (z != z);
        z = done ? none : z;
        V before = V{} + T(__builtin_inf());
        for (int step = 0; step < MOST_ITERATIONS && any<T>(~done); step++) {
            evaluate<false>(z, a);
            const V excess = a.odds - wanted, move = excess / a.slope, next = z - move;
            low = excess < T(0) ? z : low, high = excess > T(0) ? z : high;
            const auto last = size_of<V>(move) * steepest <= Is::near;
            const auto good = last | ((next > low) & (next < high) & (size_of<V>(move) <= T(0.5) * before));
            const V to = good ? next : T(0.5) * low + T(0.5) * high;
            before = size_of<V>(to - z);
            const auto met = high - low <= T(2) * Is::eps * size_of<V>(to);
            z = done ? z : to;
            done |= last | met;
        }
        return done ? z : none;
    }

    void map_columns(V given, V* columns, V& out, V& slope) const {
        Tile a;
        a.columns = columns;
        prepare(a);
        const V shift = columns[count - 1], z = inverse ? root((given - shift) / a.gain, a) : given;
        evaluate<false>(z, a);
        const V steep = a.log_slope + a.log_gain;
        out = inverse ? z : a.odds * a.gain + shift;
        slope = inverse ? -steep : steep;
    }

    void return_columns(V g, V h, V given, V* columns, V& grad_value) const {
        Tile a;
        a.columns = columns;
        prepare(a);
        const V shift = columns[count - 1], z = inverse ? root((given - shift) / a.gain, a) : given;
        evaluate<true>(z, a);
        const V per_c = T(1) / a.sum_c, per_s = T(1) / a.sum_s, per_n = T(1) / a.sum_n;
        V of_odds = {}, of_slope = {};  // d o/dz and dl/dz
        for (int k = 0; k < components; k++) {
            const V c = a.c[k] *= per_c, s = a.s[k] *= per_s, n = a.n[k] *= per_n, u = a.u[k], d = a.d[k];
            of_odds += a.rate[k] * (c * d + s * u), of_slope += a.rate[k] * ((s - n) * u + (n - c) * d);
        }
        if (inverse) {
            h = -h;
            const V most = V{} + Is::steepest, flat = -(a.log_slope + a.log_gain);
            grad_value = (g + h * of_slope) * exponential<T>(flat > most ? most : flat);
            g = -grad_value;
        } else {
            grad_value = g * a.gain * of_odds + h * of_slope;
        }
        spread(a, z, g, h);
    }

    // Cotangents of the parameters, over the columns; the shares are ready.
    void spread(Tile& a, V z, V g, V h) const {
        V *logs = a.columns, *means = logs + components, *bends = means + components;
        const V of_odds = g * a.gain, e = exponential<T>(-size_of<V>(a.odds)), big = T(1) / (T(1) + e), small = e * big;
        const auto right = a.odds > T(0);
        const V below = right ? big : small, above = right ? small : big;  // shares of C and S in their sum
        for (int k = 0; k < components; k++) {
            const V c = a.c[k], s = a.s[k], n = a.n[k], u = a.u[k], d = a.d[k], r = a.rate[k], t = (z - means[k]) * r;
            const V of_t = of_odds * (c * d + s * u) + h * ((s - n) * u + (n - c) * d);
            logs[k] = of_odds * (c - s) + h * (n - c * above - s * below);
            means[k] = -r * of_t;
            bends[k] = -(t * of_t + h * n) * (T(1) - bends[k] * bends[k]);
        }
        const V bend = bends[components];
        bends[components] = (of_odds * a.odds + h) * (T(1) - bend * bend);
        bends[components + 1] = g;
    }
};

template <class T, class Use> void with_logistic_mixture(int components, int inverse, double bound, const Use& use) {
    use(LogisticMixture<T>{components, 3 * components + 2, inverse != 0, T(bound)});
}

}  // namespace
