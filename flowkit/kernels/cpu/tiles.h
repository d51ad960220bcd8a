// A scalar map over rows of elements, in tiles of one register's lanes: mapped values, and the sum over each row of the log-slopes.
//
// A map has `count` numbers an element, at most MOST_PARAMETERS, and two functions on whole tiles:
//     tile(value, params, out, slope)
//     backward_tile(grad_out, grad_slope, value, params, grad_value, grad_params)
// The last tile is filled up with zeros. Sums run in double, in an order that does not depend on the threads.
#pragma once
#include "functions.h"
#include "threads.h"

constexpr int MOST_PARAMETERS = 193;

struct Rows {
    int64_t count, length;
    bool normal;  // the sum is log p of a standard normal under the map: each output adds its log-density

    // The least number of rows that fill whole tiles.
    template <class T> int64_t unit() const {
        int64_t rows = LANES<T>;
        while (rows % 2 == 0 && rows / 2 * length % LANES<T> == 0) rows /= 2;
        return rows;
    }
};

typedef double Doubles __attribute__((vector_size(32)));

template <class T> inline Doubles four(const T* from) {
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Four v;
    std::memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, Doubles);
}

// Adds up what the tiles yield, row after row.
template <class T> struct RowSums {
    const int64_t length;
    T* next;
    int64_t left;
    Doubles sums = {};

    RowSums(int64_t length, T* first) : length(length), next(first), left(length) {}

    void add(const T* terms, int64_t count) {
        if (length == 1) {
            std::memcpy(next, terms, sizeof(T) * count);
            next += count;
            return;
        }
        for (int64_t i = 0; i < count;) {
            const int64_t stop = left < count - i ? i + left : count;
            left -= stop - i;
            for (; i + 4 <= stop; i += 4) sums += four(terms + i);
            for (; i < stop; i++) sums[0] += terms[i];
            if (left) return;
            *next++ = T((sums[0] + sums[1]) + (sums[2] + sums[3]));
            sums = Doubles{}, left = length;
        }
    }
};

// Yields the number of its row for every element.
template <class T> struct RowNumbers {
    const int64_t length;
    const T* next;
    int64_t left;

    RowNumbers(int64_t length, const T* first) : length(length), next(first), left(length) {}

    void take(T* numbers, int64_t count) {
        if (length == 1) {
            std::memcpy(numbers, next, sizeof(T) * count);
            next += count;
            return;
        }
        for (int64_t i = 0; i < count;) {
            const int64_t stop = left < count - i ? i + left : count;
            left -= stop - i;
            for (; i < stop; i++) numbers[i] = *next;
            if (left) return;
            next++, left = length;
        }
    }
};

template <class T, class Map> inline void forward_rows(const Map& map, const Rows& rows, const T* value, const T* params, T* out, T* log_det, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    RowSums<T> sums(rows.length, log_det + begin);
    T slope[L];
    const auto tile = [&](const T* some, const T* numbers, T* made) {
        map.tile(some, numbers, made, slope);
        if (!rows.normal) return;
        const Vec<T> v = load<T>(made);
        store<T>(slope, load<T>(slope) - T(0.5) * v * v - T(HALF_LOG_2PI));
    };
    int64_t i = begin * rows.length;
    const int64_t last = end * rows.length;
    for (; i + L <= last; i += L) tile(value + i, params + i * map.count, out + i), sums.add(slope, L);
    if (i == last) return;
    const int64_t rest = last - i;
    T some[L] = {}, made[L], numbers[L * MOST_PARAMETERS];
    std::memset(numbers, 0, sizeof(T) * L * map.count);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(numbers, params + i * map.count, sizeof(T) * rest * map.count);
    tile(some, numbers, made);
    std::memcpy(out + i, made, sizeof(T) * rest);
    sums.add(slope, rest);
}

template <class T> struct Gradients {
    const T *out, *log_det;
    T *value, *params;
};

template <class T, class Map> inline void backward_rows(const Map& map, const Rows& rows, const T* value, const T* params, const Gradients<T>& grad, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    RowNumbers<T> numbers(rows.length, grad.log_det + begin);
    T slope[L], passed[L], unused[L];
    const auto tile = [&](const T* given, const T* some, const T* raw, T* of_value, T* of_params) {
        if (!rows.normal) return map.backward_tile(given, slope, some, raw, of_value, of_params);
        map.tile(some, raw, passed, unused);
        store<T>(passed, load<T>(given) - load<T>(passed) * load<T>(slope));
        map.backward_tile(passed, slope, some, raw, of_value, of_params);
    };
    int64_t i = begin * rows.length;
    const int64_t last = end * rows.length;
    for (; i + L <= last; i += L) numbers.take(slope, L), tile(grad.out + i, value + i, params + i * map.count, grad.value + i, grad.params + i * map.count);
    if (i == last) return;
    const int64_t rest = last - i;
    T given[L] = {}, some[L] = {}, made[L], raw[L * MOST_PARAMETERS];
    std::memset(raw, 0, sizeof(T) * L * map.count);
    std::memset(slope, 0, sizeof slope);
    std::memcpy(given, grad.out + i, sizeof(T) * rest);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(raw, params + i * map.count, sizeof(T) * rest * map.count);
    numbers.take(slope, rest);
    tile(given, some, raw, made, raw);
    std::memcpy(grad.value + i, made, sizeof(T) * rest);
    std::memcpy(grad.params + i * map.count, raw, sizeof(T) * rest * map.count);
}

// The C interface of a map: NAME_float32, NAME_float64 and the same with _backward. MAP makes it from `inverse` and the constants
// that follow; T stands for the type in it.
#define EXPORT_AS(NAME, TYPE, SUFFIX, MAP, ...)                                                                                                  \
    extern "C" void NAME##_##SUFFIX(const TYPE* value, const TYPE* params, TYPE* out, TYPE* log_det, int64_t count, int64_t length, int threads, \
                                    int normal, int inverse, __VA_ARGS__) {                                                                      \
        typedef TYPE T;                                                                                                                          \
        const auto map = MAP;                                                                                                                    \
        const Rows rows{count, length, normal != 0};                                                                                             \
        share(count, rows.unit<T>(), threads,                                                                                                    \
              [&](int64_t begin, int64_t end) { forward_rows<T>(map, rows, value, params, out, log_det, begin, end); });                         \
    }                                                                                                                                            \
    extern "C" void NAME##_backward_##SUFFIX(const TYPE* grad_out, const TYPE* grad_log_det, const TYPE* value, const TYPE* params,              \
                                             TYPE* grad_value, TYPE* grad_params, int64_t count, int64_t length, int threads, int normal,        \
                                             int inverse, __VA_ARGS__) {                                                                         \
        typedef TYPE T;                                                                                                                          \
        const auto map = MAP;                                                                                                                    \
        const Rows rows{count, length, normal != 0};                                                                                             \
        const Gradients<T> grad{grad_out, grad_log_det, grad_value, grad_params};                                                                \
        share(count, rows.unit<T>(), threads, [&](int64_t begin, int64_t end) { backward_rows<T>(map, rows, value, params, grad, begin, end); }); \
    }
#define EXPORT(NAME, MAP, ...) EXPORT_AS(NAME, float, float32, MAP, __VA_ARGS__) EXPORT_AS(NAME, double, float64, MAP, __VA_ARGS__)
