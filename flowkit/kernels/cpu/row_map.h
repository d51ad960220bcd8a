// A scalar map on rows of a tile, its type forgotten: what runs over maps need not be compiled for each.
#pragma once
#include "products.h"
#include "tiles.h"

template <class T> struct RowMap {
    const void* map;
    int count;  // numbers an element
    // given -> out and slope, the numbers in the rows from `numbers` on
    void (*call)(const void* map, const T* given, const T* numbers, T* out, T* slope, int vectors);
    // cotangents of out and slope -> those of given, in `passed`, and of the numbers, in the rows from `of_numbers` on
    void (*pull)(const void* map, const T* grad_out, const T* grad_slope, const T* given, const T* numbers, T* passed, T* of_numbers, int vectors);
};

template <class T, class Map> SHARED void map_row(const void* any, const T* given, const T* numbers, T* out, T* slope, int vectors) {
    constexpr int L = LANES<T>;
    const Map& map = *static_cast<const Map*>(any);
    for (int v = 0; v < vectors; v++) {
        Vec<T> columns[MOST_PARAMETERS + 2], made, steep;
        for (int j = 0; j < map.count; j++) columns[j + 1] = load<T>(numbers + j * TILE + v * L);
        map.map_columns(load<T>(given + v * L), columns + 1, made, steep);
        store<T>(out + v * L, made);
        store<T>(slope + v * L, steep);
    }
}

template <class T, class Map>
SHARED void pull_row(const void* any, const T* grad_out, const T* grad_slope, const T* given, const T* numbers, T* passed, T* of_numbers, int vectors) {
    constexpr int L = LANES<T>;
    const Map& map = *static_cast<const Map*>(any);
    for (int v = 0; v < vectors; v++) {
        Vec<T> columns[MOST_PARAMETERS + 2], made;
        for (int j = 0; j < map.count; j++) columns[j + 1] = load<T>(numbers + j * TILE + v * L);
        map.return_columns(load<T>(grad_out + v * L), load<T>(grad_slope + v * L), load<T>(given + v * L), columns + 1, made);
        for (int j = 0; j < map.count; j++) store<T>(of_numbers + j * TILE + v * L, columns[j + 1]);
        store<T>(passed + v * L, made);
    }
}

template <class T, class Map> RowMap<T> row_map(const Map& map) { return {&map, map.count, map_row<T, Map>, pull_row<T, Map>}; }
