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

// What engines tell of themselves and know of each other, as upstream's programs look into it.
#ifndef TENT_MOONCAKE_TRANSFER_METADATA_H
#define TENT_MOONCAKE_TRANSFER_METADATA_H

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common.h"
#include "topology.h"

#define P2PHANDSHAKE "P2PHANDSHAKE"

namespace mooncake {

// A view of one engine, from TransferEngine::getMetadata. It may outlive the engine: every method then
// gives its error. Descriptions are snapshots, made when they are asked for.
class TransferMetadata {
   public:
    using SegmentID = uint64_t;

    struct DeviceDesc {
        std::string name;
        uint16_t lid = 0;
        std::string gid;
        std::string eid;
    };

    struct BufferDesc {
        using mr_key_t = uint32_t;

        std::string name;
        uint64_t addr = 0;
        uint64_t length = 0;
        int32_t device_id = -1;
#ifdef ENABLE_MULTI_PROTOCOL
        std::string protocol;
#endif
        // other transports' keys; always empty here
        std::vector<mr_key_t> lkey;
        std::vector<mr_key_t> rkey;
        std::string shm_name;
        uint64_t offset = 0;
    };

    struct NVMeoFBufferDesc {
        std::string file_path;
        uint64_t length = 0;
        std::unordered_map<std::string, std::string> local_path_map;
    };

    struct RankInfoDesc {
        uint64_t rankId = 0xFFFFFFFF;
        std::string hostIp;
        uint64_t hostPort = 0;
        uint64_t deviceLogicId = 0;
        uint64_t devicePhyId = 0;
        uint64_t deviceType = 5;
        std::string deviceIp;
        uint64_t devicePort = 0;
        uint64_t pid = 0;
        std::vector<std::string> endpoints;
    };

    struct SegmentDesc {
        std::string name;
        std::string protocol;
        std::vector<DeviceDesc> devices;
        Topology topology;
        std::vector<BufferDesc> buffers;
        std::vector<NVMeoFBufferDesc> nvmeof_buffers;
        std::string cxl_name;
        uint64_t cxl_base_addr = 0;
        std::string timestamp;
        RankInfoDesc rank_info;
        std::string tcp_data_host;
        int tcp_data_port = 0;
        int tcp_proto_version = 1;
        std::string rdma_server_name;

        const std::string& nicPathServerName() const { return rdma_server_name.empty() ? name : rdma_server_name; }
    };

    struct RpcMetaDesc {
        std::string ip_or_host_name;
        uint16_t rpc_port = 0;
        int sockfd = -1;
    };

    // Declared for sources that name it: the handshake of RDMA.
    struct HandShakeDesc {
        std::string payload;
        std::string local_nic_path;
        uint16_t local_lid = 0;
        std::string local_gid;
        std::string peer_nic_path;
        std::vector<uint32_t> qp_num;
        bool ready_ack = false;
        bool ready_ack_supported = false;
        std::string reply_msg;
    };

    struct NotifyDesc {
        std::string name;
        std::string notify_msg;
    };

    TransferMetadata(const TransferMetadata&) = delete;
    TransferMetadata& operator=(const TransferMetadata&) = delete;

    // Null if there is no such segment. Of an open peer: what it said last, asked again with force_update.
    std::shared_ptr<SegmentDesc> getSegmentDescByID(SegmentID segment_id, bool force_update = false) {
        // an owner that does not answer keeps its old description
        if (force_update) (void)tent_cxx_refresh(engine_, segment_id);
        auto desc = std::make_shared<SegmentDesc>();
        const auto name = fact(segment_id, "name");
        tent_segment_info_t info{};
        if (!name || tent_get_segment_info(engine_, segment_id, &info) != 0) return nullptr;
        desc->name = *name;
        desc->protocol = fact(segment_id, "protocol").value_or("");
        desc->tcp_data_host = fact(segment_id, "tcp_data_host").value_or("");
        desc->tcp_data_port = number(segment_id, "tcp_data_port", 0);
        desc->tcp_proto_version = number(segment_id, "tcp_proto_version", 1);
        desc->timestamp = getCurrentDateTime();
        for (int i = 0; i < info.num_buffers; i++) {
            BufferDesc buffer;
            buffer.name = info.buffers[i].location;
            buffer.addr = info.buffers[i].base;
            buffer.length = info.buffers[i].length;
            desc->buffers.push_back(std::move(buffer));
        }
        tent_free_segment_info(&info);
        return desc;
    }

    // Opens the segment if it is not open; may wait for the network.
    std::shared_ptr<SegmentDesc> getSegmentDescByName(const std::string& segment_name, bool force_update = false) {
        const int32_t id = force_update ? ::openSegmentNoCache(engine_, segment_name.c_str())
                                        : ::openSegment(engine_, segment_name.c_str());
        return id < 0 ? nullptr : getSegmentDescByID(static_cast<SegmentID>(id));
    }

    std::shared_ptr<SegmentDesc> getSegmentDesc(const std::string& segment_name) {
        return getSegmentDescByName(segment_name, true);
    }

