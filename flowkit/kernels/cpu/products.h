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

#define SHARED __attribute__((noinline))  // compiled once, not for every caller

constexpr int TILE = 64, ROWS = 6, WIDE = VECTOR_BYTES == 64 ? 4 : 2;

inline int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }  // whole registers at every level
template <class T> inline int registers(int64_t lanes) { return int((lanes + LANES<T> - 1) / LANES<T>); }

// Memory of one call, zero at first and aligned to registers.
class Arena {
    std::vector<void*> blocks;

  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena() {
        for (void* block : blocks) std::free(block);
    }
    template <class T = float> T* take(int64_t count) {
        const size_t bytes = size_t(padded(count > 0 ? count : 1)) * sizeof(T);
        void* block = std::aligned_alloc(64, bytes);
        if (!block) throw std::bad_alloc();
        blocks.push_back(block);
        std::memset(block, 0, bytes);
        return static_cast<T*>(block);
    }
};

// A matrix where it lies: its (r, k) at at[r * across + k * along].
template <class T> struct Matrix {
    const T* at;
    int64_t rows, columns, across, along;

    Matrix turned() const { return {at, columns, rows, along, across}; }
};

// C = A B, or C += A B, for so many rows and registers; A's (r, k) lies at a[r * across + k * along].
template <class T, int rows, int wide>
INLINE void block(const T* a, int64_t across, int64_t along, const T* b, int64_t stride, int64_t count, T* c, int64_t pitch, bool add) {
    constexpr int L = LANES<T>;
    Vec<T> sum[rows][wide];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) sum[r][v] = add ? load<T>(c + r * pitch + v * L) : Vec<T>{};
    for (int64_t k = 0; k < count; k++) {
        Vec<T> x[wide];
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) x[v] = load<T>(b + k * stride + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const Vec<T> weight = all<T>(a[r * across + k * along]);
#pragma GCC unroll 4
            for (int v = 0; v < wide; v++) sum[r][v] += weight * x[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) store<T>(c + r * pitch + v * L, sum[r][v]);
}

template <class T, int rows>
SHARED void strip(const T* a, int64_t across, int64_t along, const T* b, int64_t stride, int64_t count, T* c, int64_t pitch, int64_t vectors, bool add) {
    constexpr int L = LANES<T>;
    int64_t v = 0;
    for (; v + WIDE <= vectors; v += WIDE) block<T, rows, WIDE>(a, across, along, b + v * L, stride, count, c + v * L, pitch, add);
    if (WIDE == 4 && v + 2 <= vectors) block<T, rows, 2>(a, across, along, b + v * L, stride, count, c + v * L, pitch, add), v += 2;
    if (v < vectors) block<T, rows, 1>(a, across, along, b + v * L, stride, count, c + v * L, pitch, add);
}

// Fewer rows than ROWS.
template <class T>
SHARED void last_strip(int64_t rows, const T* a, int64_t across, int64_t along, const T* b, int64_t stride, int64_t count, T* c, int64_t pitch, int64_t vectors, bool add) {
    switch (rows) {
        case 1: return strip<T, 1>(a, across, along, b, stride, count, c, pitch, vectors, add);
        case 2: return strip<T, 2>(a, across, along, b, stride, count, c, pitch, vectors, add);
        case 3: return strip<T, 3>(a, across, along, b, stride, count, c, pitch, vectors, add);
        case 4: return strip<T, 4>(a, across, along, b, stride, count, c, pitch, vectors, add);
        case 5: return strip<T, 5>(a, across, along, b, stride, count, c, pitch, vectors, add);
    }
}

// C = A B or C += A B, so many registers wide; rows of B are `stride` apart, those of C `pitch`.
template <class T> SHARED void multiply(const Matrix<T>& a, const T* b, int64_t stride, T* c, int64_t pitch, int64_t vectors, bool add = false) {
    int64_t r = 0;
    for (; r + ROWS <= a.rows; r += ROWS) strip<T, ROWS>(a.at + r * a.across, a.across, a.along, b, stride, a.columns, c + r * pitch, pitch, vectors, add);
    last_strip<T>(a.rows - r, a.at + r * a.across, a.across, a.along, b, stride, a.columns, c + r * pitch, pitch, vectors, add);
}

// The same on a tile.
template <class T> inline void apply(const Matrix<T>& a, const T* tile, T* out, int vectors, bool add = false) { multiply<T>(a, tile, TILE, out, TILE, vectors, add); }

// C += U B, or C = U B, the sum over lanes of outer products: U has `rows` rows of a tile, B a row of `pitch` numbers a lane.
template <class T> inline void outer(const T* u, int64_t rows, const T* b, T* c, int64_t pitch, int lanes, bool add = true) {
    multiply<T>({u, rows, lanes, TILE, 1}, b, pitch, c, pitch, pitch / LANES<T>, add);
}

// Rows of a tile, whose number is padded, as a row of numbers a lane.
template <class T> SHARED void turn(const T* tile, int64_t pitch, int vectors, T* out) {
    constexpr int L = LANES<T>;
    for (int64_t r = 0; r < pitch; r += L)
        for (int v = 0; v < vectors; v++) {
            Vec<T> square[L];
#pragma GCC unroll 16
            for (int i = 0; i < L; i++) square[i] = load<T>(tile + (r + i) * TILE + v * L);
            Transpose<T>::run(square);
#pragma GCC unroll 16
            for (int i = 0; i < L; i++) store<T>(out + (v * L + i) * pitch + r, square[i]);
        }
}
