// Functions of floats on AVX-512, where a register holds a table of 16 numbers: about half the work of the polynomials in functions.h.
// A part of functions.h. Errors stay within about one unit in the last place; NaN stays NaN.
#pragma once
#include <immintrin.h>

typedef Vec<float> Floats;
typedef Bits<float> Ints;

namespace tables {
alignas(64) constexpr int32_t power[32] = {  // bits of 2^(i / 32), less i 2^18
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};
alignas(64) constexpr float inverse[16] = {  // about 1 / (1 + i / 15)
    1.0f, 0.9375f, 0.882352948f, 0.833333313f, 0.789473712f, 0.75f, 0.714285731f, 0.681818187f,
    0.652173936f, 0.625f, 0.600000024f, 0.576923072f, 0.555555582f, 0.535714269f, 0.517241359f, 0.5f};
alignas(64) constexpr float log_inverse[16] = {  // minus its logarithm
    0.0f, 0.0645385236f, 0.125163138f, 0.182321578f, 0.236388743f, 0.287682086f, 0.336472213f, 0.382992238f,
    0.427443981f, 0.470003635f, 0.510825574f, 0.550046325f, 0.587786615f, 0.624154329f, 0.65924567f, 0.693147182f};
alignas(64) constexpr float near[16] = {  // about 1 / x in the middle of a sixteenth of [0.703125, 1.40625); 1 in that about 1
    1.39130437f, 1.33333337f, 1.27999997f, 1.23076928f, 1.18518519f, 1.14285719f, 1.10344827f, 1.06666672f,
    1.03225803f, 1.0f, 0.941176474f, 0.888888896f, 0.842105269f, 0.800000012f, 0.761904776f, 0.727272749f};
alignas(64) constexpr float log_near[16] = {  // minus its logarithm
    -0.33024171f, -0.287682116f, -0.246860057f, -0.207639396f, -0.169899046f, -0.133531436f, -0.098440066f, -0.0645385757f,
    -0.0317486674f, 0.0f, 0.0606246181f, 0.117783025f, 0.171850249f, 0.223143533f, 0.271933705f, 0.318453699f};
}  // namespace tables

// table[index mod 16]
INLINE Floats looked_up(const float* table, Ints index) { return (Floats)_mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(table)); }

// a - b c, rounded once
INLINE Floats less(Floats a, Floats b, float c) { return (Floats)_mm512_fnmadd_ps((__m512)b, _mm512_set1_ps(c), (__m512)a); }

INLINE Floats reciprocal_by_table(Floats x) {
    const Floats y = (Floats)_mm512_rcp14_ps((__m512)x), lost = (Floats)_mm512_fnmadd_ps((__m512)x, (__m512)y, _mm512_set1_ps(1.0f));
    return y * lost + y;
}

// exp(x) = 2^(n / 32) exp(r) where that is a normal number. `more`: for large x too, where the rounding of log(2) counts.
template <bool more = true> INLINE Floats exponential_by_table(Floats x) {
    const Floats shifted = x * 1.44269504f + 393216.0f, n = shifted - 393216.0f;  // 1.5 * 2^18: adding it rounds to a 32nd
    Floats r = less(x, n, 0.693147182f);
    if (more) r = less(r, n, -1.90465421e-9f);
    const __m512i low = _mm512_load_si512(tables::power), high = _mm512_load_si512(tables::power + 16), index = (__m512i)shifted;
    const Floats whole = (Floats)((Ints)_mm512_permutex2var_epi32(low, index, high) + ((Ints)shifted << 18));
    return whole * r * (r * 0.500004888f + 1.00001562f) + whole;
}

// log(1 + e) for e in [0, 1].
INLINE Floats log1p_by_table(Floats e) {
    const Ints index = (Ints)(e * 15.0f + 8388608.0f);  // 2^23: adding it rounds to a whole number
    const Floats a = looked_up(tables::inverse, index), r = e * a + (a - 1.0f);
    return r * r * (r * (r * -0.250138998f + 0.333500147f) - 0.5f) + (r + looked_up(tables::log_inverse, index));
}

// log of a positive normal number.
INLINE Floats logarithm_by_table(Floats x) {
    const Ints from = (Ints)x - 0x3f340000, exponent = from >> 23;
    const Floats m = (Floats)((Ints)x - (exponent << 23)), n = __builtin_convertvector(exponent, Floats);
    const Ints index = from >> 19;
    const Floats r = m * looked_up(tables::near, index) - 1.0f;
    const Floats rest = r * r * (r * (r * -0.25012216f + 0.333479911f) - 0.5f) + (r + (x - x));  // NaN and infinity have no exponent to take
    return n * 0.693147182f + (looked_up(tables::log_near, index) + rest);
}
