// Work on rows shared out among threads: those of the OpenMP library that torch has loaded, whose workers are awake between torch's
// own operations; where that is not found, threads that live for one call. Nothing is kept that a fork could break.
#pragma once
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// GOMP_parallel: runs function(data) on so many threads, or fewer, and waits for them.
typedef void (*Parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
inline std::atomic<Parallel> openmp{nullptr};

template <class Work> struct Job {
    const Work& work;
    const int64_t count, part;
    std::atomic<int64_t> next{0};

    static void take(void* data) {
        Job& job = *static_cast<Job*>(data);
        for (int64_t begin; (begin = job.next.fetch_add(job.part)) < job.count;) {
            const int64_t end = begin + job.part;
            job.work(begin, end < job.count ? end : job.count);
        }
    }
};

// Runs work(begin, end) over [0, count) in parts whose ends are multiples of `unit`. No result may depend on the parts.
template <class Work> inline void share(int64_t count, int64_t unit, int threads, const Work& work) {
    const int64_t units = (count + unit - 1) / unit;
    if (threads > units) threads = int(units);
    if (threads < 2) return work(int64_t(0), count);
    const int64_t parts = 16 * int64_t(threads);  // more than threads: one that is held up leaves its parts to the others
    Job<Work> job{work, count, (units + parts - 1) / parts * unit};
    if (const Parallel parallel = openmp) return parallel(Job<Work>::take, &job, unsigned(threads), 0);
    std::vector<std::thread> others;
    try {
        for (int i = 1; i < threads; i++) others.emplace_back(Job<Work>::take, &job);
    } catch (const std::system_error&) {  // no thread to be had: the rest is done here
    }
    Job<Work>::take(&job);
    for (auto& other : others) other.join();
}
