// A dense network on a tile of samples, and its pullback: h_l = act(W_l h_(l-1) + b_l), the last layer without the activation.
//
// A hidden layer leaves its state: its value h where the activation's slope is a function of it, else what the activation was given.
#pragma once
#include "functions.h"
#include "products.h"

enum HiddenActivation { RELU, LEAKY_RELU, TANH_UNIT, ELU_UNIT, SILU_UNIT };

template <class T, int activation> struct Unit {
    typedef Vec<T> V;
    static constexpr bool keeps_value = activation != SILU_UNIT;
    static INLINE V sigmoid(V z) {
        const V e = exponential<T>(z > T(0) ? -z : z);
        return (z > T(0) ? all<T>(1) : e) / (T(1) + e);
    }
    static INLINE V value(V z) {
        if (activation == RELU) return z < T(0) ? V{} : z;  // NaN stays NaN
        if (activation == LEAKY_RELU) return z < T(0) ? T(0.01) * z : z;
        if (activation == TANH_UNIT) return hyperbolic_tangent<T>(z);
        if (activation == ELU_UNIT) return z > T(0) ? z : exponential<T>(z > T(0) ? V{} : z) - T(1);
        return z * sigmoid(z);
    }
    // g times the slope, from the state.
    static INLINE V pull(V state, V g) {
        if (activation == RELU) return state <= T(0) ? V{} : g;
        if (activation == LEAKY_RELU) return state <= T(0) ? T(0.01) * g : g;
        if (activation == TANH_UNIT) return g * (T(1) - state * state);
        if (activation == ELU_UNIT) return state <= T(0) ? g * (state + T(1)) : g;
        const V on = sigmoid(state);
        return g * on * (T(1) + state * (T(1) - on));
    }
};

// Runs `run` with the activation as a constant.
template <class T, class Run> inline void with_activation(int activation, const Run& run) {
    switch (activation) {
        case RELU: return run(Unit<T, RELU>());
        case LEAKY_RELU: return run(Unit<T, LEAKY_RELU>());
        case TANH_UNIT: return run(Unit<T, TANH_UNIT>());
        case ELU_UNIT: return run(Unit<T, ELU_UNIT>());
        case SILU_UNIT: return run(Unit<T, SILU_UNIT>());
    }
}

// rows of a tile gain a number each
template <class T> inline void add_bias(T* rows, const T* bias, int64_t count, int vectors) {
    for (int64_t j = 0; j < count; j++)
        for (int v = 0; v < vectors; v++) store<T>(rows + j * TILE + v * LANES<T>, load<T>(rows + j * TILE + v * LANES<T>) + bias[j]);
}

// rows += bias, then the activation: the state stays in `rows`, the value goes to `value`, which may be the same where that is the state.
template <class T> SHARED void activate(int activation, T* rows, const T* bias, int64_t count, int vectors, T* value) {
    with_activation<T>(activation, [&](auto unit) {
        for (int64_t j = 0; j < count; j++)
            for (int v = 0; v < vectors; v++) {
                const int64_t i = j * TILE + v * LANES<T>;
                const Vec<T> z = load<T>(rows + i) + bias[j], h = unit.value(z);
                if (!unit.keeps_value) store<T>(rows + i, z);
                store<T>(value + i, h);
            }
    });
}

template <class T> struct Network {
    struct Layer {
        Matrix<T> weight;
        const T* bias;
    };
    std::vector<Layer> layers;
    int activation;

    int64_t inputs() const { return layers.front().weight.columns; }
    int64_t outputs() const { return layers.back().weight.rows; }
    bool keeps_value() const { return activation != SILU_UNIT; }
    // rows of all layers, each a whole number of registers high so that it can be turned
    int64_t rows() const {
        int64_t sum = 0;
        for (const Layer& layer : layers) sum += padded(layer.weight.rows);
        return sum;
    }
    int64_t widest() const {
        int64_t most = padded(inputs());
        for (const Layer& layer : layers) most = padded(layer.weight.rows) > most ? padded(layer.weight.rows) : most;
        return most;
    }
};

