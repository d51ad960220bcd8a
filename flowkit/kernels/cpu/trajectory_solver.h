// Trajectories of a field under explicit Runge-Kutta methods: each sample has its own time and step size, lanes are refilled.
#pragma once
#include <atomic>
#include <cmath>

#include "trajectory_field.h"

namespace trajectory {

constexpr int MOST_STAGES = 7;
enum Status { DONE, TOO_MANY_STEPS, STEP_TOO_SMALL, NOT_FINITE };

// Of an embedded pair the last stage is the new state, and becomes the first stage of the next step.
struct Tableau {
    int stages, order, used = 0;  // used: stages that the new state needs
    float a[MOST_STAGES][MOST_STAGES], b[MOST_STAGES], e[MOST_STAGES], c[MOST_STAGES];

    // stages, order, then a row by row, b, e and c, each filled up to MOST_STAGES.
    explicit Tableau(const double* from) : stages(int(from[0])), order(int(from[1])) {
        const double* next = from + 2;
        for (auto& row : a)
            for (float& entry : row) entry = float(*next++);
        for (float* row : {b, e, c})
            for (int i = 0; i < MOST_STAGES; i++) row[i] = float(*next++);
        for (int i = 0; i < stages; i++)
            if (b[i] != 0) used = i + 1;
    }
};

struct Records {  // accepted steps of a sample: t, h and the state before it
    float* at = nullptr;
    int64_t capacity = 0, width = 0, first = 0;  // first: the sample that they begin with

    float* of(int64_t sample, int64_t number) const { return at + ((sample - first) * capacity + number) * width; }
};

struct Problem {
    Field field;
    Tableau tableau;
    int64_t steps, most_steps;  // steps 0: adaptive
    double t0, t1;
    float rtol, atol;
    const float* x;

    float smallest() const { return 1.2e-6f * float(std::fmax(std::fabs(t0), std::fabs(t1))); }
};

struct Solution {
    float *x = nullptr, *log_det = nullptr;
    int32_t* stats = nullptr;  // evaluations, accepted, rejected, status
    Records records;
};


// out = y + h sum_j row_j k_j for the first `count` stages; all (d, TILE).
inline void combine(int64_t d, const float* y, const float* k, const float* row, int count, const float* h, int vectors, float* out) {
    for (int64_t i = 0; i < d; i++)
        for (int v = 0; v < vectors; v++) {
            const int64_t at = i * TILE + v * L;
            V sum{};
            for (int j = 0; j < count; j++)
                if (row[j] != 0) sum += row[j] * load<float>(k + j * d * TILE + at);
            store<float>(out + at, load<float>(y + at) + load<float>(h + v * L) * sum);
        }
}

inline void copy_lane(const float* from, int source, float* to, int target, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) to[i * TILE + target] = from[i * TILE + source];
}
inline void lane_from(const float* row, float* to, int target, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) to[i * TILE + target] = row[i];
}
inline void lane_to(const float* from, int source, float* row, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) row[i] = from[i * TILE + source];
}

// Samples [first, last), handed out in groups to whichever thread asks.
struct Queue {
    std::atomic<int64_t> next;
    const int64_t last, group;

    Queue(int64_t first, int64_t last, int64_t group) : next(first), last(last), group(group) {}
    // The group's first sample; `count` becomes its size, 0 at the end.
    int64_t take(int& count) {
        const int64_t begin = next.fetch_add(group), left = last - begin;
        count = int(left < 0 ? 0 : (left < group ? left : group));
        return begin;
    }
};

// What both kinds of solve need.
struct Worker {
    const Problem& p;
    const Solution& out;
    Queue& queue;
    const int64_t d;
    Arena arena;
    Stage stage;
    Scratch scratch;
    float *y, *k, *slopes, *log_det, *h, *bias;  // slopes: (stages, TILE), the divergences

    Worker(const Problem& problem, const Solution& solution, Queue& samples)
        : p(problem), out(solution), queue(samples), d(problem.field.d), stage(arena, problem.field, false), scratch(arena, problem.field, false) {
        y = arena.take(d * TILE), k = arena.take(MOST_STAGES * d * TILE), slopes = arena.take(MOST_STAGES * TILE), log_det = arena.take(TILE);
        h = arena.take(TILE), bias = p.field.b1_step ? arena.take(p.field.w * TILE) : nullptr;
    }

    void load_bias(float* tile, int lane, int64_t sample) const {
        if (bias) lane_from(p.field.b1 + sample * p.field.b1_step, tile, lane, p.field.w);
    }
    float* stage_of(int i) const { return k + i * d * TILE; }
    bool traced(int i) const { return p.field.trace && (p.tableau.b[i] != 0 || p.tableau.e[i] != 0); }

    void write(int lane, int64_t sample, const int32_t (&stats)[4]) const {
        if (!out.x) return;
        const bool broken = stats[3] == NOT_FINITE;
        for (int64_t i = 0; i < d; i++) out.x[sample * d + i] = broken ? NAN : y[i * TILE + lane];
        out.log_det[sample] = broken ? NAN : log_det[lane];
        std::memcpy(out.stats + 4 * sample, stats, sizeof stats);
    }
    void record(int lane, int64_t sample, int64_t number, float t) const {
        if (number >= out.records.capacity) return;
        float* row = out.records.of(sample, number);
        row[0] = t, row[1] = h[lane];
        lane_to(y, lane, row + 2, d);
    }
};

// Steps of one size, tile after tile.
struct FixedWorker : Worker {
    using Worker::Worker;

    void run() {
        int count;
        for (int64_t first; first = queue.take(count), count > 0;) tile(first, count);
    }

    void tile(int64_t first, int count) {
        const int vectors = registers<float>(count);
        const double size = (p.t1 - p.t0) / double(p.steps);
        for (int lane = 0; lane < TILE; lane++) {
            h[lane] = float(size), log_det[lane] = 0;
            if (lane < count) lane_from(p.x + (first + lane) * d, y, lane, d), load_bias(bias, lane, first + lane);
        }
        for (int64_t n = 0; n < p.steps; n++) {
            const double t = p.t0 + double(n) * size;
            for (int lane = 0; lane < count; lane++) record(lane, first + lane, n, float(t));
            step(t, size, vectors);
        }
        for (int lane = 0; lane < count; lane++) {
            float sum = log_det[lane];
            for (int64_t i = 0; i < d; i++) sum += y[i * TILE + lane];
            const int32_t stats[4] = {int32_t(p.steps * p.tableau.used), int32_t(p.steps), 0, std::isfinite(sum) ? DONE : NOT_FINITE};
            write(lane, first + lane, stats);
        }
    }

    void step(double t, double size, int vectors) {
        const Tableau& b = p.tableau;
        for (int i = 0; i < b.used; i++) {
            combine(d, y, k, b.a[i], i, h, vectors, stage.x);
            for (int lane = 0; lane < TILE; lane++) stage.t[lane] = float(t + double(b.c[i]) * size);
            evaluate(p.field, stage, scratch, bias, vectors, stage_of(i), traced(i) ? slopes + i * TILE : nullptr, false);
        }
        combine(d, y, k, b.b, b.used, h, vectors, y);
        if (p.field.trace) combine_slopes(vectors);
    }

    void combine_slopes(int vectors) const { combine(1, log_det, slopes, p.tableau.b, p.tableau.used, h, vectors, log_det); }
};

}  // namespace trajectory
