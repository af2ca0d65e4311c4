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

// mooncake::TransferEngine, the C++ class of Mooncake's Transfer Engine, as a header over the C API of
// libtransfer_engine.so. Sources written for upstream's header of the same name compile against it. It needs
// C++17 and no other library; scatter needs C++20 (std::span).
//
// Numbers: 0 or a negative ERR_* of error.h. Status: the codes of common/base/status.h, with the reason in
// words. Every method may be called from any thread, but not while the object is moved or destroyed.
#ifndef TENT_MOONCAKE_TRANSFER_ENGINE_H
#define TENT_MOONCAKE_TRANSFER_ENGINE_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "memory_location.h"
#include "multi_transport.h"
#include "transfer_metadata.h"
#include "transport/transport.h"

#if __cplusplus >= 202002L && defined(__has_include)
#if __has_include(<span>)
#include <chrono>
#include <functional>
#include <span>
#define TENT_HAS_SCATTER 1
#endif
#endif

namespace mooncake {

using TransferRequest = Transport::TransferRequest;
using TransferStatus = Transport::TransferStatus;
using TransferStatusEnum = Transport::TransferStatusEnum;
using SegmentHandle = Transport::SegmentHandle;
using SegmentID = Transport::SegmentID;
using BatchID = Transport::BatchID;
using BufferEntry = Transport::BufferEntry;
using NicLoadStats = Transport::NicLoadStats;

constexpr BatchID INVALID_BATCH_ID = UINT64_MAX;

enum class PeerLiveness : uint8_t { Alive = 0, Unreachable = 1 };

struct AutoDiscoverConfig {
    bool enabled = false;
    std::string protocol;
};

// Has no engine before init and after freeEngine: methods then give an error. Its address may be cast to
// transfer_engine_t, as upstream's.
class TransferEngine {
   public:
#ifdef ENABLE_MULTI_PROTOCOL
    struct RegisteredBuffer {
        void* addr;
        size_t length;
        std::string location;
        bool remote_accessible;
        bool update_metadata;

        RegisteredBuffer(void* addr, size_t length = 0, std::string location = kWildcardLocation,
                         bool remote_accessible = true, bool update_metadata = true)
            : addr(addr),
              length(length),
              location(std::move(location)),
              remote_accessible(remote_accessible),
              update_metadata(update_metadata) {}
    };
#endif

    TransferEngine(bool auto_discover = false) : TransferEngine(auto_discover, std::vector<std::string>()) {}

    // The filter names the interfaces to use; names that are no interfaces here restrict nothing.
    TransferEngine(bool auto_discover, const std::vector<std::string>& filter) : state_(std::make_unique<State>()) {
        state_->auto_discover.enabled = auto_discover;
        state_->filter = filter;
        (void)tent_cxx_bind(this, nullptr);
    }

    TransferEngine(TransferEngine&& other) noexcept : state_(std::move(other.state_)) { take(other); }

    TransferEngine& operator=(TransferEngine&& other) noexcept {
        if (this != &other) {
            (void)freeEngine();
            state_ = std::move(other.state_);
            take(other);
        }
        return *this;
    }

    TransferEngine(const TransferEngine&) = delete;
    TransferEngine& operator=(const TransferEngine&) = delete;

    ~TransferEngine() {
        (void)freeEngine();
        tent_cxx_unbind(this);
    }

    // ---- life ----------------------------------------------------------------------------------

    // 0, or ERR_METADATA with the reason in tent_last_error. The last two are ignored, as upstream's are.
    int init(const std::string& metadata_conn_string, const std::string& local_server_name,
             const std::string& ip_or_host_name = "", uint64_t rpc_port = 12345) {
        (void)ip_or_host_name;
        (void)rpc_port;
        if (!state_ || state_->engine) return ERR_INVALID_ARGUMENT;
        State& s = *state_;
        std::string devices;
        for (const auto& device : s.filter) devices += device + ",";
        s.engine = tent_cxx_create(metadata_conn_string.c_str(), local_server_name.c_str(),
                                   s.auto_discover.enabled, devices.c_str());
        if (!s.engine) return ERR_METADATA;
        (void)tent_cxx_bind(this, s.engine);
        s.metadata.reset(new TransferMetadata(s.engine, metadata_conn_string == P2PHANDSHAKE));
        if (s.topology->empty()) {
            loadTopology();
        } else {
            (void)tent_cxx_set_topology(s.engine, s.topology->toString().c_str());
        }
        s.topology->attach(s.engine);
        if (s.wants_shutdown) ::enableGracefulShutdown(s.engine);
        const bool forced = std::getenv("MC_FORCE_TCP") != nullptr;
        if (forced || s.auto_discover.enabled) {
            const auto& wish = s.auto_discover.protocol;
            const bool installed = !forced && !wish.empty() && installTransport(wish, nullptr);
            if (!installed && !installTransport("tcp", nullptr)) return ERR_CONTEXT;
        }
        return 0;
    }