    // All ones if it cannot be opened.
    SegmentID getSegmentID(const std::string& segment_name) {
        const int32_t id = ::openSegment(engine_, segment_name.c_str());
        return id < 0 ? static_cast<SegmentID>(-1) : static_cast<SegmentID>(id);
    }

    int syncSegmentCache(const std::string& segment_name = "") {
        if (segment_name.empty()) return ::syncSegmentCache(engine_);
        return ::openSegmentNoCache(engine_, segment_name.c_str()) < 0 ? ERR_METADATA : 0;
    }

    // What the engine publishes of itself follows its registrations without being asked; so there is nothing
    // left to do for a live engine.
    int updateLocalSegmentDesc(SegmentID segment_id = LOCAL_SEGMENT_ID) {
        return segment_id == LOCAL_SEGMENT_ID ? live() : ERR_INVALID_ARGUMENT;
    }
    int rePublishRpcMetaEntry(const std::string& server_name) {
        return server_name.empty() ? ERR_INVALID_ARGUMENT : live();
    }

    // The next open asks the peer again and gives a new id.
    int removeSegmentDesc(const std::string& segment_name) { return removeLocalSegment(segment_name); }
    int removeLocalSegment(const std::string& segment_name) {
        return ::removeLocalSegment(engine_, segment_name.c_str());
    }

    // An engine describes its memory itself, and nobody else's: use registerLocalMemory.
    int updateSegmentDesc(const std::string&, const SegmentDesc&) { return ERR_NOT_IMPLEMENTED; }
    int addLocalSegment(SegmentID, const std::string&, std::shared_ptr<SegmentDesc>&&) { return ERR_NOT_IMPLEMENTED; }
    int addLocalMemoryBuffer(const BufferDesc&, bool) { return ERR_NOT_IMPLEMENTED; }
    int removeLocalMemoryBuffer(void*, bool) { return ERR_NOT_IMPLEMENTED; }
    int addRpcMetaEntry(const std::string&, RpcMetaDesc&) { return ERR_NOT_IMPLEMENTED; }
    int removeRpcMetaEntry(const std::string&) { return ERR_NOT_IMPLEMENTED; }

    // Where an engine answers. Of a peer it is known without a store only, where it is its name.
    int getRpcMetaEntry(const std::string& server_name, RpcMetaDesc& desc) {
        const std::string own = fact(LOCAL_SEGMENT_ID, "name").value_or("");
        if (own.empty()) return ERR_CONTEXT;
        if (own == server_name) return ownAddress(desc);
        if (!is_p2p_) return ERR_NOT_IMPLEMENTED;
        std::tie(desc.ip_or_host_name, desc.rpc_port) = parseHostNameWithPort(server_name);
        return 0;
    }

    const RpcMetaDesc& localRpcMeta() const { return local_rpc_meta_; }

    // Appends what has come.
    int getNotifies(std::vector<NotifyDesc>& notifies) {
        int count = 0;
        notify_msg_t* messages = ::getNotifsFromEngine(engine_, &count);
        for (int i = 0; i < count; i++) notifies.push_back({messages[i].name, messages[i].msg});
        ::freeNotifsMsgBuf(messages, count);
        return messages ? 0 : live();
    }

    // The answer carries nothing but that there was one.
    int sendNotify(const std::string& peer_server_name, const NotifyDesc& local_desc, NotifyDesc& peer_desc) {
        const int32_t id = ::openSegment(engine_, peer_server_name.c_str());
        if (id < 0) return ERR_METADATA;
        peer_desc = {};
        return sendNotifyByID(static_cast<SegmentID>(id), local_desc);
    }

    // 0: alive.
    int sendProbe(const std::string& peer_server_name) {
        const int32_t id = ::openSegment(engine_, peer_server_name.c_str());
        return id < 0 ? ERR_SOCKET : tent_cxx_probe(engine_, static_cast<SegmentID>(id));
    }

   private:
    friend class TransferEngine;

    TransferMetadata(transfer_engine_t engine, bool is_p2p) : engine_(engine), is_p2p_(is_p2p) {
        (void)ownAddress(local_rpc_meta_);
    }

    int live() const { return fact(LOCAL_SEGMENT_ID, "name") ? 0 : ERR_CONTEXT; }

    int ownAddress(RpcMetaDesc& desc) const {
        char text[512];
        const int rc = ::getLocalIpAndPort(engine_, text, sizeof text);
        if (rc == 0) std::tie(desc.ip_or_host_name, desc.rpc_port) = parseHostNameWithPort(text);
        return rc;
    }

    int sendNotifyByID(SegmentID id, NotifyDesc message) const {
        return ::genNotifyInEngine(engine_, id, {message.name.data(), message.notify_msg.data()});
    }

    std::optional<std::string> fact(SegmentID id, const char* key) const {
        return detail::wholeText(
            [&](char* buf, size_t len) { return tent_cxx_segment(engine_, id, key, buf, len); });
    }

    int number(SegmentID id, const char* key, int otherwise) const {
        return parseFromString<int>(fact(id, key).value_or("")).value_or(otherwise);
    }

    transfer_engine_t engine_;
    bool is_p2p_;
    RpcMetaDesc local_rpc_meta_;
};

}  // namespace mooncake

#endif  // TENT_MOONCAKE_TRANSFER_METADATA_H
