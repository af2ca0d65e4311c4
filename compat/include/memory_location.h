// Copyright 2026 the tent authors
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Where memory is, in the words of registerLocalMemory.
#ifndef TENT_MOONCAKE_MEMORY_LOCATION_H
#define TENT_MOONCAKE_MEMORY_LOCATION_H

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mooncake {

// "Look it up."
inline const std::string kWildcardLocation = "*";

struct MemoryLocationEntry {
    uint64_t start;
    size_t len;
    std::string location;
};

// The memory nodes of a range, run by run: `cpu:N`, or `*` for pages that nobody has touched. With
// `only_first_page` the place of the first page stands for all.
inline std::vector<MemoryLocationEntry> getMemoryLocation(void* start, size_t len, bool only_first_page = false) {
    std::vector<MemoryLocationEntry> entries;
    if (len == 0) return entries;
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<uint64_t>(start), end = begin + len;
    const uint64_t first = begin / page * page;
    const uint64_t count = only_first_page ? 1 : (end - first + page - 1) / page;
    constexpr uint64_t kChunk = 4096;
    for (uint64_t done = 0; done < count; done += kChunk) {
        const size_t n = static_cast<size_t>(std::min(kChunk, count - done));
        std::vector<void*> pages(n);
        std::vector<int> nodes(n, -1);
        for (size_t i = 0; i < n; i++) pages[i] = reinterpret_cast<void*>(first + (done + i) * page);
        // without nodes to move to it only tells where the pages are; a refusal leaves -1
        if (syscall(SYS_move_pages, 0, n, pages.data(), nullptr, nodes.data(), 0) != 0)
            std::fill(nodes.begin(), nodes.end(), -1);
        for (size_t i = 0; i < n; i++) {
            const uint64_t at = first + (done + i) * page;
            const uint64_t from = std::max(at, begin), to = only_first_page ? end : std::min(at + page, end);
            std::string location = nodes[i] < 0 ? kWildcardLocation : "cpu:" + std::to_string(nodes[i]);
            if (!entries.empty() && entries.back().location == location)
                entries.back().len += to - from;
            else
                entries.push_back({from, static_cast<size_t>(to - from), std::move(location)});
        }
    }
    return entries;
}

}  // namespace mooncake

#endif  // TENT_MOONCAKE_MEMORY_LOCATION_H