    // Ends the engine; a second time does nothing.
    int freeEngine() {
        if (!state_) return 0;
        std::scoped_lock lock(state_->mutex);
        if (state_->engine) {
            (void)tent_cxx_bind(this, nullptr);
            ::destroyTransferEngine(state_->engine);
            state_->engine = nullptr;
            state_->transports.clear();
            state_->topology->attach(nullptr);
        }
        return 0;
    }

    void enableGracefulShutdown() {
        if (!state_) return;
        state_->wants_shutdown = true;
        if (state_->engine)
            ::enableGracefulShutdown(state_->engine);
        else
            (void)tent_cxx_arm_shutdown();
    }

    void setAutoDiscover(bool auto_discover) {
        if (state_) state_->auto_discover.enabled = auto_discover;
    }
    void setAutoDiscover(const AutoDiscoverConfig& config) {
        if (state_) state_->auto_discover = config;
    }

    // Before init.
    void setWhitelistFilters(std::vector<std::string>&& filters) {
        if (state_) state_->filter = std::move(filters);
    }

    // ---- transports ----------------------------------------------------------------------------

    // Null for one that is not available; "tcp" always is. args: null, or {priority matrix as JSON, null}.
    Transport* installTransport(const std::string& proto, void** args) {
        const transfer_engine_t engine = handle();
        if (!::installTransport(engine, proto.c_str(), args)) return nullptr;
        if (args && args[0]) (void)state_->topology->parse(static_cast<const char*>(args[0]));
        std::scoped_lock lock(state_->mutex);
        auto& slot = state_->transports[proto];
        if (!slot) slot.reset(new Transport(engine, proto, state_->metadata));
        return slot.get();
    }

    int uninstallTransport(const std::string& proto) { return ::uninstallTransport(handle(), proto.c_str()); }

    // Null if it was not installed.
    Transport* getTransport(const std::string& proto) {
        if (!state_) return nullptr;
        std::scoped_lock lock(state_->mutex);
        const auto found = state_->transports.find(proto);
        return found == state_->transports.end() ? nullptr : found->second.get();
    }

    bool isTcpOnly() const {
        if (!state_) return false;
        std::scoped_lock lock(state_->mutex);
        return state_->transports.size() == 1 && state_->transports.count("tcp") == 1;
    }

    // Upstream's other engine, whose answers differ; these are of the classic one.
    bool isUsingTent() const { return false; }

    // RDMA devices in use.
    int numContexts() const { return 0; }

    // Of CXL memory.
    void* getBaseAddr() { return nullptr; }

    // ---- names ---------------------------------------------------------------------------------

    // "host:port" of this engine; empty without one.
    std::string getLocalIpAndPort() {
        char text[512];
        return ::getLocalIpAndPort(handle(), text, sizeof text) == 0 ? text : "";
    }

    // Negative without an engine.
    int getRpcPort() {
        const std::string address = getLocalIpAndPort();
        return address.empty() ? ERR_CONTEXT : parseHostNameWithPort(address).second;
    }

    // The same name gives the same id. A failure is an ERR_* cast to SegmentHandle.
    SegmentHandle openSegment(const std::string& segment_name) {
        const int32_t id = ::openSegment(handle(), segment_name.c_str());
        return id < 0 ? static_cast<SegmentHandle>(ERR_INVALID_ARGUMENT) : static_cast<SegmentHandle>(id);
    }

    Status CheckSegmentStatus(SegmentID sid) {
        if (tent_cxx_segment(handle(), sid, "name", nullptr, 0) >= 0) return Status::OK();
        return Status::InvalidArgument(detail::lastError());
    }

    int closeSegment(SegmentHandle segment) {
        return segment > INT32_MAX ? ERR_INVALID_ARGUMENT
                                   : ::closeSegment(handle(), static_cast<int32_t>(segment));
    }

