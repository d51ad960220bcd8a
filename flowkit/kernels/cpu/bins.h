// What splines on an interval share: bins from raw numbers, exact knots, and the way back from one bin to the numbers of all bins.
#pragma once
#include "functions.h"
#include "tiles.h"

enum SplineEnds { LINEAR = 0, BOUNDED = 1, CIRCULAR = 2 };
constexpr int MOST_BINS = 64;
static_assert(3 * MOST_BINS + 1 <= MOST_PARAMETERS, "a tile holds the numbers of that many bins");
constexpr double FLOOR = 1e-3;  // of a bin's share of the interval, and of slopes

// How many raw numbers at knots there are, as in kernels/spline_ends.py.
constexpr int knot_count(int bins, int ends) { return ends == LINEAR ? bins - 1 : ends == CIRCULAR ? bins : bins + 1; }

// Knots from bin sizes, without rounding errors that add up over the bins, and distances from them: in float64 what is lost in each
// sum is kept and added at the end; in float32 places are integers, in parts of 2^-31 of the interval from its middle.
template <class T> struct Knots {
    typedef Vec<T> Place;
    T low;
    Vec<T> sum = {}, lost = {};
    Knots(T low, T) : low(low) {}
    inline Place first() const { return all<T>(low); }
    inline Place next(Vec<T> size) {
        const Vec<T> more = sum + size, added = more - sum;
        lost += (sum - (more - added)) + (size - added);
        sum = more;
        return (low + sum) + lost;
    }
    inline Place place(Vec<T> value) const { return value; }
    inline Vec<T> value(Place place) const { return place; }
    inline Vec<T> between(Place from, Place to) const { return to - from; }
};
template <> struct Knots<float> {
    typedef Bits<float> Place;
    static constexpr float parts = 2147483648.0f;
    Place sum = first();
    float to_parts, part, middle;
    Knots(float low, float high) : to_parts(parts / (high - low)), part((high - low) / parts), middle(0.5f * (low + high)) {}
    inline Place first() const { return Place{} - (1 << 30); }
    inline Place next(Vec<float> size) { return sum += __builtin_convertvector(size * to_parts, Place); }
    inline Place place(Vec<float> value) const { return __builtin_convertvector((value - middle) * to_parts, Place); }
    inline Vec<float> value(Place place) const { return __builtin_convertvector(place, Vec<float>) * part + middle; }
    inline Vec<float> between(Place from, Place to) const { return __builtin_convertvector(to - from, Vec<float>) * part; }
};

// The raw numbers of bins become their shares, but for the factor that is returned.
template <class T> INLINE Vec<T> unscaled_softmax(Vec<T>* raw, int bins) {
    Vec<T> most = raw[0], sum = {};
    for (int j = 1; j < bins; j++) most = larger<Vec<T>>(raw[j], most);
    for (int j = 0; j < bins; j++) sum += raw[j] = exponential<T>(raw[j] - most);
    return T(1) / sum;
}

template <class T> inline Vec<T> within(Vec<T> v, T low, T high) {
    v = v < low ? all<T>(low) : v;
    return v > high ? all<T>(high) : v;
}

template <class T> inline Vec<T> square_root(Vec<T> z) {
    Vec<T> out;
    for (int i = 0; i < LANES<T>; i++) out[i] = sizeof(T) == 4 ? __builtin_sqrtf(float(z[i])) : __builtin_sqrt(double(z[i]));
    return out;
}

// How many bins a spline has, its ends, and how many numbers an element; and the usual ones, known to the compiler, which unrolls the
// loops over them.
struct AnyLayout {
    int bins, ends, count;
};
struct UsualLayout {
    static constexpr int bins = 8, ends = LINEAR, count = 23;
};

// The interval and the ends of a spline, and what depends on nothing else.
template <class T, class Layout = AnyLayout> struct Interval : Layout {
    typedef Vec<T> V;
    using Layout::bins, Layout::ends;
    bool inverse;
    T low, high;

    T length() const { return high - low; }
    T least() const { return length() * T(FLOOR); }                                   // size of a bin whose share is 0
    T stretch() const { return length() * (T(1) - T(FLOOR) * T(bins)); }              // what a share of 1 adds to it

    // What is given beyond the ends: the identity if they are linear.
    INLINE void put_ends(V given, V made, V steep, V& out, V& slope) const {
        const V held = within<T>(made, low, high), signed_steep = inverse ? -steep : steep;
        const auto inside = (given >= low) & (given <= high);
        const bool tails = ends == LINEAR;
        out = !tails ? held : inside ? held : given;
        slope = !tails ? signed_steep : inside ? signed_steep : V{};
    }

    // The cotangent of the value, from that of the output and what the bin passes on; that of a closed end's outside is 0.
    V received(V given, V grad_out, V passed) const {
        const auto inside = (given >= low) & (given <= high);
        return inside ? passed : ends == LINEAR ? grad_out : (given < low) | (given > high) ? V{} : passed;
    }

    // Cotangents of the raw numbers of sizes, over what unscaled_softmax has left of them and its factor: `below` reaches the sizes
    // of the bins before bin `number`, which add up to `before`, and `here` its own `size`.
    INLINE void spread(V* shares, V scale, V number, V before, V size, V below, V here) const {
        const V to_raw = scale * stretch();
        below *= to_raw, here *= to_raw;
        const V mean = ((before - number * least()) * below + (size - least()) * here) / stretch(), zero = {};
        for (int j = 0; j < bins; j++) shares[j] *= (number > T(j) ? below : number == T(j) ? here : zero) - mean;
    }
};
