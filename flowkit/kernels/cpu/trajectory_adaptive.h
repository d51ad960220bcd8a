// Steps of each sample's own size: accepted where the error is at most 1, sized by err^(-1/order), begun by Hairer's rule.
#pragma once
#include "trajectory_solver.h"

namespace trajectory {

struct AdaptiveWorker : Worker {
    struct Lane {
        int64_t sample;
        int32_t accepted, rejected;
        bool after_rejection, last, broken;
    };
    // Samples whose first step is known, waiting for a lane.
    struct Waiting {
        float *x, *k, *slope, *h, *bias;
        int64_t first = 0;
        int count = 0, next = 0;
    } waiting;
    Lane lanes[TILE];
    int active = 0, finished = 0;
    bool done[TILE] = {};
    float *t, *error, *factor, *new_slopes, *new_log_det;

    AdaptiveWorker(const Problem& problem, const Solution& solution, Queue& samples) : Worker(problem, solution, samples) {
        t = arena.take(TILE), error = arena.take(TILE), factor = arena.take(TILE), new_log_det = arena.take(TILE);
        waiting.x = arena.take(d * TILE), waiting.k = arena.take(d * TILE), waiting.slope = arena.take(TILE), waiting.h = arena.take(TILE);
        waiting.bias = bias ? arena.take(p.field.w * TILE) : nullptr;
    }

    void run() {
        for (;;) {
            while (active < TILE && (waiting.next < waiting.count || begin_more())) admit(active++);
            if (!active) return;
            attempt(registers<float>(active));
            settle();
        }
    }

    // Root mean square over (x, log_det) of value / (atol + rtol |y|), where y is (x, 0).
    float size_of(const float* value, const float* slope, const float* before, const float* slope_before, int lane) const {
        double sum = 0;
        for (int64_t i = 0; i < d; i++) {
            const int64_t at = i * TILE + lane;
            const double ratio = (value[at] - (before ? before[at] : 0)) / (p.atol + p.rtol * std::fabs(waiting.x[at]));
            sum += ratio * ratio;
        }
        if (slope) {
            const double ratio = (slope[lane] - (slope_before ? slope_before[lane] : 0)) / p.atol;
            sum += ratio * ratio;
        }
        return float(std::sqrt(sum / double(d + (p.field.trace ? 1 : 0))));
    }

    // The next group of the queue: first evaluation and first step size of each sample.
    bool begin_more() {
        waiting.first = queue.take(waiting.count), waiting.next = 0;
        const int count = waiting.count, vectors = registers<float>(count);
        if (!count) return false;
        const float span = float(p.t1 - p.t0), sign = span < 0 ? -1.0f : 1.0f;
        for (int lane = 0; lane < count; lane++) {
            lane_from(p.x + (waiting.first + lane) * d, waiting.x, lane, d), load_bias(waiting.bias, lane, waiting.first + lane);
            stage.t[lane] = float(p.t0);
        }
        float *trial = scratch_stage(), *trial_slope = p.field.trace ? error : nullptr, *slope = p.field.trace ? waiting.slope : nullptr;
        std::memcpy(stage.x, waiting.x, sizeof(float) * d * TILE);
        evaluate(p.field, stage, scratch, waiting.bias, vectors, waiting.k, slope, false);
        for (int lane = 0; lane < count; lane++) {
            const float size = size_of(waiting.x, nullptr, nullptr, nullptr, lane), speed = size_of(waiting.k, slope, nullptr, nullptr, lane);
            waiting.h[lane] = std::fmin(size < 1e-5f || speed < 1e-5f ? 1e-6f : 0.01f * size / speed, std::fabs(span));
            factor[lane] = speed + 0 * size, stage.t[lane] = float(p.t0) + sign * waiting.h[lane];
            for (int64_t i = 0; i < d; i++) stage.x[i * TILE + lane] += sign * waiting.h[lane] * waiting.k[i * TILE + lane];
        }
        evaluate(p.field, stage, scratch, waiting.bias, vectors, trial, trial_slope, false);
        for (int lane = 0; lane < count; lane++) {
            const float guess = waiting.h[lane], change = size_of(trial, trial_slope, waiting.k, slope, lane) / guess, most = std::fmax(factor[lane], change);
            const float next = most <= 1e-15f ? std::fmax(1e-6f, guess * 1e-3f) : std::pow(0.01f / most, 1.0f / float(p.tableau.order));
            waiting.h[lane] = sign * std::fmin(std::fmin(100.0f * guess, std::isfinite(next) ? next : guess), std::fabs(span));
            if (!std::isfinite(factor[lane])) waiting.h[lane] = NAN;  // the field is not finite at the start
        }
        return true;
    }
    float* scratch_stage() const { return stage_of(MOST_STAGES - 1); }

