// Several fixed elementwise maps in one pass over the data, the sum over each event of their log-slopes, and the backward of both.
//
// Elements are taken in blocks that stay in the nearest cache: each step runs over the whole block, then the next. An affine step has a
// scale and a shift for each position of the event, laid out as often as it takes to meet whole registers: a line of elements, one or
// more events. Its part of the log-slope is the same for every event and is counted once.
//
// Backward keeps the input of every step of a block and walks back. What belongs to a position is summed in double over a fixed number of
// lines, the chunks then in order, so the number of threads does not matter.
#include <cmath>

#include "diagonal_steps.h"
#include "threads.h"
#include "vectors.h"

namespace {

constexpr int BLOCK = 128, MOST_STEPS = 16;
constexpr int64_t SHORT = 256;  // events from here on are lines of their own
constexpr int64_t CHUNK = 32768, FEWEST_LINES = 16, MOST_CHUNKS = 256;

enum Code { AFFINE, INVERSE_AFFINE, EXP, LOG, SIGMOID, LOGIT, SOFTPLUS, INVERSE_SOFTPLUS, TANH, ATANH, SOFTCLIP, INVERSE_SOFTCLIP };

// Calls visit with the map of a code.
template <class T, class Visit> inline void with_map(int code, const Visit& visit) {
    switch (code) {
        case EXP: return visit(Exp<T>{});
        case LOG: return visit(Log<T>{});
        case SIGMOID: return visit(Sigmoid<T>{});
        case LOGIT: return visit(Logit<T>{});
        case SOFTPLUS: return visit(Softplus<T>{});
        case INVERSE_SOFTPLUS: return visit(InverseSoftplus<T>{});
        case TANH: return visit(Tanh<T>{});
        case ATANH: return visit(Atanh<T>{});
        case SOFTCLIP: return visit(SoftClip<T>{});
        case INVERSE_SOFTCLIP: return visit(InverseSoftClip<T>{});
    }
}

// The sum of some terms, long ones in eight parts.
template <class T> inline double sum_of(const T* terms, int64_t count) {
    double sum = 0;
    int64_t i = 0;
    if (count >= 8) {
        double part[8] = {};
        for (; i + 8 <= count; i += 8)
            for (int k = 0; k < 8; k++) part[k] += terms[i + k];
        sum = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
    }
    for (; i < count; i++) sum += terms[i];
    return sum;
}

template <class T> struct Program {
    const int64_t length, positions, repeat, line;  // of an event, its positions, elements of each, elements of a line
    const int steps, normal;
    int code[MOST_STEPS], affine[MOST_STEPS], affines = 0;
    T number[MOST_STEPS];
    bool curved = false;
    double constant = 0;
    std::vector<T> tables;  // scale, then shift, of each affine step, over a line

    Program(const double* given, int steps, const T* params, int64_t length, int64_t positions, int normal)
        : length(length), positions(positions), repeat(length / positions), line(line_of(length)), steps(steps), normal(normal) {
        for (int k = 0; k < steps; k++) {
            code[k] = int(given[2 * k]), number[k] = T(given[2 * k + 1]);
            if (code[k] > INVERSE_AFFINE) curved = true;
            else affine[k] = affines++;
        }
        tables.resize(2 * affines * line + LANES<T>);  // whole registers are read
        if (normal) constant = -HALF_LOG_2PI * double(length);
        for (int k = 0; k < steps; k++)
            if (code[k] <= INVERSE_AFFINE) fill(k, params + 2 * affine[k] * positions);
    }

    static int64_t line_of(int64_t length) {
        if (length >= SHORT) return length;
        int64_t whole = length;
        while (whole % LANES<T> != 0) whole += length;
        return (BLOCK + whole - 1) / whole * whole;
    }

    bool summed() const { return curved || normal; }
    const T* scale(int k) const { return tables.data() + 2 * affine[k] * line; }
    const T* shift(int k) const { return scale(k) + line; }

    void fill(int k, const T* shifts) {
        constexpr int L = LANES<T>;
        const T sign = code[k] == AFFINE ? T(1) : T(-1), *logs = shifts + positions;
        constant += double(sign) * double(repeat) * sum_of(logs, positions);
        T* scales = tables.data() + 2 * affine[k] * line;
        T some[L] = {};
        for (int64_t p = 0; p < positions; p += L) {
            const int64_t count = positions - p < L ? positions - p : L;
            std::memcpy(some, logs + p, sizeof(T) * count);
            store<T>(some, unlimited_exponential<T>(sign * load<T>(some)));
            for (int64_t i = 0; i < count; i++)
                for (int64_t r = 0; r < repeat; r++) scales[(p + i) * repeat + r] = some[i], scales[line + (p + i) * repeat + r] = shifts[p + i];
        }
        for (int64_t i = length; i < line; i++) scales[i] = scales[i - length], scales[line + i] = scales[line + i - length];
    }

    // The block at offset `at` of a line: step k takes `value`, then what the step before left, to trail + k stride; `stride` zero is in place.
    void run(int64_t at, int64_t count, const T* value, T* trail, int stride, T* slope) const {
        constexpr int L = LANES<T>;
        for (int k = 0; k < steps; k++) {
            const T* in = k ? trail + (k - 1) * stride : value;
            T* out = trail + k * stride;
            if (code[k] > INVERSE_AFFINE) {
                const T a = number[k];
                with_map<T>(code[k], [&](auto map) {
                    for (int64_t i = 0; i < count; i += L) {
                        Vec<T> sum = load<T>(slope + i);
                        store<T>(out + i, map.forward(load<T>(in + i), a, sum));
                        store<T>(slope + i, sum);
                    }
                });
            } else {
                const T *s = scale(k) + at, *b = shift(k) + at;
                if (code[k] == AFFINE)
                    for (int64_t i = 0; i < count; i++) out[i] = in[i] * s[i] + b[i];
                else
                    for (int64_t i = 0; i < count; i++) out[i] = (in[i] - b[i]) * s[i];
            }
        }
    }
};

// Blocks of the lines [begin, end): each is given where it starts, its offset in the line and its length.
template <class T, class Work> inline void blocks(const Program<T>& program, int64_t size, int64_t begin, int64_t end, const Work& work) {
    for (int64_t line = begin; line < end; line++) {
        const int64_t first = line * program.line, left = size - first < program.line ? size - first : program.line;
        for (int64_t at = 0; at < left; at += BLOCK) work(first + at, at, left - at < BLOCK ? left - at : int64_t(BLOCK));
    }
}

template <class T> inline void forward_lines(const Program<T>& program, int64_t size, const T* value, T* out, T* log_det, int64_t begin, int64_t end) {
    const int64_t length = program.length;
    T *next = log_det + begin * program.line / length, slope[BLOCK], some[BLOCK] = {};
    double sum = 0;
    int64_t left = length;
    blocks(program, size, begin, end, [&](int64_t start, int64_t at, int64_t count) {
        const bool whole = count % LANES<T> == 0;  // of registers: else the last is filled up, out of place
        const T* from = whole ? value + start : some;
        T* to = whole ? out + start : some;
        if (!whole || program.steps == 0) std::memcpy(to, value + start, sizeof(T) * count);
        if (program.summed()) std::memset(slope, 0, sizeof slope);
        program.run(at, count, from, to, 0, slope);
        if (!whole) std::memcpy(out + start, to, sizeof(T) * count);
        if (program.normal)
            for (int64_t i = 0; i < count; i++) slope[i] -= T(0.5) * (to[i] * to[i]);  // the square first: it overflows where the reference's does
        for (int64_t i = 0; i < count;) {
            const int64_t stop = left < count - i ? i + left : count;
            left -= stop - i;
            if (program.summed()) sum += sum_of(slope + i, stop - i);
            i = stop;
            if (left == 0) *next++ = T(sum + program.constant), sum = 0, left = length;
        }
    });
}

// A cotangent through a factor: none stays none where the factor is infinite.
template <class T> inline Vec<T> passed(Vec<T> g, Vec<T> factor) {
    return magnitude<T>(factor) > Ends<T>::largest ? (g == T(0) ? Vec<T>{} : g * factor) : g * factor;
}

template <class T> struct Cotangents {
    const T *out, *log_det;
    T* value;
};

// The lines of one chunk; `sums` (affine steps, 2, positions) receives what belongs to shift and log-scale.
template <class T> inline void backward_lines(const Program<T>& program, int64_t size, const T* value, const Cotangents<T>& grad, double* sums, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    const int64_t line = program.line, length = program.length;
    std::vector<double> kept(2 * program.affines * line);
    T trail[MOST_STEPS * BLOCK], some[BLOCK] = {}, rest[BLOCK] = {}, h[BLOCK] = {}, unused[BLOCK] = {}, logs[BLOCK];
    const T* row = grad.log_det + begin * line / length;
    int64_t left = length;
    double mass = 0;  // of the cotangents of the log-dets
    blocks(program, size, begin, end, [&](int64_t start, int64_t at, int64_t count) {
        const bool whole = count % L == 0;
        const T* first = whole ? value + start : some;
        T* g = whole ? grad.value + start : rest;
        if (!whole) std::memcpy(some, value + start, sizeof(T) * count);
        std::memcpy(g, grad.out + start, sizeof(T) * count);
        program.run(at, count, first, trail, BLOCK, unused);
        for (int64_t i = 0; i < count;) {
            const int64_t stop = left < count - i ? i + left : count;
            left -= stop - i;
            for (; i < stop; i++) h[i] = *row;
            if (left == 0) mass += *row++, left = length;
        }
        const T* last = program.steps ? trail + (program.steps - 1) * BLOCK : first;
        if (program.normal)
            for (int64_t i = 0; i < count; i += L) store<T>(g + i, load<T>(g + i) - passed<T>(load<T>(h + i), load<T>(last + i)));
        for (int k = program.steps - 1; k >= 0; k--) {
            const T* in = k ? trail + (k - 1) * BLOCK : first;
            if (program.code[k] > INVERSE_AFFINE) {
                const T a = program.number[k];
                with_map<T>(program.code[k], [&](auto map) {
                    for (int64_t i = 0; i < count; i += L) store<T>(g + i, map.backward(load<T>(in + i), a, load<T>(g + i), load<T>(h + i)));
                });
                continue;
            }
            const T *s = program.scale(k) + at, *b = program.shift(k) + at;
            double *of_shift = kept.data() + 2 * program.affine[k] * line + at, *of_log = of_shift + line;
            const bool straight = program.code[k] == AFFINE;
            if (straight)
                for (int64_t i = 0; i < count; i++) of_shift[i] += g[i];
            for (int64_t i = 0; i < count; i += L) {
                const Vec<T> x = load<T>(in + i), through = passed<T>(load<T>(g + i), load<T>(s + i));
                store<T>(g + i, through);
                store<T>(logs + i, passed<T>(through, straight ? x : x - load<T>(b + i)));  // not by the output, which may have overflowed
            }
            if (straight)
                for (int64_t i = 0; i < count; i++) of_log[i] += logs[i];
            else
                for (int64_t i = 0; i < count; i++) of_log[i] -= logs[i], of_shift[i] -= g[i];
        }
        if (!whole) std::memcpy(grad.value + start, g, sizeof(T) * count);
    });
    const int64_t places = program.positions, repeat = program.repeat;
    for (int k = 0; k < program.steps; k++) {
        if (program.code[k] > INVERSE_AFFINE) continue;
        for (int half = 0; half < 2; half++) {
            const double* from = kept.data() + (2 * program.affine[k] + half) * line;
            double* to = sums + (2 * program.affine[k] + half) * places;
            for (int64_t p = 0; p < places; p++) {
                to[p] = half == 0 ? 0 : (program.code[k] == AFFINE ? mass : -mass) * double(repeat);
                for (int64_t event = 0; event < line; event += length) to[p] += sum_of(from + event + p * repeat, repeat);
            }
        }
    }
}

template <class T> inline void forward(const T* value, const T* params, const double* given, T* out, T* log_det, int64_t rows, int64_t length, int64_t positions, int threads, int steps, int normal) {
    const Program<T> program(given, steps, params, length, positions, normal);
    const int64_t size = rows * length, lines = (size + program.line - 1) / program.line;
    share(lines, 1, threads, [&](int64_t begin, int64_t end) { forward_lines<T>(program, size, value, out, log_det, begin, end); });
}

template <class T> inline void backward(const T* grad_out, const T* grad_log_det, const T* value, const T* params, const double* given, T* grad_value, T* grad_params, int64_t rows, int64_t length, int64_t positions, int threads, int steps, int normal) {
    const Program<T> program(given, steps, params, length, positions, normal);
    const int64_t size = rows * length, lines = (size + program.line - 1) / program.line, entries = 2 * program.affines * positions;
    int64_t each = CHUNK / program.line > FEWEST_LINES ? CHUNK / program.line : FEWEST_LINES;
    if (each * MOST_CHUNKS < lines) each = (lines + MOST_CHUNKS - 1) / MOST_CHUNKS;
    const int64_t chunks = (lines + each - 1) / each;
    std::vector<double> sums(chunks * entries);
    const Cotangents<T> grad{grad_out, grad_log_det, grad_value};
    share(chunks, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; c++) backward_lines<T>(program, size, value, grad, sums.data() + c * entries, c * each, (c + 1) * each < lines ? (c + 1) * each : lines);
    });
    for (int64_t i = 0; i < entries; i++) {
        double sum = 0;
        for (int64_t c = 0; c < chunks; c++) sum += sums[c * entries + i];
        grad_params[i] = T(sum);
    }
}

}  // namespace

#define EXPORT_CHAIN(T, SUFFIX)                                                                                                                       \
    extern "C" void diagonal_chain_##SUFFIX(const T* value, const T* params, const double* given, T* out, T* log_det, int64_t rows, int64_t length, \
                                            int64_t positions, int threads, int steps, int normal) {                                                 \
        forward<T>(value, params, given, out, log_det, rows, length, positions, threads, steps, normal);                                              \
    }                                                                                                                                                 \
    extern "C" void diagonal_chain_backward_##SUFFIX(const T* grad_out, const T* grad_log_det, const T* value, const T* params, const double* given, \
                                                     T* grad_value, T* grad_params, int64_t rows, int64_t length, int64_t positions, int threads,     \
                                                     int steps, int normal) {                                                                         \
        backward<T>(grad_out, grad_log_det, value, params, given, grad_value, grad_params, rows, length, positions, threads, steps, normal);          \
    }
EXPORT_CHAIN(float, float32)
EXPORT_CHAIN(double, float64)
