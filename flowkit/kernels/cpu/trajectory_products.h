// Products with weights that a trajectory uses many times: packed once into strips, each read from front to end.
#pragma once
#include "products.h"

namespace trajectory {

typedef Vec<float> V;
constexpr int L = LANES<float>;

// A matrix in strips of ROWS rows, each strip column by column.
struct Packed {
    float* at = nullptr;
    int64_t rows = 0, columns = 0;

    // From m, whose (r, k) lies at m[r * across + k * along].
    void fill(const float* m, int64_t across, int64_t along) {
        float* to = at;
        for (int64_t first = 0; first < rows; first += ROWS) {
            const int64_t some = rows - first < ROWS ? rows - first : ROWS;
            for (int64_t k = 0; k < columns; k++)
                for (int64_t r = 0; r < some; r++) *to++ = m[(first + r) * across + k * along];
        }
    }
};

inline Packed pack(Arena& arena, int64_t rows, int64_t columns) { return {arena.take(rows * columns), rows, columns}; }
inline Packed pack(Arena& arena, const float* m, int64_t rows, int64_t columns, int64_t across, int64_t along) {
    Packed packed = pack(arena, rows, columns);
    packed.fill(m, across, along);
    return packed;
}

// C = A B for a packed A, so many registers wide; rows of B are `stride` apart, those of C `pitch`.
inline void multiply(const Packed& a, const float* b, int64_t stride, float* c, int64_t pitch, int64_t vectors) {
    int64_t r = 0;
    const int64_t n = a.columns;
    for (; r + ROWS <= a.rows; r += ROWS) strip<float, ROWS>(a.at + r * n, 1, ROWS, b, stride, n, c + r * pitch, pitch, vectors, false);
    last_strip<float>(a.rows - r, a.at + r * n, 1, a.rows - r, b, stride, n, c + r * pitch, pitch, vectors, false);
}

// The same on a tile.
inline void apply(const Packed& a, const float* tile, float* out, int vectors) { multiply(a, tile, TILE, out, TILE, vectors); }

}  // namespace trajectory
