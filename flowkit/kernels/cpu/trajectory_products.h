// Products of small matrices with tiles. A tile holds one number of each of TILE samples: rows of TILE lanes, a unit a row.
//
// The kernel keeps ROWS x WIDE registers of sums and walks the inner dimension once: a term costs WIDE loads of the right factor and
// ROWS broadcasts of the left one for ROWS * WIDE multiply-adds. Every lane sees the same operations in the same order wherever it
// stands, so a sample's result does not depend on its neighbours.
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

#include "vectors.h"

namespace trajectory {

typedef Vec<float> V;
constexpr int L = LANES<float>, TILE = 64, ROWS = 6, WIDE = VECTOR_BYTES == 64 ? 4 : 2;

inline int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }  // whole registers at every level

// Memory of one call, zero at first and aligned to registers.
class Arena {
    std::vector<void*> blocks;

  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena() {
        for (void* block : blocks) std::free(block);
    }
    float* take(int64_t count) {
        const size_t bytes = size_t(padded(count > 0 ? count : 1)) * sizeof(float);
        void* block = std::aligned_alloc(64, bytes);
        if (!block) throw std::bad_alloc();
        blocks.push_back(block);
        std::memset(block, 0, bytes);
        return static_cast<float*>(block);
    }
};

// C = A B, or C += A B, for so many rows and registers; A's (r, k) lies at a[r * across + k * along].
template <int rows, int wide, int across, int along>
INLINE void block(const float* a, const float* b, int64_t stride, int64_t count, float* c, int64_t pitch, bool add) {
    V sum[rows][wide];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) sum[r][v] = add ? load<float>(c + r * pitch + v * L) : V{};
    for (int64_t k = 0; k < count; k++) {
        V x[wide];
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) x[v] = load<float>(b + k * stride + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const V weight = all<float>(a[r * across + k * along]);
#pragma GCC unroll 4
            for (int v = 0; v < wide; v++) sum[r][v] += weight * x[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) store<float>(c + r * pitch + v * L, sum[r][v]);
}

template <int rows, int across, int along>
inline void strip(const float* a, const float* b, int64_t stride, int64_t count, float* c, int64_t pitch, int64_t vectors, bool add) {
    int64_t v = 0;
    for (; v + WIDE <= vectors; v += WIDE) block<rows, WIDE, across, along>(a, b + v * L, stride, count, c + v * L, pitch, add);
    if (WIDE == 4 && v + 2 <= vectors) block<rows, 2, across, along>(a, b + v * L, stride, count, c + v * L, pitch, add), v += 2;
    if (v < vectors) block<rows, 1, across, along>(a, b + v * L, stride, count, c + v * L, pitch, add);
}

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
    for (; r + ROWS <= a.rows; r += ROWS) strip<ROWS, 1, ROWS>(a.at + r * n, b, stride, n, c + r * pitch, pitch, vectors, false);
    const float* rest = a.at + r * n;
    switch (a.rows - r) {
        case 1: return strip<1, 1, 1>(rest, b, stride, n, c + r * pitch, pitch, vectors, false);
        case 2: return strip<2, 1, 2>(rest, b, stride, n, c + r * pitch, pitch, vectors, false);
        case 3: return strip<3, 1, 3>(rest, b, stride, n, c + r * pitch, pitch, vectors, false);
        case 4: return strip<4, 1, 4>(rest, b, stride, n, c + r * pitch, pitch, vectors, false);
        case 5: return strip<5, 1, 5>(rest, b, stride, n, c + r * pitch, pitch, vectors, false);
    }
}

// The same on a tile.
inline void apply(const Packed& a, const float* tile, float* out, int vectors) { multiply(a, tile, TILE, out, TILE, vectors); }

// C += U B, the sum over lanes of outer products: U has `rows` rows of a tile, B a row of `pitch` numbers a lane.
inline void outer(const float* u, int64_t rows, const float* b, float* c, int64_t pitch, int lanes, bool add = true) {
    int64_t r = 0;
    const int64_t v = pitch / L;
    for (; r + ROWS <= rows; r += ROWS) strip<ROWS, TILE, 1>(u + r * TILE, b, pitch, lanes, c + r * pitch, pitch, v, add);
    u += r * TILE, c += r * pitch;
    switch (rows - r) {
        case 1: return strip<1, TILE, 1>(u, b, pitch, lanes, c, pitch, v, add);
        case 2: return strip<2, TILE, 1>(u, b, pitch, lanes, c, pitch, v, add);
        case 3: return strip<3, TILE, 1>(u, b, pitch, lanes, c, pitch, v, add);
        case 4: return strip<4, TILE, 1>(u, b, pitch, lanes, c, pitch, v, add);
        case 5: return strip<5, TILE, 1>(u, b, pitch, lanes, c, pitch, v, add);
    }
}

// Rows of a tile, whose number is padded, as a row of numbers a lane.
inline void turn(const float* tile, int64_t pitch, int vectors, float* out) {
    for (int64_t r = 0; r < pitch; r += L)
        for (int v = 0; v < vectors; v++) {
            V square[L];
#pragma GCC unroll 16
            for (int i = 0; i < L; i++) square[i] = load<float>(tile + (r + i) * TILE + v * L);
            Transpose<float>::run(square);
#pragma GCC unroll 16
            for (int i = 0; i < L; i++) store<float>(out + (v * L + i) * pitch + r, square[i]);
        }
}

}  // namespace trajectory
