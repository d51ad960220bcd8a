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

// The sums of a register's numbers by their places in a register of doubles.
template <class T> INLINE Vec<double> widened(const T* from) {
    typedef T Some __attribute__((vector_size(sizeof(T) * LANES<double>)));
    Vec<double> sum = {};
#pragma GCC unroll 4
    for (int i = 0; i < LANES<T>; i += LANES<double>) {
        Some v;
        std::memcpy(&v, from + i, sizeof v);
        sum += __builtin_convertvector(v, Vec<double>);
    }
    return sum;
}

// Adds up what the tiles yield, row after row.
template <class T> struct RowSums {
    const int64_t length;
    T* next;
    int64_t left;
    Vec<double> sums = {};

    RowSums(int64_t length, T* first) : length(length), next(first), left(length) {}

    INLINE void add(const T* terms) {
        if (left < LANES<T>) return add(terms, LANES<T>);
        sums += widened<T>(terms);
        if (left -= LANES<T>) return;
        *next++ = total(), left = length;
    }
    INLINE T total() {
        double parts[LANES<double>];
        std::memcpy(parts, &sums, sizeof sums);
        sums = Vec<double>{};
#pragma GCC unroll 3
        for (int half = LANES<double> / 2; half; half /= 2)
            for (int i = 0; i < half; i++) parts[i] += parts[i + half];
        return T(parts[0]);
    }
    __attribute__((noinline)) void add(const T* terms, int64_t count) {
        if (length == 1) {
            std::memcpy(next, terms, sizeof(T) * count);
            next += count;
            return;
        }
        for (int64_t i = 0; i < count;) {
            const int64_t stop = left < count - i ? i + left : count;
            left -= stop - i;
            for (; i < stop; i++) sums[i % LANES<double>] += terms[i];
            if (left) return;
            *next++ = total(), left = length;
        }
    }
};

// Yields the number of its row for every element.
template <class T> struct RowNumbers {
    const int64_t length;
    const T* next;
    int64_t left;

    RowNumbers(int64_t length, const T* first) : length(length), next(first), left(length) {}

    INLINE Vec<T> take() {
        if (left < LANES<T>) return take(LANES<T>);
        const Vec<T> numbers = all<T>(*next);
        if (!(left -= LANES<T>)) next++, left = length;
        return numbers;
    }
    __attribute__((noinline)) Vec<T> take(int64_t count) {
        T numbers[LANES<T>] = {};
        if (length == 1) {
            std::memcpy(numbers, next, sizeof(T) * count);
            next += count;
            return load<T>(numbers);
        }
        for (int64_t i = 0; i < count;) {
            const int64_t stop = left < count - i ? i + left : count;
            left -= stop - i;
            for (; i < stop; i++) numbers[i] = *next;
            if (left) break;
            next++, left = length;
        }
        return load<T>(numbers);
    }
};

// A map on whole tiles: LANES elements, whose numbers lie one element after the other.
template <class T, class Map> INLINE void tile(const Map& map, bool normal, const T* value, const T* params, T* out, T* slope) {
    Vec<T> columns[MOST_PARAMETERS + 2], made, steep;
    columns_of<T>(params, map.count, columns + 1);
    map.map_columns(load<T>(value), columns + 1, made, steep);
    store<T>(out, made);
    store<T>(slope, normal ? steep - T(0.5) * made * made - T(HALF_LOG_2PI) : steep);
}
template <class T, class Map> __attribute__((noinline)) void tile_apart(Map map, bool normal, const T* value, const T* params, T* out, T* slope) {
    tile<T>(map, normal, value, params, out, slope);
}
template <class T, class Map>
INLINE void backward_tile(const Map& map, bool normal, const T* grad_out, Vec<T> grad_slope, const T* value, const T* params, T* grad_value, T* grad_params) {
    Vec<T> columns[MOST_PARAMETERS + 2], received = load<T>(grad_out), passed;
    if (normal) {
        T made[LANES<T>], unused[LANES<T>];
        tile_apart<T>(map, false, value, params, made, unused);
        received -= load<T>(made) * grad_slope;
    }
    columns_of<T>(params, map.count, columns + 1);
    map.return_columns(received, grad_slope, load<T>(value), columns + 1, passed);
    store<T>(grad_value, passed);
    rows_of<T>(columns + 1, map.count, grad_params);
}
template <class T, class Map>
__attribute__((noinline)) void backward_tile_apart(Map map, bool normal, const T* grad_out, Vec<T> grad_slope, const T* value, T* params, T* grad_value) {
    backward_tile<T>(map, normal, grad_out, grad_slope, value, params, grad_value, params);
}

template <class T, class Map>
inline void forward_rows(const Map& shared, const Rows& rows, const T* value, const T* params, T* out, T* log_det, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    const Map map = shared;  // nothing that is written to may be part of it, so its constants stay in registers
    const bool normal = rows.normal;
    RowSums<T> sums(rows.length, log_det + begin);
    T slope[L];
    int64_t i = begin * rows.length;
    const int64_t last = end * rows.length;
    for (; i + L <= last; i += L) tile<T>(map, normal, value + i, params + i * map.count, out + i, slope), sums.add(slope);
    if (i == last) return;
    const int64_t rest = last - i;
    T some[L] = {}, made[L], numbers[L * MOST_PARAMETERS];
    std::memset(numbers, 0, sizeof(T) * L * map.count);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(numbers, params + i * map.count, sizeof(T) * rest * map.count);
    tile_apart<T>(shared, normal, some, numbers, made, slope);
    std::memcpy(out + i, made, sizeof(T) * rest);
    sums.add(slope, rest);
}

template <class T> struct Gradients {
    const T *out, *log_det;
    T *value, *params;
};

template <class T, class Map>
inline void backward_rows(const Map& shared, const Rows& rows, const T* value, const T* params, const Gradients<T>& grad, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    const Map map = shared;
    const bool normal = rows.normal;
    RowNumbers<T> numbers(rows.length, grad.log_det + begin);
    int64_t i = begin * rows.length;
    const int64_t last = end * rows.length;
    for (; i + L <= last; i += L)
        backward_tile<T>(map, normal, grad.out + i, numbers.take(), value + i, params + i * map.count, grad.value + i, grad.params + i * map.count);
    if (i == last) return;
    const int64_t rest = last - i;
    T given[L] = {}, some[L] = {}, made[L], raw[L * MOST_PARAMETERS];
    std::memset(raw, 0, sizeof(T) * L * map.count);
    std::memcpy(given, grad.out + i, sizeof(T) * rest);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(raw, params + i * map.count, sizeof(T) * rest * map.count);
    backward_tile_apart<T>(shared, normal, given, numbers.take(rest), some, raw, made);
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