// Memory that every tile uses anew, cut from one piece.
template <class T> struct Workspace {
    T *input, *value, *grad, *other, *turned, *rest;

    static int64_t size(const Network<T>& net, bool backward) { return (padded(net.inputs()) + (backward ? 4 : 1) * net.widest()) * TILE; }

    Workspace(T* memory, const Network<T>& net, bool backward) : input(memory), value(input + padded(net.inputs()) * TILE) {
        const int64_t tile = net.widest() * TILE;
        rest = value + tile;
        if (backward) grad = rest, other = grad + tile, turned = other + tile, rest = turned + tile;
        std::memset(input, 0, sizeof(T) * padded(net.inputs()) * TILE);
    }
};

// The states of the hidden layers and the outputs, one layer after the other in `states`; returns where the outputs are.
template <class T> inline T* evaluate(const Network<T>& net, Workspace<T>& some, T* states, int vectors) {
    const T* below = some.input;
    for (size_t l = 0; l < net.layers.size(); l++) {
        const auto& layer = net.layers[l];
        apply<T>(layer.weight, below, states, vectors);
        if (l + 1 == net.layers.size()) break;
        T* value = net.keeps_value() ? states : some.value;
        activate<T>(net.activation, states, layer.bias, layer.weight.rows, vectors, value);
        below = value, states += padded(layer.weight.rows) * TILE;
    }
    add_bias<T>(states, net.layers.back().bias, net.outputs(), vectors);
    return states;
}

// How many gradients of a network's numbers there are: of each layer (rows, padded columns), then the biases.
template <class T> inline int64_t sums_count(const Network<T>& net) {
    int64_t sum = 0;
    for (const auto& layer : net.layers) sum += layer.weight.rows * (padded(layer.weight.columns) + 1);
    return sum;
}

// Adds to the gradients of a layer, or sets them if they are fresh, what the cotangents of its outputs and the values of its inputs make.
template <class T> SHARED void add_outer(const Matrix<T>& weight, Workspace<T>& some, const T* grad, const T* value, int lanes, T* sums, bool fresh) {
    const int64_t pitch = padded(weight.columns);
    turn<T>(value, pitch, registers<T>(lanes), some.turned);
    outer<T>(grad, weight.rows, some.turned, sums, pitch, lanes, !fresh);
    for (int64_t j = 0; j < weight.rows; j++) {
        double sum = 0;
        for (int i = 0; i < lanes; i++) sum += double(grad[j * TILE + i]);
        T& bias = sums[weight.rows * pitch + j];
        bias = T(fresh ? sum : double(bias) + sum);
    }
}

// From the cotangents of the outputs, in `some.grad`: those of all weights, added to `sums` if there is one, and those of the inputs, which
// are returned if they are wanted.
template <class T> inline const T* pull(const Network<T>& net, Workspace<T>& some, const T* states, int lanes, T* sums, bool fresh, bool inputs) {
    const int vectors = registers<T>(lanes);
    T *grad = some.grad, *next = some.other;
    states += net.rows() * TILE;
    if (sums) sums += sums_count(net);
    for (size_t l = net.layers.size(); l-- > 0;) {
        const Matrix<T>& weight = net.layers[l].weight;
        states -= padded(weight.rows) * TILE;
        const T *state = l ? states - padded(weight.columns) * TILE : some.input, *value = state;
        if (sums) {
            if (l && !net.keeps_value()) {
                value = some.value;
                with_activation<T>(net.activation, [&](auto unit) {
                    for (int64_t i = 0; i < padded(weight.columns) * TILE; i += LANES<T>) store<T>(some.value + i, unit.value(load<T>(state + i)));
                });
            }
            sums -= weight.rows * (padded(weight.columns) + 1);
            add_outer<T>(weight, some, grad, value, lanes, sums, fresh);
        }
        if (l == 0 && !inputs) return nullptr;
        apply<T>(weight.turned(), grad, next, vectors);
        if (l)
            with_activation<T>(net.activation, [&](auto unit) {
                for (int64_t j = 0; j < weight.columns; j++)
                    for (int v = 0; v < vectors; v++) {
                        const int64_t i = j * TILE + v * LANES<T>;
                        store<T>(next + i, unit.pull(load<T>(state + i), load<T>(next + i)));
                    }
            });
        T* const done = grad;
        grad = next, next = done;
    }
    return grad;
}
