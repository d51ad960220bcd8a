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

template <class T> INLINE Vec<T> within(Vec<T> v, T low, T high) {
    return smaller<Vec<T>>(all<T>(high), larger<Vec<T>>(all<T>(low), v));
}

template <class T> INLINE Vec<T> square_root(Vec<T> z) {
    Vec<T> out;
    for (int i = 0; i < LANES<T>; i++) out[i] = sizeof(T) == 4 ? __builtin_sqrtf(float(z[i])) : __builtin_sqrt(double(z[i]));
    return out;
}

// How many bins a spline has, its ends, and how many numbers an element; and the usual ones, known to the compiler, which unrolls the
// loops over them.
struct AnyLayout {
    static constexpr int most = MOST_BINS;
    int bins, ends, count;
};
struct UsualLayout {
    static constexpr int most = 8;
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
        const V mean = ((before - number * least()) * below + (size - least()) * here) * (T(1) / stretch()), zero = {};
        for (int j = 0; j < bins; j++) shares[j] *= (number > T(j) ? below : number == T(j) ? here : zero) - mean;
    }
};

// Brings the raw numbers of bins into the range where exp() loses nothing: only their differences count.
template <class T> inline __attribute__((noinline)) void shift(Vec<T>* raw, int bins) {
    Vec<T> most = raw[0];
    for (int j = 1; j < bins; j++) most = larger<Vec<T>>(raw[j], most);
    for (int j = 0; j < bins; j++) raw[j] = larger<Vec<T>>(all<T>(Number<T>::lowest), raw[j] - most);
}

// What unscaled_softmax makes of raw numbers, elsewhere; it may bring these into range.
template <class T> INLINE Vec<T> exponentials(Vec<T>* raw, Vec<T>* shares, int bins) {
    if (any_beyond<T>(raw, bins)) shift<T>(raw, bins);
    Vec<T> sum = shares[0] = short_exponential<T>(raw[0]);
    for (int j = 1; j < bins; j++) sum += shares[j] = short_exponential<T>(raw[j]);
    return reciprocal<T>(sum);
}

// The raw numbers of bins become their shares, but for the factor that is returned.
template <class T> INLINE Vec<T> unscaled_softmax(Vec<T>* raw, int bins) { return exponentials<T>(raw, raw, bins); }

// Bins one after the other along an axis of the interval, from their shares of it.
//
// In float32 the ends are sums of integers, in parts of 2^-31 of the interval. What the shares' common factor lost shows in the
// total: what it wants of 1, `lost`, is left to be given back to distances along the axis, all of which fall short alike.
template <class T, class Layout> struct Axis : Knots<T> {
    typedef Vec<T> V;
    typedef typename Knots<T>::Place Place;
    V scale, sizes[Layout::most];
    Place ends[Layout::most];

    INLINE Axis(const Interval<T, Layout>& all, V* raw, V* shares) : Knots<T>(all.low, all.high), scale(exponentials<T>(raw, shares, all.bins)) {
        const V stretch = scale * all.stretch();
        for (int j = 0; j < all.bins; j++) ends[j] = this->next(sizes[j] = shares[j] * stretch + all.least());
    }
    INLINE V at(Place from, V, V inside) const { return from + inside; }                // the point so far inside the bin from there on
    INLINE V over(V size, V per_other, const Axis&) const { return size * per_other; }  // this size over one on another axis
};
template <class Layout> struct Axis<float, Layout> : Knots<float> {
    typedef Vec<float> V;
    V scale, lost;
    Place ends[Layout::most];

    INLINE Axis(const Interval<float, Layout>& all, V* raw, V* shares) : Knots<float>(all.low, all.high), scale(exponentials<float>(raw, shares, all.bins)) {
        const V stretch = scale * (all.stretch() * to_parts);
        const float least = all.least() * to_parts;
        for (int j = 0; j < all.bins; j++) ends[j] = sum += __builtin_convertvector(shares[j] * stretch + least, Place);
        lost = __builtin_convertvector((1 << 30) - sum, V) * (1 / parts);
    }
    // `before` is the distance of `from`. A place has more digits than a float: those that its value leaves out go with the rest.
    INLINE V at(Place from, V before, V inside) const {
        const V rounded = __builtin_convertvector(from, V), rest = __builtin_convertvector(from - __builtin_convertvector(rounded, Place), V);
        const V value = rounded * part + middle, missed = rounded * part - (value - middle) + rest * part;
        return value + (missed + (inside + (before + inside) * lost));
    }
    INLINE V over(V size, V per_other, const Axis& other) const {
        const V made = size * per_other;
        return made * (lost - other.lost) + made;
    }
    INLINE Place place(V value) const {
        const V away = value - middle, distance = away * to_parts, missed = away * to_parts - distance;  // by a fused multiply-add, where there is one
        return __builtin_convertvector(distance, Place) + __builtin_convertvector(missed - (distance + 0.5f * parts) * lost, Place);
    }
};

// One bin of each lane.
template <class T> struct Bin {
    Vec<T> from, extent;
    template <class Layout> INLINE Bin(const Axis<T, Layout>& axis) : from(axis.first()), extent(axis.sizes[0]) {}
    template <class Layout> INLINE void choose(Bits<T> here, const Axis<T, Layout>& axis, int j) {
        from = here ? axis.ends[j - 1] : from, extent = here ? axis.sizes[j] : extent;
    }
    template <class Layout> INLINE Vec<T> size(const Axis<T, Layout>&) const { return extent; }
};
template <> struct Bin<float> {
    Bits<float> from, to;
    template <class Layout> INLINE Bin(const Axis<float, Layout>& axis) : from(axis.first()), to(axis.ends[0]) {}
    template <class Layout> INLINE void choose(Bits<float> here, const Axis<float, Layout>& axis, int j) {
        from = here ? axis.ends[j - 1] : from, to = here ? axis.ends[j] : to;
    }
    template <class Layout> INLINE Vec<float> size(const Axis<float, Layout>& axis) const { return axis.between(from, to); }
};

// The way back from one bin to the raw numbers of all sizes along an axis: what is to multiply the shares that unscaled_softmax has
// left, in bins before the chosen one, in it, and behind it. `to_before` reaches the sizes of the bins before it, `to_here` its own.
template <class T> struct Spread {
    Vec<T> below, here, none;

    template <class Layout>
    INLINE Spread(const Interval<T, Layout>& all, Vec<T> scale, Vec<T> number, Vec<T> before, Vec<T> size, Vec<T> to_before, Vec<T> to_here) {
        const Vec<T> to_raw = scale * all.stretch(), per = Vec<T>{} + T(1) / all.stretch(), p = (size - all.least()) * per;
        to_before *= to_raw, to_here *= to_raw;
        none = -((before - number * all.least()) * per * to_before + p * to_here);
        below = to_before + none, here = to_here + none;
    }
};
