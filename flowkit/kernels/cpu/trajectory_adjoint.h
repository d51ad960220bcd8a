// The discrete adjoint: accepted steps taken back one by one, stages computed again, step sizes constant.
//
// 1. A step is y1 = y + h sum_i b_i k_i, k_i = v(t + c_i h, Y_i), Y_i = y + h sum_j a_ij k_j, and log_det gains h sum_i b_i div_i.
// 2. From the last stage to the first: k_bar_i = h (b_i y_bar + sum_{j>i} a_ji Y_bar_j), and Y_bar_i pulls (k_bar_i, h b_i log_det_bar)
//    back through stage i; then y_bar gains all Y_bar_i.
// 3. Samples come in parts whose number depends on the batch alone. A part sums its weights' gradients in a fixed order, longest
//    trajectories first, and parts are added in turn: the number of threads does not change a bit.
#pragma once
#include <algorithm>

#include "trajectory_adaptive.h"
#include "trajectory_pullback.h"

namespace trajectory {

struct Cotangents {
    const float *x, *log_det;
    float *of_x, *of_b1;  // of_b1: (B, w) where each sample has its own, else null
};

struct AdjointWorker {
    const Problem& p;
    const Cotangents& given;
    const Records& records;
    const int32_t* stats;
    const int64_t d, w;
    Arena arena;
    std::vector<Stage> stages;
    Scratch scratch;
    Sums sums;
    float *y, *k, *h, *t, *y_bar, *k_bar, *stage_bars, *weight, *c, *bias, *bias_bar;
    int64_t sample[TILE], left[TILE];  // left: steps to take back
    int active = 0;

    AdjointWorker(const Problem& problem, const Cotangents& cotangents, const Records& steps, const int32_t* counts)
        : p(problem), given(cotangents), records(steps), stats(counts), d(problem.field.d), w(problem.field.w), scratch(arena, problem.field, true),
          sums(arena, problem.field) {
        for (int i = 0; i < p.tableau.used; i++) stages.emplace_back(arena, p.field, true);
        y = arena.take(d * TILE), k = arena.take(MOST_STAGES * d * TILE), h = arena.take(TILE), t = arena.take(TILE), y_bar = arena.take(d * TILE);
        k_bar = arena.take(d * TILE), stage_bars = arena.take(MOST_STAGES * d * TILE), weight = arena.take(TILE), c = arena.take(TILE);
        bias = given.of_b1 ? arena.take(w * TILE) : nullptr, bias_bar = given.of_b1 ? arena.take(w * TILE) : nullptr;
    }

    // Samples of a part in the order in which they get lanes.
    void run(const std::vector<int64_t>& order) {
        size_t next = 0;
        for (;;) {
            while (active < TILE && next < order.size()) admit(active, order[next++]);
            if (!active) return;
            for (int lane = active; lane < registers<float>(active) * L; lane++) clear(lane);
            for (int lane = 0; lane < active; lane++) read(lane);
            step_back(registers<float>(active));
            for (int lane = active - 1; lane >= 0; lane--)
                if (!left[lane]) leave(lane);
        }
    }

    void admit(int lane, int64_t which) {
        lane_from(given.x + which * d, y_bar, lane, d);
        if (bias) {
            lane_from(p.field.b1 + which * p.field.b1_step, bias, lane, w);
            for (int64_t j = 0; j < w; j++) bias_bar[j * TILE + lane] = 0;
        }
        sample[lane] = which, left[lane] = stats[4 * which + 1], weight[lane] = given.log_det[which];
        if (left[lane]) active++;
        else finish(lane);
    }
    // A lane without a sample adds nothing.
    void clear(int lane) {
        for (int64_t i = 0; i < d; i++) y[i * TILE + lane] = y_bar[i * TILE + lane] = 0;
        if (bias)
            for (int64_t j = 0; j < w; j++) bias[j * TILE + lane] = 0;
        t[lane] = t[0], h[lane] = 0, weight[lane] = 0;
    }
    void read(int lane) {
        const float* row = records.of(sample[lane], --left[lane]);
        t[lane] = row[0], h[lane] = row[1];
        lane_from(row + 2, y, lane, d);
    }
    void finish(int lane) {
        lane_to(y_bar, lane, given.of_x + sample[lane] * d, d);
        if (bias) lane_to(bias_bar, lane, given.of_b1 + sample[lane] * w, w);
    }
    void leave(int lane) {
        finish(lane);
        const int from = --active;
        if (from == lane) return;
        copy_lane(y_bar, from, y_bar, lane, d);
        if (bias) copy_lane(bias, from, bias, lane, w), copy_lane(bias_bar, from, bias_bar, lane, w);
        sample[lane] = sample[from], left[lane] = left[from], weight[lane] = weight[from];
    }

