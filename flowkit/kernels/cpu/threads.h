// Work on elements shared out among threads that live for one call: nothing is left that a fork could break or that spins.
#pragma once
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// Runs work(begin, end) over [0, count) in parts whose ends are multiples of `unit`. No element's result depends on the parts.
template <class Work> inline void share(int64_t count, int64_t unit, int threads, const Work& work) {
    const int64_t units = (count + unit - 1) / unit;
    if (threads > units) threads = int(units);
    if (threads < 2) return work(int64_t(0), count);
    const int64_t part = (units + threads - 1) / threads * unit;
    std::vector<std::thread> others;
    int64_t begin = 0;
    try {
        for (int i = 1; i < threads && begin + part < count; i++, begin += part) others.emplace_back(work, begin, begin + part);
    } catch (const std::system_error&) {  // no thread to be had: the rest is done here
    }
    work(begin, count);
    for (auto& other : others) other.join();
}
