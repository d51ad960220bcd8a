// Blocks of LANES rows and half as many columns, for what is left of rows beside whole blocks: half the shuffles.
// A part of vectors.h, for compilers that join and cut vectors.
#pragma once

template <class T> struct HalfLane;
template <> struct HalfLane<float> {
    typedef float type __attribute__((vector_size(VECTOR_BYTES / 2)));
};
template <> struct HalfLane<double> {
    typedef double type __attribute__((vector_size(VECTOR_BYTES / 2)));
};

// Register i holds rows i and i + LANES / 2: each half is transposed for itself, so register j then holds column j of all rows, and back.
template <class T, int start> inline Vec<T> interleave_halves(Vec<T> a, Vec<T> b) {
    constexpr int L = LANES<T>, H = L / 2;
    Bits<T> mask;
    for (int i = 0; i < L; i++) mask[i] = i / H * H + start / 2 + i % H / 2 + (i % 2 ? L : 0);
    return __builtin_shuffle(a, b, mask);
}
template <class T, int width = LANES<T> / 2> struct TransposeHalves {
    static inline void run(Vec<T>* r) {
        constexpr int H = LANES<T> / 2;
        Vec<T> next[H];
#pragma GCC unroll 8
        for (int i = 0; i < H / 2; i++) {
            next[2 * i] = interleave_halves<T, 0>(r[i], r[i + H / 2]);
            next[2 * i + 1] = interleave_halves<T, H>(r[i], r[i + H / 2]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < H; i++) r[i] = next[i];
        TransposeHalves<T, width / 2>::run(r);
    }
};
template <class T> struct TransposeHalves<T, 1> {
    static inline void run(Vec<T>*) {}
};

template <class V, class Half, int... lane> inline V joined(Half low, Half high, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(low, high, lane...);
}
template <class Half, int start, class V, int... lane> inline Half part(V v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, v, start + lane...);
}

template <class T> inline void half_block_of(const T* rows, int count, int first, Vec<T>* columns) {
    typedef typename HalfLane<T>::type Half;
    constexpr int L = LANES<T>, H = L / 2;
    Vec<T> block[H];
#pragma GCC unroll 8
    for (int i = 0; i < H; i++) {
        Half low, high;
        std::memcpy(&low, rows + i * count + first, sizeof low);
        std::memcpy(&high, rows + (i + H) * count + first, sizeof high);
        block[i] = joined<Vec<T>>(low, high, std::make_integer_sequence<int, L>());
    }
    TransposeHalves<T>::run(block);
#pragma GCC unroll 8
    for (int i = 0; i < H; i++) columns[first + i] = block[i];
}
template <class T> inline void half_block_back(const Vec<T>* columns, int count, int first, T* rows) {
    typedef typename HalfLane<T>::type Half;
    constexpr int H = LANES<T> / 2;
    Vec<T> block[H];
#pragma GCC unroll 8
    for (int i = 0; i < H; i++) block[i] = columns[first + i];
    TransposeHalves<T>::run(block);
#pragma GCC unroll 8
    for (int i = 0; i < H; i++) {
        const Half low = part<Half, 0>(block[i], std::make_integer_sequence<int, H>()), high = part<Half, H>(block[i], std::make_integer_sequence<int, H>());
        std::memcpy(rows + i * count + first, &low, sizeof low);
        std::memcpy(rows + (i + H) * count + first, &high, sizeof high);
    }
}
