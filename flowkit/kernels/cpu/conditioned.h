// A layer in one pass: some coordinates of a row, and a context, go through a dense network; its outputs are the numbers of a scalar map of
// other coordinates, or of the same; the rest stays. Rows go in tiles of TILE, a unit a row, from the gathering to the scattering.
//
// The backward keeps what the network left in each tile. Weights' gradients are summed over parts of the batch whose size depends on the
// batch alone, and the parts in turn, so the number of threads does not change a bit.
#pragma once
#include "network.h"
#include "row_map.h"

constexpr size_t MOST_ROOM = size_t(1) << 24;

// Memory of a thread, kept from call to call: its contents are whatever they were.
struct Room {
    void* at = nullptr;
    size_t bytes = 0;
    ~Room() { std::free(at); }
    template <class T> T* take(int64_t count) {
        const size_t wanted = size_t(padded(count)) * sizeof(T);
        if (wanted > bytes) {
            std::free(at);
            bytes = 0, at = std::aligned_alloc(64, wanted);
            if (!at) throw std::bad_alloc();
            bytes = wanted;
        }
        return static_cast<T*>(at);
    }
    // Gives back what is more than the usual.
    void trim() {
        if (bytes <= MOST_ROOM) return;
        std::free(at);
        at = nullptr, bytes = 0;
    }
};
enum Purpose { FOR_TILES, FOR_SUMS, FOR_WEIGHTS };
template <Purpose purpose> inline Room& room() {
    static thread_local Room own;
    return own;
}

template <class T> struct Layer {
    Network<T> net;
    int64_t features, contexts, given_count, mapped_count;
    const int64_t *given, *mapped;
    bool normal;
    const T *value, *context;

    // plan: features, contexts, activation, layers, their widths from the inputs on, then two lists with their lengths: the coordinates that
    // are given to the network and those that are mapped. weights: addresses of W1, b1, W2, ...
    Layer(const int64_t* plan, const int64_t* weights, const T* value, const T* context, bool normal) : normal(normal), value(value), context(context) {
        features = *plan++, contexts = *plan++, net.activation = int(*plan++);
        for (int64_t layers = *plan++; layers > 0; layers--, plan++, weights += 2)
            net.layers.push_back({{reinterpret_cast<const T*>(weights[0]), plan[1], plan[0], plan[0], 1}, reinterpret_cast<const T*>(weights[1])});
        plan++;
        given_count = *plan++, given = plan, plan += given_count;
        mapped_count = *plan++, mapped = plan;
    }
};

// A column of so many rows as lanes of a tile; lanes without a row get 0.
template <class T> inline void take_lanes(const T* from, int64_t pitch, int lanes, T* to) {
    for (int i = 0; i < lanes; i++) to[i] = from[i * pitch];
    for (int i = lanes; i < registers<T>(lanes) * LANES<T>; i++) to[i] = 0;
}
template <class T> inline void put_lanes(const T* from, int lanes, T* to, int64_t pitch) {
    for (int i = 0; i < lanes; i++) to[i * pitch] = from[i];
}

template <class T> inline void gather(const Layer<T>& layer, int64_t first, int lanes, T* input) {
    for (int64_t c = 0; c < layer.given_count; c++, input += TILE) take_lanes<T>(layer.value + first * layer.features + layer.given[c], layer.features, lanes, input);
    for (int64_t c = 0; c < layer.contexts; c++, input += TILE) take_lanes<T>(layer.context + first * layer.contexts + c, layer.contexts, lanes, input);
}

// log_det of each row from the slopes, and log N(out; 0, I) where it is wanted.
template <class T> inline void finish_rows(const Layer<T>& layer, const T* sum, const T* lost, const T* out, int lanes, T* log_det) {
    for (int i = 0; i < lanes; i++, out += layer.features) {
        double total = double(sum[i]) + double(lost[i]);
        for (int64_t d = 0; layer.normal && d < layer.features; d++) total -= 0.5 * double(out[d]) * double(out[d]) + HALF_LOG_2PI;
        log_det[i] = T(total);
    }
}

