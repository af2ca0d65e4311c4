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

// Small helpers that upstream's programs use: names and ports, time, threads.
#ifndef TENT_MOONCAKE_COMMON_H
#define TENT_MOONCAKE_COMMON_H

#include <arpa/inet.h>
#include <sched.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "config.h"
#include "error.h"
#include "tent.h"
#include "tent_cxx.h"
#include "transfer_engine_c.h"

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE()
#endif

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

namespace mooncake {

constexpr int LOCAL_SEGMENT_ID = 0;

namespace detail {

// The whole of what a function that works as snprintf has to say; nothing if it fails.
template <typename Call>
std::optional<std::string> wholeText(Call call) {
    std::string text(256, '\0');
    for (;;) {
        const int needed = call(text.data(), text.size());
        if (needed < 0) return std::nullopt;
        const auto length = static_cast<size_t>(needed);
        if (length < text.size()) {
            text.resize(length);
            return text;
        }
        // it may have grown since
        text.resize(length + length / 8 + 1);
    }
}

inline std::string lastError() { return tent_last_error(); }

}  // namespace detail

inline std::string getHostname() {
    char name[256] = {};
    return gethostname(name, sizeof name - 1) == 0 ? name : "";
}

// Nanoseconds of the wall clock; ERR_CLOCK if there is none.
inline int64_t getCurrentTimeInNano() {
    timespec now{};
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return ERR_CLOCK;
    return int64_t{now.tv_sec} * 1000000000 + int64_t{now.tv_nsec};
}

// `YYYY-MM-DD HH:MM:SS.uuuuuu`, local time.
inline std::string getCurrentDateTime() {
    timespec now{};
    tm parts{};
    char text[64] = {};
    if (clock_gettime(CLOCK_REALTIME, &now) != 0 || !localtime_r(&now.tv_sec, &parts)) return "";
    const size_t length = strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    std::snprintf(text + length, sizeof text - length, ".%06ld", now.tv_nsec / 1000);
    return text;
}

template <typename T>
std::optional<T> parseFromString(std::string_view text) {
    T value{};
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end) return std::nullopt;
    return value;
}

inline uint16_t getPortFromString(std::string_view text, uint16_t default_port) {
    return parseFromString<uint16_t>(text).value_or(default_port);
}

inline bool isValidIpV6(const std::string& address) {
    in6_addr parsed{};
    return inet_pton(AF_INET6, address.c_str(), &parsed) == 1;
}

inline std::string maybeWrapIpV6(const std::string& address) {
    return isValidIpV6(address) ? "[" + address + "]" : address;
}

// `host`, `host:port`, `[v6]:port`, `[v6]` or a bare v6 address. Without a legal port: the default one.
inline std::pair<std::string, uint16_t> parseHostNameWithPort(const std::string& server_name) {
    const uint16_t port = getDefaultHandshakePort();
    if (!server_name.empty() && server_name[0] == '[') {
        const size_t close = server_name.find(']');
        if (close != std::string::npos) {
            std::string host = server_name.substr(1, close - 1);
            // a scope, as in fe80::1%eth0, is no part of the address
            if (isValidIpV6(host.substr(0, host.find('%')))) {
                const bool has_port = close + 1 < server_name.size() && server_name[close + 1] == ':';
                const auto text = has_port ? server_name.substr(close + 2) : std::string();
                return {std::move(host), getPortFromString(text, port)};
            }
        }
    } else if (isValidIpV6(server_name.substr(0, server_name.find('%')))) {
        return {server_name, port};
    }
    const size_t colon = server_name.rfind(':');
    if (colon == std::string::npos) return {server_name, port};
    return {server_name.substr(0, colon), getPortFromString(server_name.substr(colon + 1), port)};
}

// Keeps this thread on the cores of a memory node; 0 where there is no such node.
inline int bindToSocket(int socket_id) {
    std::ifstream file("/sys/devices/system/node/node" + std::to_string(socket_id < 0 ? 0 : socket_id) +
                       "/cpulist");
    cpu_set_t cores;
    CPU_ZERO(&cores);
    bool any = false;
    // "0-3,8-11"
    for (std::string range; std::getline(file, range, ',');) {
        while (!range.empty() && (range.back() == '\n' || range.back() == ' ')) range.pop_back();
        const size_t dash = range.find('-');
        const auto first = parseFromString<int>(range.substr(0, dash));
        const auto last =
            dash == std::string::npos ? first : parseFromString<int>(range.substr(dash + 1));
        if (!first || !last) continue;
        for (int core = *first; core <= *last && core >= 0 && core < CPU_SETSIZE; core++) {
            CPU_SET(static_cast<size_t>(core), &cores);
            any = true;
        }
    }
    if (!any) return 0;
    return sched_setaffinity(0, sizeof cores, &cores) == 0 ? 0 : ERR_NUMA;
}

inline bool overlap(const void* a, size_t a_len, const void* b, size_t b_len) {
    const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
    return x >= y ? x - y < b_len : y - x < a_len;
}

inline const std::string NIC_PATH_DELIM = "@";

inline std::string MakeNicPath(const std::string& server_name, const std::string& nic_name) {
    return server_name + NIC_PATH_DELIM + nic_name;
}

inline std::string getServerNameFromNicPath(const std::string& nic_path) {
    const size_t at = nic_path.find(NIC_PATH_DELIM);
    return at == std::string::npos ? "" : nic_path.substr(0, at);
}

inline std::string getNicNameFromNicPath(const std::string& nic_path) {
    const size_t at = nic_path.find(NIC_PATH_DELIM);
    return at == std::string::npos ? "" : nic_path.substr(at + 1);
}

// Upstream's reader-writer lock, by name; here it sleeps instead of spinning.
class RWSpinlock {
   public:
    void lock() { mutex_.lock(); }
    bool tryLock() { return mutex_.try_lock(); }
    void unlock() { mutex_.unlock(); }
    void lockShared() { mutex_.lock_shared(); }
    bool tryLockShared() { return mutex_.try_lock_shared(); }
    void unlockShared() { mutex_.unlock_shared(); }

    struct WriteGuard {
        explicit WriteGuard(RWSpinlock& lock) : lock_(lock) { lock_.lock(); }
        WriteGuard(const WriteGuard&) = delete;
        WriteGuard& operator=(const WriteGuard&) = delete;
        ~WriteGuard() { lock_.unlock(); }

       private:
        RWSpinlock& lock_;
    };

    struct ReadGuard {
        explicit ReadGuard(RWSpinlock& lock) : lock_(lock) { lock_.lockShared(); }
        ReadGuard(const ReadGuard&) = delete;
        ReadGuard& operator=(const ReadGuard&) = delete;
        ~ReadGuard() { lock_.unlockShared(); }

       private:
        RWSpinlock& lock_;
    };

   private:
    std::shared_mutex mutex_;
};

// A quick source of numbers that nobody needs to trust.
class SimpleRandom {
   public:
    explicit SimpleRandom(uint32_t seed) : current_(seed) {}

    static SimpleRandom& Get() {
        static std::atomic<uint32_t> threads{0};
        thread_local SimpleRandom own(static_cast<uint32_t>(getCurrentTimeInNano()) + threads.fetch_add(1));
        return own;
    }

    uint32_t next() { return current_ = current_ * 1664525u + 1013904223u; }
    uint32_t next(uint32_t max) { return next() % max; }

   private:
    uint32_t current_;
};

}  // namespace mooncake

#endif  // TENT_MOONCAKE_COMMON_H