    int removeLocalSegment(const std::string& segment_name) {
        return ::removeLocalSegment(handle(), segment_name.c_str());
    }

    int syncSegmentCache(const std::string& segment_name = "") {
        return state_ && state_->metadata ? state_->metadata->syncSegmentCache(segment_name) : ERR_CONTEXT;
    }

    PeerLiveness probePeerAliveByID(SegmentID target_id) {
        return tent_cxx_probe(handle(), target_id) == 0 ? PeerLiveness::Alive : PeerLiveness::Unreachable;
    }

    // Null before init.
    std::shared_ptr<TransferMetadata> getMetadata() { return state_ ? state_->metadata : nullptr; }

    // ---- memory --------------------------------------------------------------------------------

    // What is registered is always told to peers that ask: update_metadata saves nothing here.
    int registerLocalMemory(void* addr, size_t length, const std::string& location = kWildcardLocation,
                            bool remote_accessible = true, bool update_metadata = true) {
        (void)update_metadata;
        return ::registerLocalMemory(handle(), addr, length, location.c_str(), remote_accessible);
    }

    int unregisterLocalMemory(void* addr, bool update_metadata = true) {
        (void)update_metadata;
        return ::unregisterLocalMemory(handle(), addr);
    }

    int registerLocalMemoryBatch(const std::vector<BufferEntry>& buffer_list, const std::string& location) {
        std::vector<buffer_entry_t> list;
        list.reserve(buffer_list.size());
        for (const auto& buffer : buffer_list) list.push_back({buffer.addr, buffer.length});
        return ::registerLocalMemoryBatch(handle(), list.data(), list.size(), location.c_str());
    }

    int unregisterLocalMemoryBatch(const std::vector<void*>& addr_list) {
        std::vector<void*> list = addr_list;
        return ::unregisterLocalMemoryBatch(handle(), list.data(), list.size());
    }

    // Whether a registered range holds a byte of this one.
    bool checkOverlap(void* addr, uint64_t length) {
        tent_segment_info_t own{};
        if (tent_get_segment_info(handle(), LOCAL_SEGMENT_ID, &own) != 0) return false;
        bool found = false;
        for (int i = 0; i < own.num_buffers; i++) {
            const auto* base = reinterpret_cast<const void*>(own.buffers[i].base);
            found = found || overlap(addr, length, base, own.buffers[i].length);
        }
        tent_free_segment_info(&own);
        return found;
    }

    // ---- transfers -----------------------------------------------------------------------------

    // INVALID_BATCH_ID on failure. batch_size: how many tasks the batch may ever hold.
    BatchID allocateBatchID(size_t batch_size) { return ::allocateBatchID(handle(), batch_size); }

    // BatchBusy while a task is unfinished.
    Status freeBatchID(BatchID batch_id) { return Transport::toStatus(::freeBatchID(handle(), batch_id)); }

    // All or none; does not wait for the data.
    Status submitTransfer(BatchID batch_id, const std::vector<TransferRequest>& entries) {
        return Transport::submit(handle(), batch_id, entries, nullptr);
    }

    // When the whole batch has completed the message goes to the target of the first entry.
    Status submitTransferWithNotify(BatchID batch_id, const std::vector<TransferRequest>& entries,
                                    TransferMetadata::NotifyDesc notify_msg) {
        return Transport::submit(handle(), batch_id, entries, &notify_msg);
    }

    // The status is FAILED if the call fails.
    Status getTransferStatus(BatchID batch_id, size_t task_id, TransferStatus& status) {
        return Transport::statusOf(handle(), batch_id, task_id, status);
    }

    // WAITING until every task has ended; then COMPLETED or FAILED, and the sum of bytes.
    Status getBatchTransferStatus(BatchID batch_id, TransferStatus& status) {
        tent_status_t seen{};
        status = {TransferStatusEnum::FAILED, 0};
        if (tent_batch_status(handle(), batch_id, &seen) != 0) return Status::InvalidArgument(detail::lastError());
        const bool pending = seen.status == TENT_STATUS_WAITING || seen.status == TENT_STATUS_PENDING;
        status.transferred_bytes = static_cast<size_t>(seen.transferred_bytes);
        if (pending) status.s = TransferStatusEnum::WAITING;
        if (seen.status == TENT_STATUS_COMPLETED) status.s = TransferStatusEnum::COMPLETED;
        return Status::OK();
    }

#ifdef ENABLE_MULTI_PROTOCOL
    // The runtime chooses the transport, so the protocols of the map only say which memory there is.
    int mp_registerLocalMemory(std::unordered_map<std::string, std::vector<RegisteredBuffer>>& buffer_map) {
        std::map<void*, int> seen;
        for (const auto& [protocol, buffers] : buffer_map) {
            for (const auto& b : buffers) {
                if (!seen.emplace(b.addr, 0).second) continue;
                const int rc = registerLocalMemory(b.addr, b.length, b.location, b.remote_accessible);
                if (rc == 0) continue;
                seen.erase(b.addr);
                for (const auto& done : seen) (void)unregisterLocalMemory(done.first);
                return rc;
            }
        }
        return 0;
    }