template <class T> inline void forward_tile(const Layer<T>& layer, const RowMap<T>& map, Workspace<T>& some, T* states, int64_t first, int lanes, T* out, T* log_det) {
    typedef Vec<T> V;
    constexpr int L = LANES<T>;
    const int vectors = registers<T>(lanes);
    const int64_t D = layer.features;
    gather<T>(layer, first, lanes, some.input);
    const T* params = evaluate<T>(layer.net, some, states, vectors);
    T moved[TILE], slope[TILE], sum[TILE] = {}, lost[TILE] = {};
    std::memcpy(out + first * D, layer.value + first * D, sizeof(T) * lanes * D);
    for (int64_t m = 0; m < layer.mapped_count; m++, params += map.count * TILE) {
        take_lanes<T>(layer.value + first * D + layer.mapped[m], D, lanes, moved);
        map.call(map.map, moved, params, moved, slope, vectors);
        for (int v = 0; v < vectors; v++) {
            const V before = load<T>(sum + v * L), term = load<T>(slope + v * L), after = before + term, added = after - before;
            store<T>(sum + v * L, after);
            store<T>(lost + v * L, load<T>(lost + v * L) + ((before - (after - added)) + (term - added)));
        }
        put_lanes<T>(moved, lanes, out + first * D + layer.mapped[m], D);
    }
    finish_rows<T>(layer, sum, lost, out + first * D, lanes, log_det + first);
}

template <class T> inline int64_t tiles_of(int64_t rows) { return (rows + TILE - 1) / TILE; }

// states: those of all tiles one after the other, or null where nobody will want them.
template <class T> void forward_layer(const Layer<T>& layer, const RowMap<T>& map, T* out, T* log_det, T* states, int64_t rows, int threads) {
    const int64_t pitch = layer.net.rows() * TILE;
    share(tiles_of<T>(rows), 1, threads, [&](int64_t begin, int64_t end) {
        T* memory = room<FOR_TILES>().take<T>(Workspace<T>::size(layer.net, false) + (states ? 0 : pitch));
        Workspace<T> some(memory, layer.net, false);
        for (; begin < end; begin++) {
            const int64_t first = begin * TILE;
            forward_tile<T>(layer, map, some, states ? states + begin * pitch : some.rest, first, int(rows - first < TILE ? rows - first : TILE), out, log_det);
        }
    });
}

template <class T> struct LayerGradients {
    const T *out, *log_det, *made, *states;  // made: what the layer returned, where it is normal
    T *value, *context;
    const int64_t* weights;  // addresses like those of the weights; null where their gradients are not wanted
    bool inputs;             // whether the network's are; else `value` gets what passes through the map alone
};

template <class T>
inline void backward_tile(const Layer<T>& layer, const RowMap<T>& map, const LayerGradients<T>& grad, Workspace<T>& some, int64_t first, int lanes, T* sums, bool fresh) {
    const int vectors = registers<T>(lanes);
    const int64_t D = layer.features, pitch = layer.net.rows() * TILE;
    const T *states = grad.states + first / TILE * pitch, *params = states + pitch - padded(layer.net.outputs()) * TILE;
    gather<T>(layer, first, lanes, some.input);
    T weight[TILE], given[TILE], moved[TILE], made[TILE];
    take_lanes<T>(grad.log_det + first, 1, lanes, weight);
    T* of_value = grad.value + first * D;
    std::memcpy(of_value, grad.out + first * D, sizeof(T) * lanes * D);
    for (int i = 0; layer.normal && i < lanes; i++)
        for (int64_t d = 0; d < D; d++) of_value[i * D + d] -= weight[i] * grad.made[(first + i) * D + d];
    for (int64_t m = 0; m < layer.mapped_count; m++) {
        take_lanes<T>(of_value + layer.mapped[m], D, lanes, given);
        take_lanes<T>(layer.value + first * D + layer.mapped[m], D, lanes, moved);
        const int64_t at = m * map.count * TILE;
        map.pull(map.map, given, weight, moved, params + at, made, some.grad + at, vectors);
        put_lanes<T>(made, lanes, of_value + layer.mapped[m], D);
    }
    if (!sums && !grad.inputs) return;
    const T* of_input = pull<T>(layer.net, some, states, lanes, sums, fresh, grad.inputs);
    if (!grad.inputs) return;
    for (int64_t c = 0; c < layer.given_count; c++, of_input += TILE)
        for (int i = 0; i < lanes; i++) of_value[i * D + layer.given[c]] += of_input[i];
    for (int64_t c = 0; c < layer.contexts; c++, of_input += TILE) put_lanes<T>(of_input, lanes, grad.context + first * layer.contexts + c, layer.contexts);
}

