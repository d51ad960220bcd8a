// The pullback of (v, div v) through one evaluation of the field: step 2 of trajectory_field.h.
#pragma once
#include "trajectory_field.h"

namespace trajectory {

// Sums over lanes and steps of what belongs to the weights. Those of biases, rates and gates keep one register a unit.
struct Sums {
    float *w1, *w2, *w3, *k;  // (d, pitch) transposed, (w, pitch), (d, pitch), (w, pitch)
    float *b1, *b2, *b3, *r1, *r2, *r3;
    float* gates;  // (2 w + d, 2) registers

    Sums(Arena& arena, const Field& f) {
        w1 = arena.take(f.d * f.pitch()), w2 = arena.take(f.w * f.pitch()), w3 = arena.take(f.d * f.pitch());
        k = f.couples() ? arena.take(f.w * f.pitch()) : nullptr;
        for (float** each : {&b1, &b2, &r1, &r2}) *each = arena.take(f.w * L);
        for (float** each : {&b3, &r3}) *each = arena.take(f.d * L);
        gates = f.gated ? arena.take((2 * f.w + f.d) * 2 * L) : nullptr;
    }
};

inline void add_to(float* sum, V value) { store<float>(sum, load<float>(sum) + value); }
// g = sigmoid(p t + q)
INLINE void add_gate(float* sums, V grad, V gate, V t) {
    const V inner = grad * gate * (1.0f - gate);
    add_to(sums, inner * t), add_to(sums + L, inner);
}

struct Pullback {
    const Field& f;
    Scratch& some;
    Sums& sums;
    float* lane_b1;  // a tile of gradients of each lane's b1, or null
    int vectors;

    // x_bar from (k_bar, c); c null where the divergence has no part.
    void run(Stage& s, const float* k_bar, const float* c, float* x_bar) const {
        const int64_t pitch = f.pitch();
        const int lanes = vectors * L;
        last_layer(s, k_bar);
        apply(f.w3_turned, some.u3, some.a, vectors);
        turn(s.two.h, pitch, vectors, some.turned);
        outer(some.u3, f.d, some.turned, sums.w3, pitch, lanes);
        second_layer(s, c);  // u2, and c p2 in some.b
        apply(f.w2_turned, some.u2, some.a, vectors);
        turn(s.one.h, pitch, vectors, some.turned);
        outer(some.u2, f.w, some.turned, sums.w2, pitch, lanes);
        if (c) f.own_times ? rows_back(s) : coupling_back(s, lanes);  // n in some.c
        first_layer(s, c != nullptr);  // u1
        apply(f.w1_turned, some.u1, x_bar, vectors);
        turn(some.u1, pitch, vectors, some.turned);
        outer(s.x, f.d, some.turned, sums.w1, pitch, lanes);
    }

    void last_layer(const Stage& s, const float* k_bar) const {
        for (int64_t i = 0; i < f.d; i++)
            for (int v = 0; v < vectors; v++) {
                const int64_t at = i * TILE + v * L;
                const V t = load<float>(s.t + v * L), given = load<float>(k_bar + at);
                const V u = f.gated ? load<float>(s.g3 + at) * given : given;
                store<float>(some.u3 + at, u);
                add_to(sums.b3 + i * L, u), add_to(sums.r3 + i * L, t * given);
                if (f.gated) add_gate(sums.gates + (2 * f.w + i) * 2 * L, given * load<float>(s.z3 + at), load<float>(s.g3 + at), t);
            }
    }

    void second_layer(const Stage& s, const float* c) const {
        const Hidden& at = s.two;
        for (int64_t j = 0; j < f.w; j++)
            for (int v = 0; v < vectors; v++) {
                const int64_t i = j * TILE + v * L;
                const V t = load<float>(s.t + v * L), slope = load<float>(at.slope + i);
                V grad = slope * load<float>(some.a + i), of_gate{};
                if (c) {
                    const V weight = load<float>(c + v * L), m = weight * load<float>(s.m + i);
                    const V bent = load<float>(at.bend + i) * m;
                    grad += f.gated ? load<float>(at.g + i) * bent : bent;
                    store<float>(some.b + i, weight * load<float>(at.p + i));
                    if (f.gated) of_gate = slope * m;
                }
                V u = grad;
                if (f.gated) {
                    const V g = load<float>(at.g + i);
                    u = g * grad;
                    add_gate(sums.gates + (f.w + j) * 2 * L, grad * load<float>(at.z + i) + of_gate, g, t);
                }
                store<float>(some.u2 + i, u);
                add_to(sums.b2 + j * L, u), add_to(sums.r2 + j * L, t * grad);
            }
    }