    void step_back(int vectors) {
        const Tableau& b = p.tableau;
        const int count = b.used;
        for (int i = 0; i < count; i++) {
            Stage& s = stages[i];
            const bool traced = p.field.trace && b.b[i] != 0;
            combine(d, y, k, b.a[i], i, h, vectors, s.x);
            for (int v = 0; v < vectors; v++) store<float>(s.t + v * L, load<float>(t + v * L) + b.c[i] * load<float>(h + v * L));
            evaluate(p.field, s, scratch, bias, vectors, i + 1 < count ? k + i * d * TILE : nullptr, traced ? c : nullptr, true);
        }
        const Pullback pullback{p.field, scratch, sums, bias_bar, vectors};
        for (int i = count - 1; i >= 0; i--) {
            const bool traced = p.field.trace && b.b[i] != 0;
            gather(i, vectors);
            for (int v = 0; v < vectors; v++) store<float>(c + v * L, b.b[i] * load<float>(h + v * L) * load<float>(weight + v * L));
            pullback.run(stages[i], k_bar, traced ? c : nullptr, stage_bars + i * d * TILE);
        }
        for (int i = count - 1; i >= 0; i--)
            for (int64_t r = 0; r < d; r++)
                for (int v = 0; v < vectors; v++) add_to(y_bar + r * TILE + v * L, load<float>(stage_bars + (i * d + r) * TILE + v * L));
    }

    // k_bar of stage i.
    void gather(int i, int vectors) const {
        const Tableau& b = p.tableau;
        for (int64_t r = 0; r < d; r++)
            for (int v = 0; v < vectors; v++) {
                const int64_t at = r * TILE + v * L;
                V sum = b.b[i] * load<float>(y_bar + at);
                for (int j = i + 1; j < b.used; j++)
                    if (b.a[j][i] != 0) sum += b.a[j][i] * load<float>(stage_bars + j * d * TILE + at);
                store<float>(k_bar + at, load<float>(h + v * L) * sum);
            }
    }

    // The part's gradients of W1, b1, r1, W2, b2, r2, W3, b3, r3 and gates, one after the other.
    void write(float* to) {
        const int64_t pitch = p.field.pitch();
        if (p.field.couples() && !p.field.gated) Pullback{p.field, scratch, sums, nullptr, 0}.spread(p.field.coupling.m, sums.k, nullptr, nullptr, 0);
        const auto vector = [&](const float* registers, int64_t count) {
            for (int64_t j = 0; j < count; j++) {
                float sum = 0;
                for (int l = 0; l < L; l++) sum += registers[j * L + l];
                *to++ = sum;
            }
        };
        const auto matrix = [&](const float* rows, int64_t count) {
            for (int64_t j = 0; j < count; j++, to += w) std::memcpy(to, rows + j * pitch, sizeof(float) * w);
        };
        for (int64_t j = 0; j < w; j++)
            for (int64_t i = 0; i < d; i++) *to++ = sums.w1[i * pitch + j];
        vector(sums.b1, w), vector(sums.r1, w), matrix(sums.w2, w), vector(sums.b2, w), vector(sums.r2, w), matrix(sums.w3, d), vector(sums.b3, d);
        vector(sums.r3, d);
        if (p.field.gated) vector(sums.gates, (2 * w + d) * 2);
    }
};

}  // namespace trajectory
