// A scalar map over rows of elements, in tiles of one register's lanes: mapped values, and the sum over each row of the log-slopes.
//
// A map has `count` numbers an element, at most MOST_PARAMETERS, and two functions on registers, a lane an element:
//     map_columns(given, columns, out, slope)
//     return_columns(grad_out, grad_slope, given, columns, grad_value)
// `columns` are `count` registers with the raw numbers, with room for one more before and after; the second function leaves their
// cotangents there, the first what it likes. NAME.h has with_NAME<T>(..., use), which calls use(map): a map whose numbers the compiler
// knows may be of another type.
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

// A map on whole tiles: LANES elements, whose numbers lie one element after the other.
template <class T, class Map> INLINE void tile(const Map& map, const T* value, const T* params, T* out, T* slope) {
    Vec<T> columns[MOST_PARAMETERS + 2], made, steep;
    columns_of<T>(params, map.count, columns + 1);
    map.map_columns(load<T>(value), columns + 1, made, steep);
    store<T>(out, made);
    store<T>(slope, steep);
}
template <class T, class Map>
INLINE void backward_tile(const Map& map, const T* grad_out, const T* grad_slope, const T* value, const T* params, T* grad_value, T* grad_params) {
    Vec<T> columns[MOST_PARAMETERS + 2], passed;
    columns_of<T>(params, map.count, columns + 1);
    map.return_columns(load<T>(grad_out), load<T>(grad_slope), load<T>(value), columns + 1, passed);
    store<T>(grad_value, passed);
    rows_of<T>(columns + 1, map.count, grad_params);
}

template <class T, class Map> inline void forward_rows(const Map& map, const Rows& rows, const T* value, const T* params, T* out, T* log_det, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    RowSums<T> sums(rows.length, log_det + begin);
    T slope[L];
    const auto one = [&](const T* some, const T* numbers, T* made) {
        tile<T>(map, some, numbers, made, slope);
        if (!rows.normal) return;
        const Vec<T> v = load<T>(made);
        store<T>(slope, load<T>(slope) - T(0.5) * v * v - T(HALF_LOG_2PI));
    };
    int64_t i = begin * rows.length;
    const int64_t last = end * rows.length;
    for (; i + L <= last; i += L) one(value + i, params + i * map.count, out + i), sums.add(slope, L);
    if (i == last) return;
    const int64_t rest = last - i;
    T some[L] = {}, made[L], numbers[L * MOST_PARAMETERS];
    std::memset(numbers, 0, sizeof(T) * L * map.count);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(numbers, params + i * map.count, sizeof(T) * rest * map.count);
    one(some, numbers, made);
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
    const auto one = [&](const T* given, const T* some, const T* raw, T* of_value, T* of_params) {
        if (!rows.normal) return backward_tile<T>(map, given, slope, some, raw, of_value, of_params);
        tile<T>(map, some, raw, passed, unused);
        store<T>(passed, load<T>(given) - load<T>(passed) * load<T>(slope));
        backward_tile<T>(map, passed, slope, some, raw, of_value, of_params);
    };
    int64_t i = begin * rows.length;
    const int64_t last = end * rows.length;
    for (; i + L <= last; i += L) numbers.take(slope, L), one(grad.out + i, value + i, params + i * map.count, grad.value + i, grad.params + i * map.count);
    if (i == last) return;
    const int64_t rest = last - i;
    T given[L] = {}, some[L] = {}, made[L], raw[L * MOST_PARAMETERS];
    std::memset(raw, 0, sizeof(T) * L * map.count);
    std::memset(slope, 0, sizeof slope);
    std::memcpy(given, grad.out + i, sizeof(T) * rest);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(raw, params + i * map.count, sizeof(T) * rest * map.count);
    numbers.take(slope, rest);
    one(given, some, raw, made, raw);
    std::memcpy(grad.value + i, made, sizeof(T) * rest);
    std::memcpy(grad.params + i * map.count, raw, sizeof(T) * rest * map.count);
}

// The C interface of a map: NAME_float32, NAME_float64 and the same with _backward. WITH calls `use` with it, made of `inverse` and the
// constants that follow; T stands for the type in it.
#define EXPORT_AS(NAME, TYPE, SUFFIX, WITH, ...)                                                                                                 \
    extern "C" void NAME##_##SUFFIX(const TYPE* value, const TYPE* params, TYPE* out, TYPE* log_det, int64_t count, int64_t length, int threads, \
                                    int normal, int inverse, __VA_ARGS__) {                                                                      \
        typedef TYPE T;                                                                                                                          \
        const Rows rows{count, length, normal != 0};                                                                                             \
        const auto use = [&](const auto& map) {                                                                                                  \
            share(count, rows.unit<T>(), threads,                                                                                                \
                  [&](int64_t begin, int64_t end) { forward_rows<T>(map, rows, value, params, out, log_det, begin, end); });                     \
        };                                                                                                                                       \
        WITH;                                                                                                                                    \
    }                                                                                                                                            \
    extern "C" void NAME##_backward_##SUFFIX(const TYPE* grad_out, const TYPE* grad_log_det, const TYPE* value, const TYPE* params,              \
                                             TYPE* grad_value, TYPE* grad_params, int64_t count, int64_t length, int threads, int normal,        \
                                             int inverse, __VA_ARGS__) {                                                                         \
        typedef TYPE T;                                                                                                                          \
        const Rows rows{count, length, normal != 0};                                                                                             \
        const Gradients<T> grad{grad_out, grad_log_det, grad_value, grad_params};                                                                \
        const auto use = [&](const auto& map) {                                                                                                  \
            share(count, rows.unit<T>(), threads,                                                                                                \
                  [&](int64_t begin, int64_t end) { backward_rows<T>(map, rows, value, params, grad, begin, end); });                            \
        };                                                                                                                                       \
        WITH;                                                                                                                                    \
    }

