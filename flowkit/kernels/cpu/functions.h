// exp, log, softplus, sigmoid and tanh of vectors, to about one unit in the last place; NaN stays NaN.
// The polynomials are Chebyshev fits to the stated intervals, so far below rounding that only arithmetic is lost.
#pragma once
#include "vectors.h"

#if defined(__AVX512F__) && VECTOR_BYTES == 64
#include <immintrin.h>
#define HAS_SCALEF  // one instruction for x 2^n
inline Vec<float> scalef(Vec<float> x, Vec<float> n) { return (Vec<float>)_mm512_scalef_ps((__m512)x, (__m512)n); }
inline Vec<double> scalef(Vec<double> x, Vec<double> n) { return (Vec<double>)_mm512_scalef_pd((__m512d)x, (__m512d)n); }
template <> inline Vec<float> larger(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm512_max_ps((__m512)a, (__m512)b); }
template <> inline Vec<float> smaller(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm512_min_ps((__m512)a, (__m512)b); }
template <> inline Vec<double> larger(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm512_max_pd((__m512d)a, (__m512d)b); }
template <> inline Vec<double> smaller(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm512_min_pd((__m512d)a, (__m512d)b); }
#include "tables.h"
template <class T> constexpr bool HAS_TABLES = sizeof(T) == sizeof(float);
#else
template <class T> constexpr bool HAS_TABLES = false;
#endif

constexpr double HALF_LOG_2PI = 0.91893853320467274178;

template <class T> struct Number;
template <> struct Number<float> {
    static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.42860677e-6f;  // the first has trailing zeros: n * ln2_high is exact
    static constexpr float lowest = -87.0f;
    static constexpr float nothing = -104.0f, beyond = 89.0f;  // where exp is 0, and infinite
    static constexpr int mantissa = 23, bias = 127;
    static constexpr int32_t root_half = 0x3f3504f3;
    static constexpr float linear = 20.0f, most = 1e37f;
    static constexpr float exp[] = {0.5f, 0.16666576666119928f, 0.04166655421298415f, 0.008363232883682618f, 0.0013926250831497612f};
    static constexpr float log[] = {0.3333334257569837f, 0.1999436742156484f, 0.14791011262706185f};
    static constexpr float log1p[] = {0.33333333660263706f, 0.19999853165964859f, 0.1429617899715142f, 0.108532879004401863f, 0.11612164612011674f};
    static constexpr float tanh[] = {-0.333333331712758f, 0.13333303425857890f, -0.05395922855611955f, 0.02176866632511661f, -0.008343119638547833f, 0.0022918094207610655f};
};
template <> struct Number<double> {
    static constexpr double magic = 6755399441055744.0;
    static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
    static constexpr double lowest = -708.0;
    static constexpr double nothing = -746.0, beyond = 710.0;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr int64_t root_half = 0x3fe6a09e667f3bcd;
    static constexpr double linear = 20.0, most = 1e307;
    static constexpr double exp[] = {0.50000000000000010314, 0.1666666666666666746, 0.041666666666623820532, 0.0083333333333300381973, 0.0013888888917367080562,
        0.00019841269863171556026, 0.000024801521057868205199, 2.7557268276905696187e-6, 2.7620201591031548792e-7, 2.5100472505694996003e-8};
    static constexpr double log[] = {0.33333333333333333231, 0.20000000000000444764, 0.14285714285397969303, 0.11111111196725877491, 0.090908977273097739449,
        0.076931248915726066003, 0.066342517238961826512, 0.0654472186813487074};
    static constexpr double log1p[] = {0.3333333333333333333, 0.20000000000000007739, 0.14285714285710971648, 0.11111111111665993422, 0.090909090430028277259,
        0.076923101269020811996, 0.066665884745690892251, 0.058839988836205180801, 0.052401996171826370258, 0.049710124482773673141, 0.03167055425885122698,
        0.076156313097144924193};
    static constexpr double tanh[] = {-0.33333333333333322459, 0.13333333333326598409, -0.053968253961341233468, 0.021869488258640403001, -0.0088632297966997830385,
        0.0035920586284077074252, -0.0014553071389320725699, 0.00058742905370893343867, -0.00023075725020369943011, 0.000079575570773915313388,
        -0.000017231978131088371372};
};

template <class T, int n> INLINE Vec<T> polynomial(const T (&c)[n], Vec<T> z) {
    Vec<T> sum = all<T>(c[n - 1]);
#pragma GCC unroll 12
    for (int i = n - 2; i >= 0; i--) sum = sum * z + c[i];
    return sum;
}

// 1 / x, to about one unit in the last place.
template <class T> INLINE Vec<T> reciprocal(Vec<T> x) {
#ifdef HAS_SCALEF
    if constexpr (HAS_TABLES<T>) return reciprocal_by_table(x);
#endif
    return T(1) / x;
}