    void admit(int lane) {
        const int from = waiting.next++;
        copy_lane(waiting.x, from, y, lane, d), copy_lane(waiting.k, from, k, lane, d);
        if (bias) copy_lane(waiting.bias, from, bias, lane, p.field.w);
        slopes[lane] = waiting.slope[from], log_det[lane] = 0, t[lane] = float(p.t0), h[lane] = waiting.h[from];
        lanes[lane] = {waiting.first + from, 0, 0, false, false, !std::isfinite(waiting.h[from])};
        limit(lane);
    }
    // The last step ends on t1.
    void limit(int lane) {
        const float left = float(p.t1) - t[lane];
        lanes[lane].last = !(std::fabs(h[lane]) < std::fabs(left));
        if (lanes[lane].last) h[lane] = left;
    }

    void attempt(int vectors) {
        const Tableau& b = p.tableau;
        for (int i = 1; i < b.stages; i++) {
            combine(d, y, k, b.a[i], i, h, vectors, stage.x);
            for (int v = 0; v < vectors; v++) store<float>(stage.t + v * L, load<float>(t + v * L) + b.c[i] * load<float>(h + v * L));
            evaluate(p.field, stage, scratch, bias, vectors, stage_of(i), traced(i) ? slopes + i * TILE : nullptr, false);
        }
        if (p.field.trace) combine(1, log_det, slopes, b.b, b.stages, h, vectors, new_log_det);
        const float count = float(d + (p.field.trace ? 1 : 0));
        for (int v = 0; v < vectors; v++) {
            V sum{};
            for (int64_t i = 0; i < d; i++) sum += square_error(k + i * TILE, d * TILE, y + i * TILE, stage.x + i * TILE, v);
            if (p.field.trace) sum += square_error(slopes, TILE, log_det, new_log_det, v);
            sum = sum / count;
            store<float>(error + v * L, sum);  // its square
            const V inside = sum < 1e-20f ? all<float>(1e-20f) : (sum > 1e20f ? all<float>(1e20f) : sum);
            const V found = 0.9f * exponential<float>(logarithm<float>(inside) * (-0.5f / float(b.order)));
            store<float>(factor + v * L, found < 0.2f ? all<float>(0.2f) : (found > 10.0f ? all<float>(10.0f) : found));
        }
    }
    V square_error(const float* stages, int64_t step, const float* before, const float* after, int v) const {
        V sum{};
        for (int j = 0; j < p.tableau.stages; j++)
            if (p.tableau.e[j] != 0) sum += p.tableau.e[j] * load<float>(stages + j * step + v * L);
        const V old = load<float>(before + v * L), now = load<float>(after + v * L);
        const V ratio = load<float>(h + v * L) * sum / (p.atol + p.rtol * larger(old < 0.0f ? -old : old, now < 0.0f ? -now : now));
        return ratio * ratio;
    }

    // Accepts or rejects, ends what has ended and fills the lanes again.
    void settle() {
        const int last = p.tableau.stages - 1;
        for (int lane = 0; lane < active; lane++) {
            Lane& at = lanes[lane];
            int status = -1;
            if (at.broken) status = NOT_FINITE;
            else if (error[lane] <= 1.0f) {
                record(lane, at.sample, at.accepted++, t[lane]);
                copy_lane(stage.x, lane, y, lane, d), copy_lane(stage_of(last), lane, k, lane, d);
                slopes[lane] = slopes[last * TILE + lane], log_det[lane] = new_log_det[lane];
                t[lane] = at.last ? float(p.t1) : t[lane] + h[lane];
                h[lane] *= at.after_rejection ? std::fmin(1.0f, factor[lane]) : factor[lane];
                at.after_rejection = false;
                if (at.last) status = DONE;
            } else {
                const bool finite = std::isfinite(error[lane]);
                at.rejected++, at.after_rejection = true;
                h[lane] *= finite ? factor[lane] : 0.2f;
                if (std::fabs(h[lane]) < p.smallest()) status = finite ? STEP_TOO_SMALL : NOT_FINITE;
            }
            if (status < 0 && at.accepted + at.rejected >= p.most_steps) status = TOO_MANY_STEPS;
            if (status < 0) limit(lane);
            else leave(lane, status);
        }
        for (int lane = active - 1; lane >= 0; lane--)
            if (done[lane]) done[lane] = false, vacate(lane);
    }

    void leave(int lane, int status) {
        const Lane& at = lanes[lane];
        const int32_t tried = at.accepted + at.rejected;
        write(lane, at.sample, {2 + tried * (p.tableau.stages - 1), at.accepted, at.rejected, status});
        done[lane] = true;
    }
    void vacate(int lane) {
        if (waiting.next < waiting.count) return admit(lane);
        const int from = --active;
        if (from == lane) return;
        copy_lane(y, from, y, lane, d), copy_lane(k, from, k, lane, d);
        if (bias) copy_lane(bias, from, bias, lane, p.field.w);
        for (float* row : {slopes, log_det, t, h}) row[lane] = row[from];
        lanes[lane] = lanes[from];
    }
};

}  // namespace trajectory