    void first_layer(const Stage& s, bool traced) const {
        const Hidden& at = s.one;
        for (int64_t j = 0; j < f.w; j++)
            for (int v = 0; v < vectors; v++) {
                const int64_t i = j * TILE + v * L;
                const V t = load<float>(s.t + v * L), slope = load<float>(at.slope + i);
                V grad = slope * load<float>(some.a + i), of_gate{};
                if (traced) {
                    const V n = load<float>(some.c + i), bent = load<float>(at.bend + i) * n;
                    grad += f.gated ? load<float>(at.g + i) * bent : bent;
                    if (f.gated) of_gate = slope * n;
                }
                V u = grad;
                if (f.gated) {
                    const V g = load<float>(at.g + i);
                    u = g * grad;
                    add_gate(sums.gates + j * 2 * L, grad * load<float>(at.z + i) + of_gate, g, t);
                }
                store<float>(some.u1 + i, u);
                lane_b1 ? add_to(lane_b1 + i, u) : add_to(sums.b1 + j * L, u);
                add_to(sums.r1 + j * L, t * grad);
            }
    }

    void coupling_back(Stage& s, int lanes) const {
        const int64_t pitch = f.pitch();
        apply(s.coupling.turned, some.b, some.c, vectors);
        turn(s.one.p, pitch, vectors, some.turned);
        if (!f.gated) return outer(some.b, f.w, some.turned, sums.k, pitch, lanes);
        outer(some.b, f.w, some.turned, some.sum, pitch, lanes, false);
        spread(s.coupling.m, some.sum, s.g3, s.t, TILE);
    }

    // From dK to W1, W2, W3 and, with gates, g3; `gate` has one every `step` numbers, `t` is the time they share.
    void spread(const float* m, float* dk, const float* gate, const float* t, int64_t step) const {
        const int64_t pitch = f.pitch();
        for (int64_t j = 0; j < f.w; j++)
            for (int64_t k = 0; k < f.w; k++) {
                const int64_t at = j * pitch + k;
                sums.w2[at] += dk[at] * m[at];
                dk[at] *= f.W2[j * f.w + k];  // now dM
            }
        for (int64_t i = 0; i < f.d; i++) {
            const float g = gate ? gate[i * step] : 1.0f, *column = f.columns + i * pitch;
            float of_gate = 0, *to = sums.w1 + i * pitch;
            for (int64_t j = 0; j < f.w; j++) {
                const float weight = f.W3[i * f.w + j], both = g * weight, *row = dk + j * pitch;
                V sum{};
                for (int64_t k = 0; k < pitch; k += L) {
                    const V x = load<float>(row + k);
                    sum += x * load<float>(column + k);
                    store<float>(to + k, load<float>(to + k) + both * x);
                }
                float total = 0;
                for (int l = 0; l < L; l++) total += sum[l];
                sums.w3[i * pitch + j] += g * total;
                of_gate += weight * total;
            }
            if (!gate) continue;
            const float inner = of_gate * g * (1.0f - g);
            sums.gates[(2 * f.w + i) * 2 * L] += inner * t[0], sums.gates[(2 * f.w + i) * 2 * L + L] += inner;
        }
    }

    // n and the weights' parts where m was summed over the rows of W3; c p2 lies in some.b.
    void rows_back(const Stage& s) const {
        const int64_t pitch = f.pitch(), tile = f.w * TILE;
        const int lanes = vectors * L;
        float *u = some.u1, *m = some.m, *back = some.back;
        std::memset(some.c, 0, sizeof(float) * tile);
        for (int64_t i = 0; i < f.d; i++) {
            for (int64_t k = 0; k < f.w; k++)
                for (int v = 0; v < vectors; v++) store<float>(u + k * TILE + v * L, f.W1[k * f.d + i] * load<float>(s.one.p + k * TILE + v * L));
            apply(f.w2, u, m, vectors);
            turn(u, pitch, vectors, some.turned);
            V of_gate[TILE / L] = {};
            for (int64_t j = 0; j < f.w; j++) {
                const float weight = f.W3[i * f.w + j];
                V sum{};
                for (int v = 0; v < vectors; v++) {
                    const int64_t at = j * TILE + v * L;
                    const V g = load<float>(s.g3 + i * TILE + v * L), p = load<float>(some.b + at), term = p * load<float>(m + at);
                    sum += g * term, of_gate[v] += weight * term;
                    store<float>(m + at, weight * g * p);
                }
                for (int l = 0; l < L; l++) sums.w3[i * pitch + j] += sum[l];
            }
            outer(m, f.w, some.turned, sums.w2, pitch, lanes);
            apply(f.w2_turned, m, back, vectors);
            for (int64_t k = 0; k < f.w; k++) {
                V sum{};
                for (int v = 0; v < vectors; v++) {
                    const int64_t at = k * TILE + v * L;
                    const V n = load<float>(back + at);
                    sum += n * load<float>(s.one.p + at);
                    add_to(some.c + at, f.W1[k * f.d + i] * n);
                }
                for (int l = 0; l < L; l++) sums.w1[i * pitch + k] += sum[l];
            }
            for (int v = 0; v < vectors; v++)
                add_gate(sums.gates + (2 * f.w + i) * 2 * L, of_gate[v], load<float>(s.g3 + i * TILE + v * L), load<float>(s.t + v * L));
        }
    }
};

}  // namespace trajectory