// For arguments up to 80; those below the range of the type are taken as its end, so the result is never 0.
template <class T> INLINE Vec<T> exponential(Vec<T> x) {
    typedef Number<T> N;
    x = larger<Vec<T>>(all<T>(N::lowest), x);
#ifdef HAS_SCALEF
    if constexpr (HAS_TABLES<T>) return exponential_by_table(x);
#endif
    const Vec<T> shifted = x * T(1.4426950408889634074) + N::magic, n = shifted - N::magic;
    const Vec<T> r = (x - n * N::ln2_high) - n * N::ln2_low;
    const Vec<T> p = (polynomial(N::exp, r) * r + T(1)) * r + T(1);
#ifdef HAS_SCALEF
    return scalef(p, n);
#else
    return p * (Vec<T>)(((Bits<T>)shifted - (Bits<T>)all<T>(N::magic) + N::bias) << N::mantissa);
#endif
}

// The same for arguments within SHORT_RANGE.
constexpr float SHORT_RANGE = 40;
template <class T> INLINE Vec<T> short_exponential(Vec<T> x) {
#ifdef HAS_SCALEF
    if constexpr (HAS_TABLES<T>) return exponential_by_table<false>(x);
#endif
    return exponential<T>(x);
}

// Whether a number in these registers is beyond SHORT_RANGE; NaN is not.
template <class T> INLINE bool any_beyond(const Vec<T>* x, int count) {
#ifdef HAS_SCALEF
    if constexpr (HAS_TABLES<T>) {
        __m512 most = (__m512)x[0];
        for (int j = 1; j < count; j++) most = _mm512_range_ps((__m512)x[j], most, 11);  // what is larger in size, without its sign
        return _mm512_cmp_ps_mask(most, _mm512_set1_ps(SHORT_RANGE), _CMP_GT_OQ);
    }
#endif
    return true;
}

// The same for any argument: infinite above the range of the type; below it subnormal, then 0.
template <class T> INLINE Vec<T> unlimited_exponential(Vec<T> x) {
    typedef Number<T> N;
    x = smaller<Vec<T>>(all<T>(N::beyond), larger<Vec<T>>(all<T>(N::nothing), x));
    const Vec<T> shifted = x * T(1.4426950408889634074) + N::magic, n = shifted - N::magic;
    const Vec<T> r = (x - n * N::ln2_high) - n * N::ln2_low;
    const Vec<T> p = (polynomial(N::exp, r) * r + T(1)) * r + T(1);
#ifdef HAS_SCALEF
    return scalef(p, n);
#else
    // in two steps: 2^n itself may not be a number of the type
    const Bits<T> whole = (Bits<T>)shifted - (Bits<T>)all<T>(N::magic), half = whole >> 1;
    return p * (Vec<T>)((half + N::bias) << N::mantissa) * (Vec<T>)((whole - half + N::bias) << N::mantissa);
#endif
}

// log of a positive normal number.
template <class T> INLINE Vec<T> logarithm(Vec<T> x) {
#ifdef HAS_SCALEF
    if constexpr (HAS_TABLES<T>) return logarithm_by_table(x);
#endif
    typedef Number<T> N;
    const Bits<T> exponent = ((Bits<T>)x - N::root_half) >> N::mantissa;
    const Vec<T> f = (Vec<T>)((Bits<T>)x - (exponent << N::mantissa)) - T(1);
    const Vec<T> n = __builtin_convertvector(exponent, Vec<T>);
    const Vec<T> s = f / (f + T(2)), z = s * s, half = f * f * T(0.5);
    const Vec<T> rest = s * (half + T(2) * z * polynomial(N::log, z)); // log(1 + f) = f - half + rest
    const Vec<T> sum = (n * N::ln2_low - (half - rest)) + f + n * N::ln2_high;
    return sum + (x - x);  // NaN and infinity have no exponent to take
}

template <class T> struct Soft {
    Vec<T> plus, sigmoid;
};

// log(1 + exp(x)) and its derivative; as in torch the first is x itself beyond 20.
// log(1 + e) for e in [0, 1].
template <class T> INLINE Vec<T> log_of_one_plus(Vec<T> e) {
#ifdef HAS_SCALEF
    if constexpr (HAS_TABLES<T>) return log1p_by_table(e);
#endif
    const Vec<T> s = e / (e + T(2)), z = s * s;
    return T(2) * s + T(2) * s * z * polynomial(Number<T>::log1p, z);
}
template <class T> INLINE Soft<T> soft(Vec<T> x) {
    const Vec<T> e = exponential<T>(x > T(0) ? -x : x), one = all<T>(1), plus = larger<Vec<T>>(Vec<T>{}, x) + log_of_one_plus<T>(e);
    return {x > Number<T>::linear ? x : plus, (x > T(0) ? one : e) * reciprocal<T>(one + e)};
}

template <class T> INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
    typedef Number<T> N;
    const Vec<T> size = x < T(0) ? -x : x, z = x * x;
    const Vec<T> e = exponential<T>(T(2) * (size > T(20) ? all<T>(20) : size)), sum = e + T(1), lost = T(1) - (sum - e), share = T(1) / sum;
    const Vec<T> far = T(1) - T(2) * (share - share * share * lost);
    return size < T(0.625) ? x + x * z * polynomial(N::tanh, z) : (x < T(0) ? -far : far);
}
