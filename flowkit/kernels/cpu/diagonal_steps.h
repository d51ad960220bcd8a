// The scalar maps that a diagonal chain is made of, lane by lane: value, log-slope, and the cotangent of the input.
//
// Each has, with a number a that some of them use:
//     forward(x, a, slope)        the value; its log-slope is added to `slope`
//     backward(x, a, g, h)        the cotangent of x, from that of the value, g, and of the log-slope, h
// Values are held inside the open codomain by the least the type can, as in the reference; held ones pass no g on.
#pragma once
#include "functions.h"

template <class T> struct Ends;
template <> struct Ends<float> {
    static constexpr float tiny = 1.17549435e-38f, below_one = 0.99999994f;
    static constexpr float low = -87.3365021f, high = 88.7227936f;  // between which exp is not held, as the reference rounds them
    static constexpr float log_tiny = -87.3365479f, log_largest = 88.7228394f, largest = 3.40282347e+38f;
};
template <> struct Ends<double> {
    static constexpr double tiny = 2.2250738585072014e-308, below_one = 0.99999999999999988898;
    static constexpr double low = -708.3964185322634, high = 709.78271289338329;
    static constexpr double log_tiny = -708.39641853226408, log_largest = 709.78271289338397, largest = 1.7976931348623157e+308;
};

template <class T> inline Vec<T> magnitude(Vec<T> x) { return x < T(0) ? -x : x; }
template <class T> inline Vec<T> held(Vec<T> x, T low, T high) { return x < low ? all<T>(low) : (x > high ? all<T>(high) : x); }

// `passed` where x was not held, else zero.
template <class T> inline Vec<T> unless_held(Vec<T> x, T low, T high, Vec<T> passed) { return x >= low && x <= high ? passed : Vec<T>{}; }

// exp over the whole range of the normal numbers; beyond it, its ends.
template <class T> inline Vec<T> wide_exponential(Vec<T> x) {
    typedef Number<T> N;
    x = held<T>(x, Ends<T>::log_tiny, Ends<T>::log_largest);
    const Vec<T> shifted = x * T(1.4426950408889634074) + N::magic, n = shifted - N::magic;
    const Vec<T> r = (x - n * N::ln2_high) - n * N::ln2_low;
    const Vec<T> p = (polynomial(N::exp, r) * r + T(1)) * r + T(1);
    const Bits<T> power = (Bits<T>)shifted - (Bits<T>)all<T>(N::magic), half = power >> 1;  // in two factors, either of which is a number
    return p * (Vec<T>)((half + N::bias) << N::mantissa) * (Vec<T>)((power - half + N::bias) << N::mantissa);
}

// log(1 + x), for x in [0, 1]; the first term of the series is x itself, so nothing is lost near zero.
template <class T> inline Vec<T> log1p_unit(Vec<T> x) {
    const Vec<T> s = x / (x + T(2)), z = s * s;
    return T(2) * s + T(2) * s * z * polynomial(Number<T>::log1p, z);
}

// log(1 + x), for x > -1: what rounding took from 1 + x is given back.
template <class T> inline Vec<T> log1p_any(Vec<T> x) {
    const Vec<T> sum = x + T(1), lost = x - (sum - T(1));
    return logarithm<T>(sum) + lost / sum;
}

// Infinity where x is infinite, else `found`, which was computed as if x were a number.
template <class T> inline Vec<T> or_infinity(Vec<T> x, Vec<T> found) { return x > Ends<T>::largest ? x : found; }

template <class T> struct Exp {
    typedef Vec<T> V;
    static V forward(V x, T, V& slope) {
        slope += x;
        return wide_exponential<T>(held<T>(x, Ends<T>::low, Ends<T>::high));
    }
    static V backward(V x, T, V g, V h) { return unless_held<T>(x, Ends<T>::low, Ends<T>::high, g * wide_exponential<T>(x)) + h; }
};

