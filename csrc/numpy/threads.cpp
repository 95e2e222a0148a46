#include "numpy/threads.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace ttune {
namespace {

std::atomic<int> threads{1};

}  // namespace

int num_threads() { return threads; }

void set_num_threads(int64_t count) {
  if (count < 1 || count > 1024)
    throw std::invalid_argument("count must be a number of threads in [1, 1024], got " + std::to_string(count));
  threads = int(count);
}

// Threads live for one call: there is no pool that a fork would lose or that would compete with the network's.
void parallel_for(int64_t n, int64_t grain, int64_t tile, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t parts = std::min<int64_t>(threads, n / grain);
  if (parts < 2) return body(0, n);
  const int64_t tiles = (n + tile - 1) / tile;
  std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
  const auto run = [&](int64_t part) {
    try {
      body(tiles * part / parts * tile, std::min(n, tiles * (part + 1) / parts * tile));
    } catch (...) {
      errors[size_t(part)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(parts));
  int64_t started = 1;
  try {
    for (; started < parts; ++started) others.emplace_back(run, started);
  } catch (const std::system_error&) {  // no more threads to be had: the rest is done here
  }
  run(0);
  for (int64_t part = started; part < parts; ++part) run(part);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace ttune
