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

// Which devices serve which memory: a priority matrix, as upstream's programs read and write it.
#ifndef TENT_MOONCAKE_TOPOLOGY_H
#define TENT_MOONCAKE_TOPOLOGY_H

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "common.h"

// Only Topology::toJson needs it, and nothing else of this library does.
#if defined(__has_include)
#if __has_include(<jsoncpp/json/json.h>)
#include <jsoncpp/json/json.h>
#define TENT_HAS_JSONCPP 1
#elif __has_include(<json/json.h>)
#include <json/json.h>
#define TENT_HAS_JSONCPP 1
#endif
#endif

namespace mooncake {

class TransferEngine;

struct TopologyEntry {
    std::string name;
    std::vector<std::string> preferred_hca;
    std::vector<std::string> avail_hca;

#ifdef TENT_HAS_JSONCPP
    Json::Value toJson() const {
        Json::Value lists(Json::arrayValue);
        for (const auto* list : {&preferred_hca, &avail_hca}) {
            Json::Value names(Json::arrayValue);
            for (const auto& device : *list) names.append(device);
            lists.append(names);
        }
        return lists;
    }
#endif
};

using TopologyMatrix = std::unordered_map<std::string, TopologyEntry>;

// May be read and changed from several threads. The one that TransferEngine::getLocalTopology gives is the
// engine's: what is parsed or discovered into it shows in showLinks.
class Topology {
   public:
    Topology() = default;
    Topology(const Topology& other) { *this = other; }
    Topology& operator=(const Topology& other) {
        if (this != &other) {
            std::scoped_lock both(mutex_, other.mutex_);
            matrix_ = other.matrix_;
            devices_ = other.devices_;
            json_ = other.json_;
            disabled_ = other.disabled_;
        }
        return *this;
    }

    bool empty() const {
        std::scoped_lock lock(mutex_);
        return matrix_.empty();
    }

    void clear() { (void)parse("{}"); }

    // Looks at this machine; with a filter, at these devices only. 0 or a negative ERR_*.
    int discover() { return discover({}); }
    int discover(const std::vector<std::string>& filter) {
        std::string list;
        for (const auto& device : filter) list += device + ",";
        const auto json = detail::wholeText(
            [&](char* buf, size_t len) { return tent_cxx_topology(nullptr, list.c_str(), buf, len); });
        return json ? parse(*json) : ERR_CONTEXT;
    }

    // {"cpu:0": [["preferred"], ["others"]]}. ERR_MALFORMED_JSON and no change if it is none.
    int parse(const std::string& topology_json) {
        const auto lines = detail::wholeText(
            [&](char* buf, size_t len) { return tent_cxx_matrix_lines(topology_json.c_str(), buf, len); });
        if (!lines) return ERR_MALFORMED_JSON;
        std::scoped_lock lock(mutex_);
        read(*lines);
        json_ = topology_json;
        disabled_.clear();
        // the engine may be gone by now, and the handle then stands for nothing
        if (engine_) (void)tent_cxx_set_topology(engine_, topology_json.c_str());
        return 0;
    }

    // Never selects this device again, until the next parse.
    int disableDevice(const std::string& device_name) {
        std::scoped_lock lock(mutex_);
        if (std::find(devices_.begin(), devices_.end(), device_name) == devices_.end())
            return ERR_DEVICE_NOT_FOUND;
        disabled_.push_back(device_name);
        return 0;
    }

    std::string toString() const {
        std::scoped_lock lock(mutex_);
        return json_;
    }

#ifdef TENT_HAS_JSONCPP
    Json::Value toJson() const {
        std::scoped_lock lock(mutex_);
        Json::Value all(Json::objectValue);
        for (const auto& [location, entry] : matrix_) all[location] = entry.toJson();
        return all;
    }
#endif

    // Index in getHcaList of a device for this location: the first time one of the preferred, at random;
    // then all in turn. ERR_DEVICE_NOT_FOUND if there is none.
    int selectDevice(const std::string storage_type, int retry_count = 0) {
        std::scoped_lock lock(mutex_);
        auto found = matrix_.find(storage_type);
        if (found == matrix_.end()) found = matrix_.find("*");
        if (found == matrix_.end()) found = matrix_.begin();
        if (found == matrix_.end()) return ERR_DEVICE_NOT_FOUND;
        const auto preferred = enabled(found->second.preferred_hca);
        const auto others = enabled(found->second.avail_hca);
        const auto& first = preferred.empty() ? others : preferred;
        if (first.empty()) return ERR_DEVICE_NOT_FOUND;
        if (retry_count <= 0) return first[SimpleRandom::Get().next(static_cast<uint32_t>(first.size()))];
        const size_t turn = (static_cast<size_t>(retry_count) - 1) % (preferred.size() + others.size());
        return turn < preferred.size() ? preferred[turn] : others[turn - preferred.size()];
    }

    TopologyMatrix getMatrix() const {
        std::scoped_lock lock(mutex_);
        return matrix_;
    }

    // Every device once. Valid until the next parse.
    const std::vector<std::string>& getHcaList() const { return devices_; }

   private:
    friend class TransferEngine;

    // From now on changes go to that engine.
    void attach(transfer_engine_t engine) {
        std::scoped_lock lock(mutex_);
        engine_ = engine;
    }

    void read(const std::string& lines) {
        matrix_.clear();
        devices_.clear();
        std::istringstream all(lines);
        for (std::string line; std::getline(all, line);) {
            std::istringstream words(line);
            std::string location, rank, device;
            std::getline(words, location, '\t');
            std::getline(words, rank, '\t');
            TopologyEntry& entry = matrix_[location];
            entry.name = location;
            while (std::getline(words, device, '\t')) {
                (rank == "0" ? entry.preferred_hca : entry.avail_hca).push_back(device);
                if (std::find(devices_.begin(), devices_.end(), device) == devices_.end())
                    devices_.push_back(device);
            }
        }
    }

    std::vector<int> enabled(const std::vector<std::string>& names) const {
        std::vector<int> indexes;
        for (const auto& name : names) {
            if (std::find(disabled_.begin(), disabled_.end(), name) != disabled_.end()) continue;
            const auto at = std::find(devices_.begin(), devices_.end(), name);
            indexes.push_back(static_cast<int>(at - devices_.begin()));
        }
        return indexes;
    }

    mutable std::mutex mutex_;
    TopologyMatrix matrix_;
    std::vector<std::string> devices_;
    std::vector<std::string> disabled_;
    std::string json_ = "{}";
    transfer_engine_t engine_ = nullptr;
};

}  // namespace mooncake

#endif  // TENT_MOONCAKE_TOPOLOGY_H