template <class T> struct Log {
    typedef Vec<T> V;
    static V forward(V x, T, V& slope) {
        const V inside = x < Ends<T>::tiny ? all<T>(Ends<T>::tiny) : x, out = or_infinity<T>(x, logarithm<T>(inside));
        slope -= out;
        return out;
    }
    static V backward(V x, T, V g, V h) { return x >= Ends<T>::tiny ? (g - h) / x : V{}; }
};

// 1 / (1 + exp(-x / a)), with slope exp(-|y|) / (1 + exp(-|y|))^2 / a at y = x / a.
template <class T> struct Sigmoid {
    typedef Vec<T> V;
    static V scaled(V x, T a) { return a == T(1) ? x : x / a; }
    static V forward(V x, T a, V& slope) {
        const V y = scaled(x, a), size = magnitude<T>(y), e = wide_exponential<T>(-size);
        slope -= size + T(2) * log1p_unit<T>(e);
        if (a != T(1)) slope -= T(std::log(a));
        return held<T>((y > T(0) ? all<T>(1) : e) / (e + T(1)), Ends<T>::tiny, Ends<T>::below_one);
    }
    static V backward(V x, T a, V g, V h) {
        const V y = scaled(x, a), e = wide_exponential<T>(-magnitude<T>(y)), share = T(1) / (e + T(1)), bend = (e - T(1)) * share;
        const V through = unless_held<T>((y > T(0) ? all<T>(1) : e) / (e + T(1)), Ends<T>::tiny, Ends<T>::below_one, g * e * share * share);
        return scaled((y < Ends<T>::log_tiny ? V{} : through) + h * (y < T(0) ? -bend : bend), a);
    }
};

template <class T> struct Logit {
    typedef Vec<T> V;
    static V forward(V x, T a, V& slope) {
        x = held<T>(x, Ends<T>::tiny, Ends<T>::below_one);
        const V left = logarithm<T>(x), right = log1p_any<T>(-x), out = left - right;
        slope -= left + right;
        if (a == T(1)) return out;
        slope += T(std::log(a));
        return a * out;
    }
    static V backward(V x, T a, V g, V h) {
        return unless_held<T>(x, Ends<T>::tiny, Ends<T>::below_one, (a * g + h * (T(2) * x - T(1))) / (x * (T(1) - x)));
    }
};

template <class T> struct Softplus {
    typedef Vec<T> V;
    static V raw(V x, V log1p) { return (x > T(0) ? x : V{}) + log1p; }
    static V forward(V x, T, V& slope) {
        const V log1p = log1p_unit<T>(wide_exponential<T>(-magnitude<T>(x))), out = raw(x, log1p);
        slope += (x > T(0) ? V{} : x) - log1p;
        return out < Ends<T>::tiny ? all<T>(Ends<T>::tiny) : out;
    }
    static V backward(V x, T, V g, V h) {
        const V e = wide_exponential<T>(-magnitude<T>(x)), share = T(1) / (e + T(1)), above = x > T(0) ? share : e * share;
        return (x >= Ends<T>::log_tiny ? g * above : V{}) + h * (x > T(0) ? e * share : share);
    }
};

// x + log(1 - exp(-x)), with log-slope -log(1 - exp(-x)).
template <class T> struct InverseSoftplus {
    typedef Vec<T> V;
    static V rest(V x, V e) {  // 1 - e without cancellation, e = exp(-x)
        const V near = (x - x * x * polynomial(Number<T>::exp, -x));
        return x < T(0.34) ? near : T(1) - e;
    }
    static V forward(V x, T, V& slope) {
        x = x < Ends<T>::tiny ? all<T>(Ends<T>::tiny) : x;
        const V e = wide_exponential<T>(-x), share = rest(x, e), lost = x < T(0.34) ? V{} : -e - (share - T(1));
        const V log_share = logarithm<T>(share) + lost / share;
        slope -= log_share;
        return x + log_share;
    }
    static V backward(V x, T, V g, V h) {
        const V e = wide_exponential<T>(-x);
        return x >= Ends<T>::tiny ? (g - h * e) / rest(x, e) : V{};
    }
};

