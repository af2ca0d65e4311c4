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

// Settings as upstream's programs read and write them. The engine takes its own from the environment
// (MC_*, TENT_*): what a program writes here is remembered and changes nothing.
#ifndef TENT_MOONCAKE_CONFIG_H
#define TENT_MOONCAKE_CONFIG_H

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace mooncake {

enum class EndpointStoreType { FIFO = 0, SIEVE = 1 };

struct GlobalConfig {
    size_t num_cq_per_ctx = 1;
    size_t num_comp_channels_per_ctx = 1;
    uint8_t port = 1;
    int gid_index = -1;
    uint16_t pkey_index = 0;
    uint64_t max_mr_size = 0x10000000000;
    size_t max_cqe = 4096;
    int max_ep_per_ctx = 65536;
    size_t num_qp_per_ep = 2;
    size_t max_sge = 4;
    size_t max_wr = 256;
    size_t max_inline = 64;
    int mtu_length = 5;  // IBV_MTU_4096
    uint16_t handshake_port = 12001;
    int workers_per_ctx = 2;
    size_t slice_size = 65536;
    int retry_cnt = 9;
    int handshake_listen_backlog = 128;
    int handshake_connect_timeout = 5;
    bool metacache = true;
    uint64_t te_metadata_refresh_interval_seconds = 0;
    int log_level = 0;
    bool trace = false;
    int64_t slice_timeout = -1;
    uint16_t rpc_min_port = 15000;
    uint16_t rpc_max_port = 17000;
    bool use_ipv6 = false;
    size_t fragment_limit = 16384;
    bool enable_dest_device_affinity = false;
    int parallel_reg_mr = -1;
    EndpointStoreType endpoint_store_type = EndpointStoreType::SIEVE;
    int ib_traffic_class = -1;
    int ib_service_level = -1;
    int ib_pci_relaxed_ordering_mode = 1;
};

// The one of this process.
inline GlobalConfig& globalConfig() {
    static GlobalConfig config;
    return config;
}

// MC_HANDSHAKE_PORT, or 12001.
inline uint16_t getDefaultHandshakePort() {
    const char* text = std::getenv("MC_HANDSHAKE_PORT");
    if (!text) return globalConfig().handshake_port;
    char* end = nullptr;
    const long port = std::strtol(text, &end, 10);
    return *text && !*end && port > 0 && port < 65536 ? static_cast<uint16_t>(port)
                                                      : globalConfig().handshake_port;
}

// The range, or the default where it cannot be meant: upside down, well-known or ephemeral ports.
inline std::pair<int, int> ValidatePortRange(int min_port, int max_port, int default_min, int default_max) {
    const bool ephemeral = max_port >= 32768 && min_port <= 60999;
    if (min_port > max_port || min_port < 1024 || max_port > 65535 || ephemeral)
        return {default_min, default_max};
    return {min_port, max_port};
}

}  // namespace mooncake

#endif  // TENT_MOONCAKE_CONFIG_H
