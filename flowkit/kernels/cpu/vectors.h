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
template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }

// Shuffles inside the 16-byte chunks of registers, which cost less than any others, and of whole chunks.
constexpr int CHUNKS = VECTOR_BYTES / 16;
template <class T> constexpr int IN_CHUNK = 16 / int(sizeof(T));

// The numbers of a and b that `number` (register 0 or 1, lane) names for each lane.
template <class T, class Number> INLINE Vec<T> shuffled(Vec<T> a, Vec<T> b, const Number& number) {
#ifdef __clang__
    Vec<T> out;
    for (int i = 0; i < LANES<T>; i++) out[i] = number(i) < LANES<T> ? a[number(i)] : b[number(i) - LANES<T>];  // becomes one shuffle
    return out;
#else
    Bits<T> mask;
    for (int i = 0; i < LANES<T>; i++) mask[i] = number(i);
    return __builtin_shuffle(a, b, mask);
#endif
}
// In each chunk the lower (upper) halves of a and b, units of `size` numbers in turn.
template <class T, int size, bool upper> INLINE Vec<T> interleave(Vec<T> a, Vec<T> b) {
    return shuffled<T>(a, b, [](int i) {
        constexpr int C = IN_CHUNK<T>;
        const int in = i % C;
        return i / C * C + (upper ? C / 2 : 0) + in / (2 * size) * size + in % size + (in / size % 2 ? LANES<T> : 0);
    });
}
// The even (odd) chunks of a, then those of b.
template <class T, bool odd> INLINE Vec<T> chunks(Vec<T> a, Vec<T> b) {
    return shuffled<T>(a, b, [](int i) {
        constexpr int C = IN_CHUNK<T>;
        return (2 * (i / C) + odd) * C + i % C;
    });
}

// Squares of IN_CHUNK rows and columns, as many as a register has chunks, from so many registers on.
template <class T> INLINE void transpose_in_chunks(Vec<T>* r) {
    if constexpr (IN_CHUNK<T> == 2) {
        const Vec<T> a = r[0];
        r[0] = interleave<T, 1, false>(a, r[1]), r[1] = interleave<T, 1, true>(a, r[1]);
    } else {
        const Vec<T> a = interleave<T, 1, false>(r[0], r[1]), b = interleave<T, 1, true>(r[0], r[1]);
        const Vec<T> c = interleave<T, 1, false>(r[2], r[3]), d = interleave<T, 1, true>(r[2], r[3]);
        r[0] = interleave<T, 2, false>(a, c), r[1] = interleave<T, 2, true>(a, c), r[2] = interleave<T, 2, false>(b, d), r[3] = interleave<T, 2, true>(b, d);
    }
}

// A square block of LANES rows, transposed in registers: inside the chunks, then whole chunks.
template <class T> struct Transpose {
    static INLINE void run(Vec<T>* r) {
        constexpr int C = IN_CHUNK<T>;
#pragma GCC unroll 4
        for (int i = 0; i < LANES<T>; i += C) transpose_in_chunks<T>(r + i);
#pragma GCC unroll 4
        for (int i = 0; i < C; i++) {
            if constexpr (CHUNKS == 2) {
                const Vec<T> a = r[i], b = r[i + C];
                r[i] = chunks<T, false>(a, b), r[i + C] = chunks<T, true>(a, b);
            } else if constexpr (CHUNKS == 4) {
                const Vec<T> a = chunks<T, false>(r[i], r[i + C]), b = chunks<T, true>(r[i], r[i + C]);
                const Vec<T> c = chunks<T, false>(r[i + 2 * C], r[i + 3 * C]), d = chunks<T, true>(r[i + 2 * C], r[i + 3 * C]);
                r[i] = chunks<T, false>(a, c), r[i + C] = chunks<T, false>(b, d), r[i + 2 * C] = chunks<T, true>(a, c), r[i + 3 * C] = chunks<T, true>(b, d);
            }
        }
    }
};

#if defined(__has_builtin) && !defined(__clang__) && VECTOR_BYTES >= 32
#if __has_builtin(__builtin_shufflevector)
#define HAS_HALF_BLOCKS
#include "half_blocks.h"
#endif
#endif

// A block of LANES rows of `count` numbers, from column `first` on: into columns, and back.
template <class T> INLINE void block_of(const T* rows, int count, int first, Vec<T>* columns) {
    constexpr int L = LANES<T>;
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) block[i] = load<T>(rows + i * count + first);
    Transpose<T>::run(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) columns[first + i] = block[i];
}
template <class T> INLINE void block_back(const Vec<T>* columns, int count, int first, T* rows) {
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
template <class T, class Whole, class Half, class Single> INLINE void in_blocks(int count, const Whole& whole, const Half& half, const Single& single) {
    constexpr int L = LANES<T>, H = L / 2;
    int j = 0;
#ifdef HAS_HALF_BLOCKS
    if (count >= H) { for (; count - j >= H; j += H) half(j); if (j<count) half(count-H); return; }
#endif
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
template <class T> INLINE void columns_of(const T* rows, int count, Vec<T>* columns) {
    const auto single = [&]() __attribute__((always_inline)) {
        T* out = reinterpret_cast<T*>(columns);
        for (int i = 0; i < LANES<T>; i++)
            for (int j = 0; j < count; j++) out[j * LANES<T> + i] = rows[i * count + j];
    };
    const auto half = [&](int first) __attribute__((always_inline)) {
#ifdef HAS_HALF_BLOCKS
        half_block_of<T>(rows, count, first, columns);
#endif
    };
    in_blocks<T>(count, [&](int first) __attribute__((always_inline)) { block_of<T>(rows, count, first, columns); }, half, single);
}

// The way back.
template <class T> INLINE void rows_of(const Vec<T>* columns, int count, T* rows) {
    const auto single = [&]() __attribute__((always_inline)) {
        const T* in = reinterpret_cast<const T*>(columns);
        for (int i = 0; i < LANES<T>; i++)
            for (int j = 0; j < count; j++) rows[i * count + j] = in[j * LANES<T> + i];
    };
    const auto half = [&](int first) __attribute__((always_inline)) {
#ifdef HAS_HALF_BLOCKS
        half_block_back<T>(columns, count, first, rows);
#endif
    };
    in_blocks<T>(count, [&](int first) __attribute__((always_inline)) { block_back<T>(columns, count, first, rows); }, half, single);
}
