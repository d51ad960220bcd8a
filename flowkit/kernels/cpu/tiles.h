// A scalar map over many elements: tiles of one register's lanes, the last of them filled up with zeros.
//
// A map has `count` numbers an element, at most MOST_PARAMETERS, and reads and writes whole tiles only.
#pragma once
#include "threads.h"
#include "vectors.h"

constexpr int MOST_PARAMETERS = 193;

template <class T, class Map> inline void run(const Map& map, const T* value, const T* params, T* out, T* slope, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    int64_t i = begin;
    for (; i + L <= end; i += L) map.tile(value + i, params + i * map.count, out + i, slope + i);
    if (i == end) return;
    const int64_t rest = end - i;
    T some[L] = {}, made[L], steep[L], more[L * MOST_PARAMETERS];
    std::memset(more, 0, sizeof(T) * L * map.count);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(more, params + i * map.count, sizeof(T) * rest * map.count);
    map.tile(some, more, made, steep);
    std::memcpy(out + i, made, sizeof(T) * rest);
    std::memcpy(slope + i, steep, sizeof(T) * rest);
}

template <class T, class Map>
inline void run_backward(const Map& map, const T* go, const T* gl, const T* value, const T* params, T* gv, T* gp, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    int64_t i = begin;
    for (; i + L <= end; i += L) map.backward_tile(go + i, gl + i, value + i, params + i * map.count, gv + i, gp + i * map.count);
    if (i == end) return;
    const int64_t rest = end - i;
    T first[L] = {}, second[L] = {}, some[L] = {}, made[L], more[L * MOST_PARAMETERS];
    std::memset(more, 0, sizeof(T) * L * map.count);
    std::memcpy(first, go + i, sizeof(T) * rest);
    std::memcpy(second, gl + i, sizeof(T) * rest);
    std::memcpy(some, value + i, sizeof(T) * rest);
    std::memcpy(more, params + i * map.count, sizeof(T) * rest * map.count);
    map.backward_tile(first, second, some, more, made, more);
    std::memcpy(gv + i, made, sizeof(T) * rest);
    std::memcpy(gp + i * map.count, more, sizeof(T) * rest * map.count);
}