// Tiles of a part of the batch: few enough for two threads to share a small batch, and at most 32 parts.
template <class T> inline int64_t part_of(int64_t rows) {
    const int64_t tiles = tiles_of<T>(rows), least = tiles > 4 ? 2 : 1, part = (tiles + 31) / 32;
    return part < least ? least : part;
}

// Parts' sums of a network's gradients, (parts, count), into the gradients themselves.
template <class T> inline void add_parts(const Network<T>& net, const T* sums, int64_t parts, const int64_t* weights, int threads) {
    const int64_t count = sums_count(net);
    for (const auto& layer : net.layers) {
        const int64_t rows = layer.weight.rows, columns = layer.weight.columns, pitch = padded(columns);
        T *of_weight = reinterpret_cast<T*>(*weights++), *of_bias = reinterpret_cast<T*>(*weights++);
        const auto total = [&](const T* at) {
            double sum = 0;
            for (int64_t part = 0; part < parts; part++) sum += double(at[part * count]);
            return T(sum);
        };
        share(rows, 8, rows * columns * parts < 30'000 ? 1 : threads, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++)
                for (int64_t c = 0; c < columns; c++) of_weight[r * columns + c] = total(sums + r * pitch + c);
        });
        for (int64_t r = 0; r < rows; r++) of_bias[r] = total(sums + rows * pitch + r);
        sums += rows * (pitch + 1);
    }
}

template <class T> void backward_layer(const Layer<T>& layer, const RowMap<T>& map, const LayerGradients<T>& grad, int64_t rows, int threads) {
    const int64_t tiles = tiles_of<T>(rows), part = part_of<T>(rows), parts = (tiles + part - 1) / part, count = sums_count(layer.net);
    T* sums = grad.weights ? room<FOR_SUMS>().take<T>(parts * count) : nullptr;
    share(parts, 1, threads, [&](int64_t begin, int64_t end) {
        Workspace<T> some(room<FOR_TILES>().take<T>(Workspace<T>::size(layer.net, true)), layer.net, true);
        for (; begin < end; begin++)
            for (int64_t tile = begin * part; tile < tiles && tile < (begin + 1) * part; tile++) {
                const int64_t first = tile * TILE;
                const int lanes = int(rows - first < TILE ? rows - first : TILE);
                backward_tile<T>(layer, map, grad, some, first, lanes, sums ? sums + begin * count : nullptr, tile == begin * part);
            }
    });
    if (sums) add_parts<T>(layer.net, sums, parts, grad.weights, threads);
    room<FOR_SUMS>().trim();
}

// The C interface of a layer over a map, beside that of the map itself: conditioned_NAME_float32 and so on.
#define EXPORT_CONDITIONED_AS(NAME, TYPE, SUFFIX, WITH, ...)                                                                                        \
    extern "C" void conditioned_##NAME##_##SUFFIX(const TYPE* value, const TYPE* context, const int64_t* weights, const int64_t* plan, TYPE* out,   \
                                                  TYPE* log_det, TYPE* states, int64_t rows, int threads, int normal, int inverse, __VA_ARGS__) {   \
        typedef TYPE T;                                                                                                                             \
        const Layer<T> layer(plan, weights, value, context, normal != 0);                                                                           \
        const auto use = [&](const auto& map) { forward_layer<T>(layer, row_map<T>(map), out, log_det, states, rows, threads); };                               \
        WITH;                                                                                                                                       \
    }                                                                                                                                               \
    extern "C" void conditioned_##NAME##_backward_##SUFFIX(const TYPE* grad_out, const TYPE* grad_log_det, const TYPE* value, const TYPE* context,  \
                                                           const int64_t* weights, const int64_t* plan, const TYPE* made, const TYPE* states,       \
                                                           TYPE* grad_value, TYPE* grad_context, const int64_t* grad_weights,                       \
                                                           int64_t rows, int64_t inputs, int threads, int normal, int inverse, __VA_ARGS__) {       \
        typedef TYPE T;                                                                                                                             \
        const Layer<T> layer(plan, weights, value, context, normal != 0);                                                                           \
        const LayerGradients<T> grad{grad_out, grad_log_det, made, states, grad_value, grad_context, grad_weights, inputs != 0};                    \
        const auto use = [&](const auto& map) { backward_layer<T>(layer, row_map<T>(map), grad, rows, threads); };                                        \
        WITH;                                                                                                                                       \
    }
