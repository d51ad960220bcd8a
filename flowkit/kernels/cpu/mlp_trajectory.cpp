// Whole trajectories of a velocity field with two hidden layers, and their discrete adjoint: the C interface.
#include "trajectory_adjoint.h"
#include "threads.h"

namespace trajectory {

// A part of the batch for the adjoint: whole tiles, 64 parts at most. Depends on the batch alone.
inline int64_t part_of(int64_t batch) {
    const int64_t least = (batch + 63) / 64;
    return (least + TILE - 1) / TILE * TILE;
}

inline int64_t group_of(int64_t batch, int threads) {
    const int64_t each = (batch + threads - 1) / threads, whole = (each + 15) / 16 * 16;
    return whole < TILE ? whole : TILE;
}

inline void solve(const Problem& problem, const Solution& solution, int64_t first, int64_t last, int threads) {
    Queue queue(first, last, group_of(last - first, threads));
    const int64_t groups = (last - first + queue.group - 1) / queue.group;
    share(groups < threads ? groups : threads, 1, threads, [&](int64_t begin, int64_t end) {
        for (; begin < end; begin++)
            if (problem.steps) FixedWorker(problem, solution, queue).run();
            else AdaptiveWorker(problem, solution, queue).run();
    });
}

// Takes the steps of the samples [first, last) back. Steps that the solve had no room for are taken anew first.
inline void take_back(const Problem& problem, const Cotangents& given, Records records, const int32_t* stats, int64_t first, int64_t last, float* sums) {
    int64_t most = 0;
    std::vector<int64_t> order;
    for (int64_t i = first; i < last; i++) order.push_back(i), most = std::max(most, int64_t(stats[4 * i + 1]));
    std::vector<float> again;
    if (most > records.capacity) {
        again.resize((last - first) * most * records.width);
        records = {again.data(), most, records.width, first};
        Solution only_records;
        only_records.records = records;
        solve(problem, only_records, first, last, 1);
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return stats[4 * a + 1] > stats[4 * b + 1]; });
    AdjointWorker worker(problem, given, records, stats);
    worker.run(order);
    worker.write(sums);
}

#define WEIGHTS const float *W1, const float *b1, const float *r1, const float *W2, const float *b2, const float *r2, const float *W3, const float *b3, const float *r3, const float *gates
#define SIZES int64_t batch, int64_t d, int64_t w, int64_t own_b1, int64_t gated, int64_t steps, int64_t most_steps, int64_t capacity, int threads
#define CONSTANTS int activation, int trace, double t0, double t1, double rtol, double atol
#define PROBLEM(backward)                                                                                                              \
    Arena arena;                                                                                                                       \
    Problem problem{{d, w, Activation(activation), trace != 0, gated != 0, gated && !steps, W1, b1, r1, W2, b2, r2, W3, b3, r3, gates, \
                     own_b1 ? w : 0},                                                                                                  \
                    Tableau(tableau), steps, most_steps, t0, t1, float(rtol), float(atol), x};                                         \
    problem.field.prepare(arena, backward);                                                                                            \
    const Records records{steps_taken, capacity, d + 2, 0};

extern "C" void mlp_trajectory_float32(const float* x, WEIGHTS, const double* tableau, float* x1, float* log_det, int32_t* stats, float* steps_taken, SIZES, CONSTANTS) {
    PROBLEM(false)
    solve(problem, {x1, log_det, stats, records}, 0, batch, threads);
}

// Gradients of the weights come as `count` numbers, added up over parts in `sums`, one row of `count` each.
extern "C" void mlp_trajectory_backward_float32(const float* x, WEIGHTS, const double* tableau, const float* grad_x, const float* grad_log_det, const int32_t* stats,
                                                float* steps_taken, float* of_x, float* of_b1, float* of_weights, float* sums, int64_t count, SIZES, CONSTANTS) {
    PROBLEM(true)
    const Cotangents given{grad_x, grad_log_det, of_x, own_b1 ? of_b1 : nullptr};
    const int64_t part = part_of(batch), parts = (batch + part - 1) / part;
    share(parts, 1, threads, [&](int64_t begin, int64_t end) {
        for (; begin < end; begin++) take_back(problem, given, records, stats, begin * part, std::min(batch, (begin + 1) * part), sums + begin * count);
    });
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int64_t j = 0; j < parts; j++) sum += sums[j * count + i];
        of_weights[i] = float(sum);
    }
}
#undef WEIGHTS
#undef SIZES
#undef CONSTANTS
#undef PROBLEM

}  // namespace trajectory
