// A velocity field with two hidden layers on a tile of samples: its value, its divergence, and the pullback of both.
//
// 1. z1 = W1 x + b1, a1 = g1 z1 + r1 t, h1 = act(a1), likewise h2, and v = g3 (W3 h2 + b3) + r3 t. With p_k = g_k act'(a_k):
//        div v = sum_i g3_i sum_jk W3_ij p2_j W2_jk p1_k W1_ki = p2' m,   m = K p1,   K = W2 * (W1 diag(g3) W3)'
//    where all lanes share the time or there are no gates. With gates and a time for each lane, m is summed over the rows of W3:
//        m_j = sum_i g3_i W3_ij (W2 (p1 * W1_:i))_j
// 2. Pullback of (kv, c) for (v, div): with u3 = g3 kv and n = K' (c p2)
//        da2 = act'(a2) W3' u3 + c g2 act''(a2) m,   u2 = g2 da2
//        da1 = act'(a1) W2' u2 + g1 act''(a1) n,     u1 = g1 da1,    dx = W1' u1
//        dW3 = u3 h2', dW2 = u2 h1', dW1 = u1 x', dK = c p2 p1', db_k = u_k, dr_k = t da_k (t kv for the last)
//        dg3 = kv z3 + ..., dg2 = da2 z2 + c act'(a2) m, dg1 = da1 z1 + act'(a1) n
//    and from dK: M = (W1 diag(g3) W3)', dW2 += dK * M, and through dM = dK * W2 what belongs to W1, W3 and g3.
#pragma once
#include "trajectory_activations.h"

namespace trajectory {

// The last factor's matrices M and K at one set of gates; all rows padded.
struct Coupling {
    float* m = nullptr;  // (w, padded w)
    Packed k{}, turned{};
};

struct Field {
    int64_t d, w;
    Activation activation;
    bool trace, gated, own_times;  // own_times: gates and a time for each lane
    const float *W1, *b1, *r1, *W2, *b2, *r2, *W3, *b3, *r3, *gates;
    int64_t b1_step;  // from a sample's b1 to the next one's; 0 where they share it
    Packed w1{}, w2{}, w3{}, w1_turned{}, w2_turned{}, w3_turned{};
    float* columns = nullptr;  // the rows of W1', (d, padded w)
    Coupling coupling{};

    int64_t pitch() const { return padded(w); }
    bool couples() const { return trace && !own_times; }

    // `backward`: the pullback's matrices too.
    void prepare(Arena& arena, bool backward) {
        w1 = pack(arena, W1, w, d, d, 1), w2 = pack(arena, W2, w, w, w, 1), w3 = pack(arena, W3, d, w, w, 1);
        if (backward || couples()) w3_turned = pack(arena, W3, w, d, 1, w);
        if (backward) w1_turned = pack(arena, W1, d, w, 1, d), w2_turned = pack(arena, W2, w, w, 1, w);
        columns = arena.take(d * pitch());
        for (int64_t k = 0; k < w; k++)
            for (int64_t i = 0; i < d; i++) columns[i * pitch() + k] = W1[k * d + i];
        if (!couples() || gated) return;
        coupling = couple(arena, backward);
        update(coupling, columns);
    }
    Coupling couple(Arena& arena, bool backward) const {
        return {arena.take(w * pitch()), pack(arena, w, w), backward ? pack(arena, w, w) : Packed{}};
    }

    // From the rows of W1' times g3.
    void update(Coupling& out, const float* rows) const {
        multiply(w3_turned, rows, pitch(), out.m, pitch(), pitch() / L);
        float *k = out.k.at, *turned = out.turned.at;
        for (int64_t first = 0; first < w; first += ROWS) {
            const int64_t last = first + ROWS < w ? first + ROWS : w;
            for (int64_t c = 0; c < w; c++)
                for (int64_t r = first; r < last; r++) *k++ = W2[r * w + c] * out.m[r * pitch() + c];
            for (int64_t c = 0; turned && c < w; c++)
                for (int64_t r = first; r < last; r++) *turned++ = W2[c * w + r] * out.m[c * pitch() + r];
        }
    }
};

// What a hidden layer leaves: (w, TILE) each. p is g * slope, the slope itself without gates; g and z only with gates.
struct Hidden {
    float *h, *slope, *bend, *p, *z, *g;

    Hidden(Arena& arena, const Field& f, bool curved) {
        const int64_t size = f.pitch() * TILE;
        h = arena.take(size), slope = arena.take(size), bend = curved ? arena.take(size) : nullptr;
        p = f.gated ? arena.take(size) : slope, z = f.gated ? arena.take(size) : nullptr, g = f.gated ? arena.take(size) : nullptr;
    }
};

// One evaluation of the field.
struct Stage {
    float *x, *t, *m, *z3, *g3, *scaled;
    Hidden one, two;
    Coupling coupling;

    Stage(Arena& arena, const Field& f, bool curved) : one(arena, f, curved), two(arena, f, curved) {
        x = arena.take(f.d * TILE), t = arena.take(TILE), m = f.trace ? arena.take(f.w * TILE) : nullptr;
        z3 = f.gated ? arena.take(f.d * TILE) : nullptr, g3 = f.gated ? arena.take(f.d * TILE) : nullptr;
        scaled = f.gated ? arena.take(f.d * f.pitch()) : nullptr;
        if (f.couples()) coupling = f.gated ? f.couple(arena, curved) : f.coupling;
    }
};

// Tiles that are overwritten by every evaluation.
struct Scratch {
    float *a, *b, *c, *u1, *u2, *u3, *turned, *sum, *m, *back;