    int mp_unregisterLocalMemory(std::unordered_map<std::string, std::vector<RegisteredBuffer>>& buffer_map) {
        std::map<void*, int> seen;
        for (const auto& [protocol, buffers] : buffer_map)
            for (const auto& b : buffers)
                if (seen.count(b.addr) == 0) seen[b.addr] = unregisterLocalMemory(b.addr);
        for (const auto& [addr, rc] : seen)
            if (rc != 0) return rc;
        return 0;
    }

    Status mp_submitTransfer(BatchID batch_id, const std::vector<TransferRequest>& entries, std::string&) {
        return submitTransfer(batch_id, entries);
    }

    Status mp_submitTransferWithNotify(BatchID batch_id, const std::vector<TransferRequest>& entries,
                                       TransferMetadata::NotifyDesc notify_msg, std::string&) {
        return submitTransferWithNotify(batch_id, entries, std::move(notify_msg));
    }
#endif

#ifdef TENT_HAS_SCATTER
    // ---- scatter -------------------------------------------------------------------------------

    // Fragments between one local buffer and one range of a peer: fragment i is lengths[i] bytes at
    // local_offsets[i] here and at remote_base_offset + remote_offsets[i] there. The spans and what they
    // show need to live during the submit only; the buffer until the operation has ended.
    struct ScatterTransferRange {
        TransferRequest::OpCode opcode;
        std::string remote_segment;
        uint64_t remote_base_offset;
        size_t remote_size;
        void* local_buffer;
        size_t local_capacity;
        std::span<const size_t> local_offsets;
        std::span<const size_t> remote_offsets;
        std::span<const size_t> lengths;
        // Called once for each fragment, with its index in this range, by whoever waits.
        std::function<void(size_t, const Status&)> on_fragment_complete;
    };

    // What submitScatter began. Its end waits for the transfer's.
    class ScatterTransferOperation {
       public:
        ScatterTransferOperation(ScatterTransferOperation&&) noexcept = default;
        ScatterTransferOperation& operator=(ScatterTransferOperation&& other) noexcept {
            if (this != &other) {
                (void)wait();
                impl_ = std::move(other.impl_);
            }
            return *this;
        }
        ScatterTransferOperation(const ScatterTransferOperation&) = delete;
        ScatterTransferOperation& operator=(const ScatterTransferOperation&) = delete;
        ~ScatterTransferOperation() { (void)wait(); }

        // OK, or what befell the first fragment that failed.
        Status wait() {
            return impl_ ? impl_->waitUntil(std::chrono::steady_clock::time_point::max()) : Status::OK();
        }

        // Context if the time comes first. That cancels nothing: wait again.
        Status waitFor(std::chrono::nanoseconds timeout) {
            using Clock = std::chrono::steady_clock;
            const auto now = Clock::now();
            const bool endless = timeout > Clock::time_point::max() - now;
            return impl_ ? impl_->waitUntil(endless ? Clock::time_point::max() : now + timeout) : Status::OK();
        }

       private:
        friend class TransferEngine;
        using Callback = std::function<void(size_t, const Status&)>;

        struct Fragment {
            size_t range;
            size_t index;
            bool done = false;
        };

        // Freed when everything has ended and nobody waits.
        class Impl {
           public:
            Impl(transfer_engine_t engine, const std::vector<ScatterTransferRange>& ranges) : engine_(engine) {
                std::vector<TransferRequest> requests;
                result_ = plan(ranges, requests);
                if (result_.ok() && !requests.empty()) result_ = launch(requests);
                // nothing is under way: whoever waits hears that for every fragment
                if (!result_.ok()) failed_ = true;
            }
            Impl(const Impl&) = delete;
            Impl& operator=(const Impl&) = delete;

