// The inverse of an autoregressive layer in one pass: coordinates become known level by level, and every unit of the masked network under
// them is evaluated once, as soon as all that it sees is known.
//
// Rows go in tiles, a unit a row, the units of a layer in the order in which they are ready: what a level adds is one product of the
// weights of its units with all rows before. A sample's result does not depend on its neighbours, nor on the width of its tile.
#pragma once
#include "conditioned.h"

namespace stepped {

// The units of a layer that an output depends on, sorted by the level at which they are ready; `sizes` of each level.
struct Units {
    int64_t count;
    const int64_t *sizes, *order;
};

// As kernels/steps.py writes it: levels, layers, numbers of an input's map; of the inputs and every layer its units; of every hidden layer
// whether it adds what the layer two before was before its activation, and then where each unit finds that.
struct Plan {
    int64_t levels, layers, per_input, most = 0;  // outputs of a level
    std::vector<Units> units;                     // the inputs first, the outputs last
    std::vector<const int64_t*> added;

    explicit Plan(const int64_t* at) {
        levels = *at++, layers = *at++, per_input = *at++;
        for (int64_t l = 0; l <= layers; l++) {
            units.push_back({at[0], at + 1, at + 1 + levels});
            at = units[l].order + units[l].count;
        }
        for (int64_t level = 0; level < levels; level++) most = units[layers].sizes[level] > most ? units[layers].sizes[level] : most;
        added.push_back(nullptr);
        for (int64_t l = 1; l < layers; l++) {
            const bool adds = *at++ != 0;
            added.push_back(adds ? at : nullptr);
            at += adds ? units[l].count : 0;
        }
    }
    bool kept(int64_t layer) const { return layer + 2 < layers && added[layer + 2]; }
};

// A layer where it lies: a matrix, and what is added to its product. Ten numbers of the list of addresses.
template <class T> struct Part {
    const T *weight, *bias, *mask, *offset;  // all but the weight may be null
    int64_t across, along, mask_across, mask_along, sample, unit;  // the last two: steps of the offset from sample to sample, from unit to unit
    static constexpr int length = 10;

    explicit Part(const int64_t* at)
        : weight(reinterpret_cast<const T*>(at[0])), bias(reinterpret_cast<const T*>(at[3])), mask(reinterpret_cast<const T*>(at[4])),
          offset(reinterpret_cast<const T*>(at[7])), across(at[1]), along(at[2]), mask_across(at[5]), mask_along(at[6]), sample(at[8]), unit(at[9]) {}

    void copy(int64_t row, const int64_t* columns, int64_t count, T* to) const {
        const T *from = weight + row * across, *factors = mask + row * mask_across;
        if (mask)
            for (int64_t c = 0; c < count; c++) to[c] = from[columns[c] * along] * factors[columns[c] * mask_along];
        else if (along == 1)
            for (int64_t c = 0; c < count; c++) to[c] = from[columns[c]];
        else
            for (int64_t c = 0; c < count; c++) to[c] = from[columns[c] * along];
    }
};

// A layer's weights, rows and columns sorted: of each level the block of its rows and of the columns that are known then.
template <class T> struct Sorted {
    std::vector<Matrix<T>> blocks;
    const T* bias = nullptr;

    // How many numbers it takes.
    static int64_t size(const Plan& plan, const Units& rows, const Units& columns) {
        int64_t sum = rows.count, known = 0;
        for (int64_t level = 0; level < plan.levels; level++) known += columns.sizes[level], sum += rows.sizes[level] * known;
        return sum;
    }
    // inputs: whether the columns are inputs, which are known a level later than hidden units. Takes its room from `memory` on.
    Sorted(const Plan& plan, const Part<T>& part, const Units& rows, const Units& columns, bool inputs, T*& memory) {
        if (!part.weight) return;
        if (part.bias) {
            bias = memory;
            for (int64_t r = 0; r < rows.count; r++) *memory++ = part.bias[rows.order[r]];
        }
        const int64_t* row = rows.order;
        for (int64_t level = 0, known = 0; level < plan.levels; level++) {
            known += inputs ? 0 : columns.sizes[level];
            blocks.push_back({memory, rows.sizes[level], known, known, 1});
            for (int64_t r = 0; r < rows.sizes[level]; r++, memory += known) part.copy(*row++, columns.order, known, memory);
            known += inputs ? columns.sizes[level] : 0;
        }
    }
};

template <class T> struct Problem {
    Plan plan;
    int activation;
    bool bare;  // the last hidden layer has no activation
    std::vector<Part<T>> parts;
    std::vector<Sorted<T>> weights;  // of the layers, then of what goes from the inputs straight to the outputs
    const T* zeros;
    RowMap<T> map;

    // addresses: of the plan, of the layers in order, of what goes straight.
    Problem(const int64_t* addresses, int activation, bool bare, RowMap<T> map)
        : plan(reinterpret_cast<const int64_t*>(addresses[0])), activation(activation), bare(bare), map(map) {
        const int64_t layers = plan.layers;
        int64_t size = 0, widest = 0;
        for (int64_t l = 0; l <= layers; l++) {
            parts.emplace_back(addresses + 1 + l * Part<T>::length);
            size += parts[l].weight ? Sorted<T>::size(plan, plan.units[l < layers ? l + 1 : l], plan.units[l < layers ? l : 0]) : 0;
            widest = plan.units[l].count > widest ? plan.units[l].count : widest;
        }
        T* memory = room<FOR_WEIGHTS>().take<T>(size + widest);
        std::fill(memory, memory + widest, T(0));
        zeros = memory, memory += widest;
        weights.reserve(layers + 1);
        for (int64_t l = 0; l < layers; l++) weights.emplace_back(plan, parts[l], plan.units[l + 1], plan.units[l], l == 0, memory);
        weights.emplace_back(plan, parts[layers], plan.units[layers], plan.units[0], true, memory);
    }
};

// What a tile needs, and its way through the levels.
template <class T> class Tile {
    const Problem<T>& problem;
    const Plan& plan;
    std::vector<T*> values, kept;  // of the inputs and the hidden layers
    T* outputs;

  public:
    Tile(Room& room, const Problem<T>& problem) : problem(problem), plan(problem.plan), kept(problem.plan.layers, nullptr) {
        int64_t size = plan.most;
        for (int64_t l = 0; l < plan.layers; l++) size += plan.units[l].count * (plan.kept(l) ? 2 : 1);
        outputs = room.take<T>(size * TILE);
        T* next = outputs + plan.most * TILE;
        for (int64_t l = 0; l < plan.layers; l++) {
            values.push_back(next), next += plan.units[l].count * TILE;
            if (plan.kept(l)) kept[l] = next, next += plan.units[l].count * TILE;
        }
    }

    void solve(const T* x, T* out, T* log_det, int64_t first, int lanes) {
        const int64_t features = plan.units[0].count;
        const int vectors = registers<T>(lanes);
        double sum[TILE] = {};
        T given[TILE], slope[TILE];
        x += first * features, out += first * features;
        std::vector<int64_t> known(plan.layers + 1, 0);
        for (int64_t level = 0; level < plan.levels; level++) {
            for (int64_t l = 1; l < plan.layers; l++) hidden(l, level, known, first, lanes);
            const int64_t count = plan.units[0].sizes[level];
            product(plan.layers, level, known, first, lanes, outputs);
            for (int64_t i = 0; i < count; i++) {
                const int64_t place = known[0] + i, coordinate = plan.units[0].order[place];
                T* solved = values[0] + place * TILE;
                take_lanes<T>(x + coordinate, features, lanes, given);
                problem.map.call(problem.map.map, given, outputs + i * plan.per_input * TILE, solved, slope, vectors);
                for (int j = 0; j < lanes; j++) sum[j] += double(slope[j]);
                put_lanes<T>(solved, lanes, out + coordinate, features);
            }
            known[0] += count, known[plan.layers] += plan.units[plan.layers].sizes[level];
        }
        for (int j = 0; j < lanes; j++) log_det[first + j] = T(sum[j]);
    }

  private:
    // The units of a hidden layer that become ready.
    void hidden(int64_t l, int64_t level, std::vector<int64_t>& known, int64_t first, int lanes) {
        const int64_t start = known[l], count = plan.units[l].sizes[level];
        if (!count) return;
        const int vectors = registers<T>(lanes);
        T *value = values[l] + start * TILE, *rows = kept[l] ? kept[l] + start * TILE : value;
        product(l, level, known, first, lanes, rows);
        if (const int64_t* from = plan.added[l])
            for (int64_t r = 0; r < count; r++)
                for (int i = 0; i < vectors * LANES<T>; i++) rows[r * TILE + i] += kept[l - 2][from[start + r] * TILE + i];
        if (!(problem.bare && l + 1 == plan.layers)) activate<T>(problem.activation, rows, problem.zeros, count, vectors, value);
        else if (rows != value) std::memcpy(value, rows, sizeof(T) * count * TILE);
        known[l] += count;
    }

    // What the units of a layer that become ready are before the activation.
    void product(int64_t l, int64_t level, const std::vector<int64_t>& known, int64_t first, int lanes, T* rows) {
        const Units& units = plan.units[l];
        const Part<T>& part = problem.parts[l - 1];
        const Sorted<T>& weight = problem.weights[l - 1];
        const int64_t start = known[l], count = units.sizes[level];
        const int vectors = registers<T>(lanes);
        apply<T>(weight.blocks[level], values[l - 1], rows, vectors);
        if (l == plan.layers && problem.parts[l].weight) apply<T>(problem.weights[l].blocks[level], values[0], rows, vectors, true);
        add_bias<T>(rows, weight.bias + start, count, vectors);
        if (!part.offset) return;
        for (int64_t r = 0; r < count; r++) {
            const T* from = part.offset + first * part.sample + units.order[start + r] * part.unit;
            for (int i = 0; i < lanes; i++) rows[r * TILE + i] += from[i * part.sample];
        }
    }
};

// Lanes of a tile: fewer than there may be where that gives every thread work.
template <class T> inline int64_t width_of(int64_t rows, int threads) {
    const int64_t each = (rows + threads - 1) / threads, whole = (each + LANES<T> - 1) / LANES<T> * LANES<T>;
    return whole < TILE ? whole : TILE;
}

template <class T> inline void solve(const Problem<T>& problem, const T* x, T* out, T* log_det, int64_t rows, int threads) {
    const int64_t width = width_of<T>(rows, threads);
    share(rows, width, threads, [&](int64_t begin, int64_t end) {
        Tile<T> tile(room<FOR_TILES>(), problem);
        for (; begin < end; begin += width) tile.solve(x, out, log_det, begin, int(end - begin < width ? end - begin : width));
    });
    room<FOR_WEIGHTS>().trim();
}

}  // namespace stepped

// The C interface of the inverse over a map, beside that of the map itself: stepped_NAME_float32 and stepped_NAME_float64.
#define EXPORT_STEPPED_AS(NAME, TYPE, SUFFIX, WITH, ...)                                                                                         \
    extern "C" void stepped_##NAME##_##SUFFIX(const TYPE* x, const int64_t* addresses, TYPE* out, TYPE* log_det, int64_t rows, int64_t bare,     \
                                              int64_t activation, int threads, int inverse, __VA_ARGS__) {                                       \
        typedef TYPE T;                                                                                                                          \
        const auto use = [&](const auto& map) {                                                                                                  \
            const stepped::Problem<T> problem(addresses, int(activation), bare != 0, row_map<T>(map));                                            \
            stepped::solve<T>(problem, x, out, log_det, rows, threads);                                                                          \
        };                                                                                                                                       \
        WITH;                                                                                                                                    \
    }