// With e = exp(-2|x|): tanh|x| = (1 - e) / (1 + e), slope 4 e / (1 + e)^2.
template <class T> struct Tanh {
    typedef Vec<T> V;
    static V raw(V x, V size, V shared) {
        const V z = x * x, far = T(1) - T(2) * shared;
        return size < T(0.625) ? x + x * z * polynomial(Number<T>::tanh, z) : (x < T(0) ? -far : far);
    }
    static V forward(V x, T, V& slope) {
        const V size = magnitude<T>(x), e = wide_exponential<T>(T(-2) * size);
        slope += T(1.3862943611198906188) - T(2) * size - T(2) * log1p_unit<T>(e);
        return held<T>(raw(x, size, e / (e + T(1))), -Ends<T>::below_one, Ends<T>::below_one);
    }
    static V backward(V x, T, V g, V h) {
        const V size = magnitude<T>(x), e = wide_exponential<T>(T(-2) * size), share = T(1) / (e + T(1)), out = raw(x, size, e * share);
        return unless_held<T>(out, -Ends<T>::below_one, Ends<T>::below_one, g * (T(4) * e * share * share)) - T(2) * h * out;
    }
};

template <class T> struct Atanh {
    typedef Vec<T> V;
    static V forward(V x, T, V& slope) {
        x = held<T>(x, -Ends<T>::below_one, Ends<T>::below_one);
        const V left = log1p_any<T>(x), right = log1p_any<T>(-x);
        slope -= left + right;
        return T(0.5) * (left - right);
    }
    static V backward(V x, T, V g, V h) {
        return unless_held<T>(x, -Ends<T>::below_one, Ends<T>::below_one, (g + T(2) * h * x) / ((T(1) - x) * (T(1) + x)));
    }
};

// x / (1 + |x| / a), held inside [-a, a].
template <class T> struct SoftClip {
    typedef Vec<T> V;
    static V forward(V x, T a, V& slope) {
        const V size = magnitude<T>(x / a);
        slope -= T(2) * or_infinity<T>(size, log1p_any<T>(size));
        const V near = held<T>(x, -Ends<T>::largest, Ends<T>::largest), part = magnitude<T>(near / a);  // infinity over infinity is not the bound
        return held<T>(near / ((part > Ends<T>::largest ? all<T>(Ends<T>::largest) : part) + T(1)), -a, a);
    }
    static V backward(V x, T a, V g, V h) {
        const V share = T(1) / (magnitude<T>(x / a) + T(1)), bend = T(2) / a * share;
        const V sign = x < T(0) ? all<T>(-1) : (x > T(0) ? all<T>(1) : V{});
        return unless_held<T>(x * share, -a, a, g * share * share) - h * sign * bend;
    }
};

template <class T> struct InverseSoftClip {
    typedef Vec<T> V;
    static V forward(V x, T a, V& slope) {
        x = held<T>(x, -a, a);
        const V size = magnitude<T>(x / a), rest = T(1) - (size > Ends<T>::below_one ? all<T>(Ends<T>::below_one) : size);
        slope -= T(2) * logarithm<T>(rest);
        return x / rest;
    }
    static V backward(V x, T a, V g, V h) {
        const V size = magnitude<T>(x / a), rest = T(1) - (size > Ends<T>::below_one ? all<T>(Ends<T>::below_one) : size), sign = x < T(0) ? all<T>(-1) : (x > T(0) ? all<T>(1) : V{});
        const V from_size = size <= Ends<T>::below_one ? (g * x / rest + T(2) * h) / rest : T(2) * h / (rest + size);
        return unless_held<T>(x, -a, a, g / rest + sign / a * from_size);
    }
};