            Status waitUntil(std::chrono::steady_clock::time_point end) {
                std::scoped_lock lock(mutex_);
                if (failed_) {
                    for (auto& fragment : fragments_) settle(fragment, result_);
                    return result_;
                }
                while (collect() > 0) {
                    const auto now = std::chrono::steady_clock::now();
                    if (now >= end) return Status::Context("the scatter goes on: the time came first");
                    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - now).count();
                    // with callbacks to make it looks at the fragments every millisecond
                    const uint64_t limit = has_callbacks_ ? 1 : 1000;
                    (void)tent_wait(engine_, batch_, std::min(limit, static_cast<uint64_t>(left)));
                }
                if (batch_ != INVALID_BATCH_ID) {
                    (void)::freeBatchID(engine_, batch_);
                    batch_ = INVALID_BATCH_ID;
                }
                return result_;
            }

           private:
            Status plan(const std::vector<ScatterTransferRange>& ranges, std::vector<TransferRequest>& requests) {
                Status bad;
                for (size_t r = 0; r < ranges.size(); r++) {
                    const auto& range = ranges[r];
                    callbacks_.push_back(range.on_fragment_complete);
                    has_callbacks_ = has_callbacks_ || range.on_fragment_complete;
                    for (size_t i = 0; i < range.lengths.size(); i++) fragments_.push_back({r, i});
                    if (bad.ok()) bad = plan(range, requests);
                }
                return bad;
            }

            Status plan(const ScatterTransferRange& range, std::vector<TransferRequest>& requests) {
                const size_t count = range.lengths.size();
                if (range.local_offsets.size() != count || range.remote_offsets.size() != count)
                    return Status::InvalidArgument("the offsets and lengths of a range differ in number");
                if (count == 0) return Status::OK();
                const int32_t segment = ::openSegment(engine_, range.remote_segment.c_str());
                if (segment < 0) return Status::InvalidArgument(detail::lastError());
                for (size_t i = 0; i < count; i++) {
                    const size_t length = range.lengths[i];
                    const size_t here = range.local_offsets[i], there = range.remote_offsets[i];
                    const bool fits = here <= range.local_capacity && length <= range.local_capacity - here &&
                                      there <= range.remote_size && length <= range.remote_size - there &&
                                      there <= UINT64_MAX - range.remote_base_offset;
                    if (!fits)
                        return Status::InvalidArgument("fragment " + std::to_string(i) + " of " +
                                                       std::to_string(length) + " bytes leaves its range");
                    TransferRequest request{};
                    request.opcode = range.opcode;
                    request.source = static_cast<char*>(range.local_buffer) + here;
                    request.target_id = static_cast<SegmentID>(segment);
                    request.target_offset = range.remote_base_offset + there;
                    request.length = length;
                    requests.push_back(request);
                }
                return Status::OK();
            }

            Status launch(const std::vector<TransferRequest>& requests) {
                batch_ = ::allocateBatchID(engine_, requests.size());
                if (batch_ == INVALID_BATCH_ID) return Status::TooManyRequests(detail::lastError());
                Status status = Transport::submit(engine_, batch_, requests, nullptr);
                if (!status.ok()) {
                    (void)::freeBatchID(engine_, batch_);
                    batch_ = INVALID_BATCH_ID;
                }
                return status;
            }

            // Settles what has ended; the number of fragments that have not.
            size_t collect() {
                size_t pending = 0;
                for (size_t i = first_; i < fragments_.size(); i++) {
                    if (fragments_[i].done) continue;
                    TransferStatus status{};
                    const Status asked = Transport::statusOf(engine_, batch_, i, status);
                    const bool goes_on = asked.ok() && (status.s == TransferStatusEnum::WAITING ||
                                                        status.s == TransferStatusEnum::PENDING);
                    if (goes_on) {
                        pending++;
                        continue;
                    }
                    Status ending = asked;
                    if (asked.ok() && status.s != TransferStatusEnum::COMPLETED)
                        ending = Status::Context(detail::lastError());
                    settle(fragments_[i], ending);
                }
                while (first_ < fragments_.size() && fragments_[first_].done) first_++;
                return pending;
            }

