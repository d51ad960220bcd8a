// The assignment of n rows to n columns of least total cost, exactly: shortest augmenting paths from good starting prices.
//
// With prices v of the columns, row i wants the columns of least c_ij - v_j. The assignment found so far is kept such that every assigned
// row has one of its wanted columns; once all rows are assigned it is optimal, whatever the prices (linear programming duality).
//   1. v_j = min_i c_ij, and each column goes to the first free row that attains it.
//   2. Free rows take their wanted column from its holder and lower its price until their second choice is as good, once over.
//   3. Each row still free: a path of least reduced cost to a free column (Dijkstra), along which the holders move on.
// Reference: Jonker and Volgenant (1987), A shortest augmenting path algorithm for dense and sparse linear assignment problems.
#include <algorithm>
#include <limits>
#include <vector>
#include "vectors.h"

namespace assignment {

typedef Vec<double> V;
typedef Bits<double> I;
constexpr int WIDTH = LANES<double>;
constexpr double FAR = std::numeric_limits<double>::infinity();

struct Place {
    double value;
    int64_t at;
};

// The least of the lanes and where it was; the first of equals.
inline Place least(V value, I at) {
    Place found{value[0], at[0]};
    for (int k = 1; k < WIDTH; k++)
        if (value[k] < found.value || (value[k] == found.value && at[k] < found.at)) found = {value[k], at[k]};
    return found;
}

inline I lanes() {
    I at;
    for (int k = 0; k < WIDTH; k++) at[k] = k;
    return at;
}

class Assignment {
    const int64_t n, padded;
    std::vector<double> cost, price, open, key, distance;  // open: the price, or -infinity once a search has reached the column
    std::vector<int64_t> before, holder, column, reached, waiting, vacant;

    const double* row(int64_t i) const { return &cost[i * padded]; }

    void give(int64_t i, int64_t j) { column[i] = j, holder[j] = i; }

    void start_prices() {
        std::vector<int64_t> first(padded, 0);
        price.assign(row(0), row(0) + padded);
        for (int64_t i = 1; i < n; i++)
            for (int64_t j = 0; j < padded; j += WIDTH) {
                const V c = load(row(i) + j), v = load(&price[j]);
                I at;
                std::memcpy(&at, &first[j], sizeof at);
                at = c < v ? I{} + i : at;
                std::memcpy(&first[j], &at, sizeof at);
                store(&price[j], c < v ? c : v);
            }
        for (int64_t j = n; j < padded; j++) price[j] = 0;
        for (int64_t j = n - 1; j >= 0; j--)
            if (column[first[j]] < 0) give(first[j], j);
    }

    // The two least of c_ij - v_j.
    void two_least(int64_t i, Place& one, Place& two) const {
        V low = all<double>(FAR), next = low;
        I at = lanes(), low_at = at, next_at = at;
        for (int64_t j = 0; j < padded; j += WIDTH, at += WIDTH) {
            const V value = load(row(i) + j) - load(&price[j]);
            const I best = value < low, good = value < next;
            next = best ? low : good ? value : next;
            next_at = best ? low_at : good ? at : next_at;
            low = best ? value : low;
            low_at = best ? at : low_at;
        }
        one = least(low, low_at);
        for (int k = 0; k < WIDTH; k++)
            if (low_at[k] == one.at && low[k] == one.value) low[k] = next[k], low_at[k] = next_at[k];
        two = least(low, low_at);
    }

    void bid() {
        std::vector<int64_t> later;
        int64_t budget = 8 * n;  // rounding could have two rows outbid each other for ever
        for (size_t k = 0; k < waiting.size();) {
            const int64_t i = waiting[k++];
            Place one, two;
            two_least(i, one, two);
            const bool dearer = one.value < two.value && budget-- > 0;
            if (!dearer && one.value < two.value) {
                later.push_back(i);
                continue;
            }
            const int64_t j = dearer || holder[one.at] < 0 ? one.at : two.at, other = holder[j];
            if (dearer) price[j] -= two.value - one.value;
            give(i, j);
            if (other < 0) continue;
            column[other] = -1;
            if (dearer) waiting[--k] = other;
            else later.push_back(other);
        }
        waiting.swap(later);
    }

    // Lower the distances by way of row i, at which a step costs c_ij - v_j - h; returns the nearest column not yet reached.
    template <bool first> Place relax(int64_t i, double h) {
        V low = all<double>(FAR);
        I at = lanes(), low_at = at;
        for (int64_t j = 0; j < padded; j += WIDTH, at += WIDTH) {
            const V way = load(row(i) + j) - load(&open[j]) - h;
            V near = way;
            if (!first) {
                near = load(&key[j]);
                I from;
                std::memcpy(&from, &before[j], sizeof from);
                from = way < near ? I{} + i : from;
                std::memcpy(&before[j], &from, sizeof from);
                near = way < near ? way : near;
            }
            store(&key[j], near);
            low_at = near < low ? at : low_at;
            low = near < low ? near : low;
        }
        return least(low, low_at);
    }

    void augment(int64_t free_row) {
        open = price;
        before.assign(padded, free_row);
        reached.clear();
        distance.clear();
        Place near = relax<true>(free_row, 0);
        double level = near.value;
        while (holder[near.at] >= 0) {
            if (!(near.value > level)) {  // of equally near columns a free one ends the search
                const auto found = std::find_if(vacant.begin(), vacant.end(), [&](int64_t j) { return key[j] <= near.value; });
                if (found != vacant.end()) {
                    near.at = *found;
                    break;
                }
            }
            level = near.value;
            const int64_t i = holder[near.at];
            const double h = row(i)[near.at] - price[near.at] - near.value;
            reached.push_back(near.at), distance.push_back(near.value);
            open[near.at] = -FAR, key[near.at] = FAR;
            near = relax<false>(i, h);
        }
        for (size_t k = 0; k < reached.size(); k++) price[reached[k]] += distance[k] - near.value;
        vacant.erase(std::find(vacant.begin(), vacant.end(), near.at));
        for (int64_t j = near.at, i = -1; i != free_row;) {
            i = before[j];
            const int64_t left = column[i];
            give(i, j);
            j = left;
        }
    }

  public:
    Assignment(const double* given, int64_t size)
        : n(size), padded((size + WIDTH - 1) / WIDTH * WIDTH), cost(n * padded, FAR), key(padded), before(padded), holder(padded, -1), column(n, -1) {
        for (int64_t i = 0; i < n; i++) std::memcpy(&cost[i * padded], given + i * n, n * sizeof(double));
    }

    void solve(int64_t* columns) {
        start_prices();
        for (int64_t i = 0; i < n; i++)
            if (column[i] < 0) waiting.push_back(i);
        if (n > 1) bid();
        for (int64_t j = 0; j < n; j++)
            if (holder[j] < 0) vacant.push_back(j);
        for (const int64_t i : waiting) augment(i);
        std::memcpy(columns, column.data(), n * sizeof(int64_t));
    }
};

}  // namespace assignment

// cost (n, n), finite, row by row; columns (n): the column of each row.
extern "C" void assignment_float64(const double* cost, int64_t* columns, int64_t n, int) {
    if (n > 0) assignment::Assignment(cost, n).solve(columns);
}
