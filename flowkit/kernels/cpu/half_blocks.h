// Blocks of LANES rows and half as many columns, for what is left of rows beside whole blocks: half the shuffles.
// A part of vectors.h, for compilers that join and cut vectors.
#pragma once
#if VECTOR_BYTES == 64
#include <immintrin.h>
#endif

template <class T> struct HalfLane;
template <> struct HalfLane<float> {
    typedef float type __attribute__((vector_size(VECTOR_BYTES / 2)));
};
template <> struct HalfLane<double> {
    typedef double type __attribute__((vector_size(VECTOR_BYTES / 2)));
};

#if VECTOR_BYTES == 64
// one instruction, which reads memory
template <class V, class Half, class Numbers> INLINE V joined(Half low, Half high, Numbers) {
    return (V)_mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)low), (__m256d)high, 1);
}
#else
template <class V, class Half, int... lane> INLINE V joined(Half low, Half high, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(low, high, lane...);
}
#endif
template <class Half, int start, class V, int... lane> INLINE Half part(V v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, v, start + lane...);
}

// Register i holds the halves of two rows: of those whose chunks, once transposed, `chunks` brings in order.
template <class T> INLINE int low_row(int i) {
    constexpr int C = IN_CHUNK<T>;
    return CHUNKS == 4 ? i / C * 2 * C + i % C : i;
}
template <class T> INLINE int high_row(int i) { return low_row<T>(i) + IN_CHUNK<T>; }

template <class T> INLINE void half_block_of(const T* rows, int count, int first, Vec<T>* columns) {
    typedef typename HalfLane<T>::type Half;
    constexpr int L = LANES<T>, H = L / 2, C = IN_CHUNK<T>;
    Vec<T> block[H];
#pragma GCC unroll 8
    for (int i = 0; i < H; i++) {
        Half low, high;
        std::memcpy(&low, rows + low_row<T>(i) * count + first, sizeof low);
        std::memcpy(&high, rows + high_row<T>(i) * count + first, sizeof high);
        block[i] = joined<Vec<T>>(low, high, std::make_integer_sequence<int, L>());
    }
#pragma GCC unroll 2
    for (int i = 0; i < H; i += C) transpose_in_chunks<T>(block + i);
    if constexpr (CHUNKS == 4) {
#pragma GCC unroll 4
        for (int i = 0; i < C; i++) {
            const Vec<T> a = block[i], b = block[i + C];
            columns[first + i] = chunks<T, false>(a, b), columns[first + i + C] = chunks<T, true>(a, b);
        }
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < H; i++) columns[first + i] = block[i];
    }
}
// In each pair of chunks one of a and one of b: the lower (upper) two of either.
template <class T, bool upper> INLINE Vec<T> paired(Vec<T> a, Vec<T> b) {
    return shuffled<T>(a, b, [](int i) {
        constexpr int C = IN_CHUNK<T>;
        return (i / C / 2 + (upper ? 2 : 0)) * C + i % C + (i / C % 2 ? LANES<T> : 0);
    });
}
template <class T> INLINE void half_block_back(const Vec<T>* columns, int count, int first, T* rows) {
    typedef typename HalfLane<T>::type Half;
    constexpr int H = LANES<T> / 2, C = IN_CHUNK<T>;
    Vec<T> block[H];
    if constexpr (CHUNKS == 4) {
#pragma GCC unroll 4
        for (int i = 0; i < C; i++) {
            const Vec<T> a = columns[first + i], b = columns[first + i + C];
            block[i] = paired<T, false>(a, b), block[i + C] = paired<T, true>(a, b);
        }
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < H; i++) block[i] = columns[first + i];
    }
#pragma GCC unroll 2
    for (int i = 0; i < H; i += C) transpose_in_chunks<T>(block + i);
#pragma GCC unroll 8
    for (int i = 0; i < H; i++) {
        const Half low = part<Half, 0>(block[i], std::make_integer_sequence<int, H>()), high = part<Half, H>(block[i], std::make_integer_sequence<int, H>());
        std::memcpy(rows + low_row<T>(i) * count + first, &low, sizeof low);
        std::memcpy(rows + high_row<T>(i) * count + first, &high, sizeof high);
    }
}