            void settle(Fragment& fragment, const Status& status) {
                if (fragment.done) return;
                fragment.done = true;
                if (result_.ok() && !status.ok()) result_ = status;
                const auto& call = callbacks_[fragment.range];
                if (call) call(fragment.index, status);
            }

            transfer_engine_t engine_;
            BatchID batch_ = INVALID_BATCH_ID;
            std::mutex mutex_;
            std::vector<Callback> callbacks_;
            std::vector<Fragment> fragments_;
            // all before it are done
            size_t first_ = 0;
            bool has_callbacks_ = false;
            bool failed_ = false;
            Status result_;
        };

        explicit ScatterTransferOperation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
        std::unique_ptr<Impl> impl_;
    };

    // All or none. An operation that could not begin says so when it is waited for.
    ScatterTransferOperation submitScatter(const std::vector<ScatterTransferRange>& ranges) {
        return ScatterTransferOperation(std::make_unique<ScatterTransferOperation::Impl>(handle(), ranges));
    }

    Status transferScatter(const std::vector<ScatterTransferRange>& ranges) { return submitScatter(ranges).wait(); }
#endif

    // ---- notifications -------------------------------------------------------------------------

    // Appends what has come.
    int getNotifies(std::vector<TransferMetadata::NotifyDesc>& notifies) {
        return state_ && state_->metadata ? state_->metadata->getNotifies(notifies) : ERR_CONTEXT;
    }

    // Waits for the peer's answer.
    int sendNotifyByID(SegmentID target_id, TransferMetadata::NotifyDesc notify_msg) {
        return ::genNotifyInEngine(handle(), target_id, {notify_msg.name.data(), notify_msg.notify_msg.data()});
    }

    int sendNotifyByName(std::string remote_agent, TransferMetadata::NotifyDesc notify_msg) {
        const SegmentHandle segment = openSegment(remote_agent);
        return segment > INT32_MAX ? ERR_METADATA : sendNotifyByID(segment, std::move(notify_msg));
    }

    // ---- reports -------------------------------------------------------------------------------

    Status getNicLoadStats(std::vector<NicLoadStats>& stats) const {
        stats.clear();
        std::vector<nic_load_stat_t> list(8);
        size_t count = list.size();
        int rc = ::getNicLoadStats(handle(), list.data(), &count);
        while (rc == 0 && count > list.size()) {
            list.resize(count);
            rc = ::getNicLoadStats(handle(), list.data(), &count);
        }
        if (rc != 0) return Transport::toStatus(rc < 0 ? 1 : rc);
        list.resize(count);
        for (const auto& s : list) stats.push_back({s.device_name, s.inflight_bytes, s.ewma_bandwidth_bps});
        return Status::OK();
    }

    // The links of this host as text, or as JSON; without an engine, of the topology alone.
    std::string showLinks(bool json = false) const {
        if (!state_) return json ? "{}" : "";
        const std::string matrix = state_->topology->toString();
        const auto links = detail::wholeText([&](char* buf, size_t len) {
            return tent_cxx_links(state_->engine, matrix.c_str(), json, buf, len);
        });
        return links.value_or(json ? "{}" : "");
    }

    // Never null, but in an object that was moved from.
    std::shared_ptr<Topology> getLocalTopology() { return state_ ? state_->topology : nullptr; }
    std::string getLocalTopologyString() { return state_ ? state_->topology->toString() : "{}"; }

   private:
    struct State {
        transfer_engine_t engine = nullptr;
        AutoDiscoverConfig auto_discover;
        std::vector<std::string> filter;
        bool wants_shutdown = false;
        std::shared_ptr<Topology> topology = std::make_shared<Topology>();
        std::shared_ptr<TransferMetadata> metadata;
        // of the transports, and of the end
        std::mutex mutex;
        std::map<std::string, std::unique_ptr<Transport>> transports;
    };

    transfer_engine_t handle() const { return state_ ? state_->engine : nullptr; }

    // This object stands for what the other one stood for.
    void take(TransferEngine& other) noexcept {
        tent_cxx_unbind(&other);
        (void)tent_cxx_bind(this, handle());
    }

    void loadTopology() {
        const auto json = detail::wholeText([&](char* buf, size_t len) {
            return tent_cxx_topology(state_->engine, nullptr, buf, len);
        });
        if (json) (void)state_->topology->parse(*json);
    }

    std::unique_ptr<State> state_;
};

}  // namespace mooncake

#endif  // TENT_MOONCAKE_TRANSFER_ENGINE_H
