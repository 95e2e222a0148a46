#pragma once

#include <cstdint>
#include <functional>

namespace ttune {

int num_threads();
void set_num_threads(int64_t count);

// body(begin, end) over parts of [0, n), at least `grain` long each, that begin at multiples of `tile`.
void parallel_for(int64_t n, int64_t grain, int64_t tile, const std::function<void(int64_t, int64_t)>& body);

}  // namespace ttune
