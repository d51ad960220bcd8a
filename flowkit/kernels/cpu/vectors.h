// Vectors of one register, in GCC's and Clang's vector extension: arithmetic, comparison and ?: work lane by lane.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))

template <class T> struct Lane;
template <> struct Lane<float> {
    typedef int32_t integer;
    typedef float type __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <> struct Lane<double> {
    typedef int64_t integer;
    typedef double type __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T> using Vec = typename Lane<T>::type;
template <class T> using Bits = typename Lane<T>::bits;
template <class T> constexpr int LANES = VECTOR_BYTES / int(sizeof(T));

template <class T> inline Vec<T> load(const T* from) {
    Vec<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class T> inline void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }
template <class T> inline Vec<T> all(T value) { return Vec<T>{} + value; }
template <class V> inline V larger(V a, V b) { return a > b ? a : b; }  // b where either is NaN

// Lanes of a and b in turn: from their first halves, or from their second halves.
template <class T, int start> inline Vec<T> interleave(Vec<T> a, Vec<T> b) {
    constexpr int half = start / 2;
#ifdef __clang__
    Vec<T> out;
    for (int i = 0; i < LANES<T>; i++) out[i] = i % 2 ? b[half + i / 2] : a[half + i / 2];  // becomes one shuffle
    return out;
#else
    Bits<T> mask;
    for (int i = 0; i < LANES<T>; i++) mask[i] = half + i / 2 + (i % 2 ? LANES<T> : 0);
    return __builtin_shuffle(a, b, mask);
#endif
}

// A square block of LANES rows, transposed in registers: log2(LANES) rounds of pairwise interleaving.
template <class T, int width = LANES<T>> struct Transpose {
    static inline void run(Vec<T>* r) {
        Vec<T> next[LANES<T>];
#pragma GCC unroll 16
        for (int i = 0; i < LANES<T> / 2; i++) {
            next[2 * i] = interleave<T, 0>(r[i], r[i + LANES<T> / 2]);
            next[2 * i + 1] = interleave<T, LANES<T>>(r[i], r[i + LANES<T> / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES<T>; i++) r[i] = next[i];
        Transpose<T, width / 2>::run(r);
    }
};
template <class T> struct Transpose<T, 1> {
    static inline void run(Vec<T>*) {}
};

#if defined(__has_builtin) && !defined(__clang__) && VECTOR_BYTES >= 32
#if __has_builtin(__builtin_shufflevector)
#define HAS_HALF_BLOCKS
#include "half_blocks.h"
#endif
#endif

// A block of LANES rows of `count` numbers, from column `first` on: into columns, and back.
template <class T> inline void block_of(const T* rows, int count, int first, Vec<T>* columns) {
    constexpr int L = LANES<T>;
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) block[i] = load<T>(rows + i * count + first);
    Transpose<T>::run(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) columns[first + i] = block[i];
}
template <class T> inline void block_back(const Vec<T>* columns, int count, int first, T* rows) {
    constexpr int L = LANES<T>;
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) block[i] = columns[first + i];
    Transpose<T>::run(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) store<T>(rows + i * count + first, block[i]);
}

// Covers `count` columns with blocks; the last may overlap the one before, so nothing beyond a row is touched. Rows too short for
// a block are left to `single`.
template <class T, class Whole, class Half, class Single> inline void in_blocks(int count, const Whole& whole, const Half& half, const Single& single) {
    constexpr int L = LANES<T>, H = L / 2;
    int j = 0;
    for (; count - j >= L; j += L) whole(j);
    if (j == count) return;
#ifdef HAS_HALF_BLOCKS
    if (count - j <= H && count >= H) return half(count - H);
    if (count < L && count > H) return half(0), half(count - H);
#endif
    if (count < L) return single();
    whole(count - L);
}

// LANES rows of `count` numbers each -> columns[j] holds the j-th number of every row.
template <class T> inline void columns_of(const T* rows, int count, Vec<T>* columns) {
    const auto single = [&] {
        T* out = reinterpret_cast<T*>(columns);
        for (int i = 0; i < LANES<T>; i++)
            for (int j = 0; j < count; j++) out[j * LANES<T> + i] = rows[i * count + j];
    };
    const auto half = [&](int first) {
#ifdef HAS_HALF_BLOCKS
        half_block_of<T>(rows, count, first, columns);
#endif
    };
    in_blocks<T>(count, [&](int first) { block_of<T>(rows, count, first, columns); }, half, single);
}

// The way back.
template <class T> inline void rows_of(const Vec<T>* columns, int count, T* rows) {
    const auto single = [&] {
        const T* in = reinterpret_cast<const T*>(columns);
        for (int i = 0; i < LANES<T>; i++)
            for (int j = 0; j < count; j++) rows[i * count + j] = in[j * LANES<T> + i];
    };
    const auto half = [&](int first) {
#ifdef HAS_HALF_BLOCKS
        half_block_back<T>(columns, count, first, rows);
#endif
    };
    in_blocks<T>(count, [&](int first) { block_back<T>(columns, count, first, rows); }, half, single);
}