    Scratch(Arena& arena, const Field& f, bool backward) {
        const int64_t size = f.pitch() * TILE;
        a = arena.take(size), b = arena.take(size);
        if (!backward) return;
        c = arena.take(size), u1 = arena.take(size), u2 = arena.take(size), u3 = arena.take(f.d * TILE), turned = arena.take(size);
        m = f.own_times ? arena.take(size) : nullptr, back = f.own_times ? arena.take(size) : nullptr;
        sum = f.couples() && f.gated ? arena.take(f.w * f.pitch()) : nullptr;
    }
};

// sigmoid(p t + q) of a unit.
INLINE V gate_at(const float* pair, V t) { return sigmoid(pair[0] * t + pair[1]); }

struct Layer {
    const float *bias, *lane_bias, *rate, *gates;  // lane_bias: a tile, or null
};

// h holds W h_before.
template <int activation> inline void activate(const Hidden& at, const Layer& layer, const float* t, int64_t w, int vectors, bool curved) {
    for (int64_t j = 0; j < w; j++)
        for (int v = 0; v < vectors; v++) {
            const int64_t i = j * TILE + v * L;
            const V time = load<float>(t + v * L);
            const V z = load<float>(at.h + i) + (layer.lane_bias ? load<float>(layer.lane_bias + i) : all<float>(layer.bias[j]));
            V g{}, a = z;
            if (layer.gates) g = gate_at(layer.gates + 2 * j, time), a = g * z;
            const Curve found = curve<activation>(a + layer.rate[j] * time);
            store<float>(at.h + i, found.value), store<float>(at.slope + i, found.slope);
            if (curved) store<float>(at.bend + i, found.bend);
            if (layer.gates) store<float>(at.p + i, g * found.slope), store<float>(at.z + i, z), store<float>(at.g + i, g);
        }
}

inline void activate(const Field& f, const Hidden& at, const Layer& layer, const float* t, int vectors, bool curved) {
    switch (f.activation) {
        case TANH: return activate<TANH>(at, layer, t, f.w, vectors, curved);
        case SOFTPLUS: return activate<SOFTPLUS>(at, layer, t, f.w, vectors, curved);
        case SILU: return activate<SILU>(at, layer, t, f.w, vectors, curved);
        case ELU: return activate<ELU>(at, layer, t, f.w, vectors, curved);
        case SELU: return activate<SELU>(at, layer, t, f.w, vectors, curved);
        case GELU: return activate<GELU>(at, layer, t, f.w, vectors, curved);
    }
}

// m where gates differ from lane to lane.
inline void trace_by_rows(const Field& f, Stage& s, Scratch& some, int vectors) {
    std::memset(s.m, 0, sizeof(float) * f.w * TILE);
    for (int64_t i = 0; i < f.d; i++) {
        for (int64_t k = 0; k < f.w; k++)
            for (int v = 0; v < vectors; v++) store<float>(some.a + k * TILE + v * L, f.W1[k * f.d + i] * load<float>(s.one.p + k * TILE + v * L));
        apply(f.w2, some.a, some.b, vectors);
        for (int64_t j = 0; j < f.w; j++)
            for (int v = 0; v < vectors; v++) {
                float* m = s.m + j * TILE + v * L;
                store<float>(m, load<float>(m) + f.W3[i * f.w + j] * load<float>(s.g3 + i * TILE + v * L) * load<float>(some.b + j * TILE + v * L));
            }
    }
}

// The gates of the last layer, and what shared ones make of the coupling.
inline void last_gates(const Field& f, Stage& s, int vectors) {
    const float* gates = f.gates + 4 * f.w;
    for (int64_t i = 0; i < f.d; i++) {
        for (int v = 0; v < vectors; v++) store<float>(s.g3 + i * TILE + v * L, gate_at(gates + 2 * i, load<float>(s.t + v * L)));
        for (int64_t k = 0; k < f.pitch(); k++) s.scaled[i * f.pitch() + k] = s.g3[i * TILE] * f.columns[i * f.pitch() + k];
    }
    if (f.couples()) f.update(s.coupling, s.scaled);
}

// The field at (s.t, s.x) on so many registers of lanes: v (d, TILE) and div (TILE), each only where wanted.
inline void evaluate(const Field& f, Stage& s, Scratch& some, const float* lane_bias, int vectors, float* v, float* div, bool curved) {
    apply(f.w1, s.x, s.one.h, vectors);
    activate(f, s.one, {f.b1, f.b1_step ? lane_bias : nullptr, f.r1, f.gated ? f.gates : nullptr}, s.t, vectors, curved);
    apply(f.w2, s.one.h, s.two.h, vectors);
    activate(f, s.two, {f.b2, nullptr, f.r2, f.gated ? f.gates + 2 * f.w : nullptr}, s.t, vectors, curved);
    if (f.gated) last_gates(f, s, vectors);
    if (v || f.gated) {
        float* z = f.gated ? s.z3 : v;
        apply(f.w3, s.two.h, z, vectors);
        for (int64_t i = 0; i < f.d; i++)
            for (int k = 0; k < vectors; k++) {
                const int64_t at = i * TILE + k * L;
                V sum = load<float>(z + at) + f.b3[i];
                store<float>(z + at, sum);
                if (f.gated) sum = sum * load<float>(s.g3 + at);
                if (v) store<float>(v + at, sum + f.r3[i] * load<float>(s.t + k * L));
            }
    }
    if (!div) return;
    if (f.own_times) trace_by_rows(f, s, some, vectors);
    else apply(s.coupling.k, s.one.p, s.m, vectors);
    V sum[TILE / L] = {};
    for (int64_t j = 0; j < f.w; j++)
        for (int k = 0; k < vectors; k++) sum[k] += load<float>(s.two.p + j * TILE + k * L) * load<float>(s.m + j * TILE + k * L);
    for (int k = 0; k < vectors; k++) store<float>(div + k * L, sum[k]);
}

}  // namespace trajectory
