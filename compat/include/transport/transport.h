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

// What a program asks to have moved, and what installTransport gives: a name for a way of moving it.
#ifndef TENT_MOONCAKE_TRANSPORT_H
#define TENT_MOONCAKE_TRANSPORT_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "transfer_metadata.h"

namespace mooncake {

// Owned by its engine, and dead with it. Which transport carries the bytes between two engines of this
// library is the runtime's choice, whatever was installed.
class Transport {
   public:
    using SegmentID = uint64_t;
    using SegmentHandle = SegmentID;
    using BatchID = uint64_t;
    using BufferDesc = TransferMetadata::BufferDesc;
    using SegmentDesc = TransferMetadata::SegmentDesc;
    using HandShakeDesc = TransferMetadata::HandShakeDesc;
    using NotifyDesc = TransferMetadata::NotifyDesc;

    struct TransferRequest {
        enum OpCode { READ, WRITE };

        OpCode opcode;
        void* source;
        SegmentID target_id;
        uint64_t target_offset;  // an address in the peer, absolute
        size_t length;
        // wishes of upstream's schedulers, which the runtime does not need
        int advise_retry_cnt = 0;
        int transport_hint = 0;
        uint64_t task_group_id = 0;
    };

    enum TransferStatusEnum { WAITING, PENDING, INVALID, CANCELED, COMPLETED, TIMEOUT, FAILED };

    struct TransferStatus {
        TransferStatusEnum s;
        size_t transferred_bytes;
    };

    struct BufferEntry {
        void* addr;
        size_t length;
    };

    // Load of a local interface: bytes in flight, and bytes per second as measured.
    struct NicLoadStats {
        std::string device_name;
        uint64_t inflight_bytes = 0;
        double ewma_bandwidth_bps = 0;
    };

    virtual ~Transport() = default;

    virtual const char* getName() const { return name_.c_str(); }
    virtual BatchID allocateBatchID(size_t batch_size) { return ::allocateBatchID(engine_, batch_size); }
    virtual Status freeBatchID(BatchID batch_id) { return toStatus(::freeBatchID(engine_, batch_id)); }
    virtual Status submitTransfer(BatchID batch_id, const std::vector<TransferRequest>& entries) {
        return submit(engine_, batch_id, entries, nullptr);
    }
    virtual Status getTransferStatus(BatchID batch_id, size_t task_id, TransferStatus& status) {
        return statusOf(engine_, batch_id, task_id, status);
    }
    std::shared_ptr<TransferMetadata>& meta() { return metadata_; }

   protected:
    friend class TransferEngine;

    Transport(transfer_engine_t engine, std::string name, std::shared_ptr<TransferMetadata> metadata)
        : engine_(engine), name_(std::move(name)), metadata_(std::move(metadata)) {}

    // A positive code of the C API, with the reason that the library gives for it.
    static Status toStatus(int rc) {
        if (rc == 0) return Status::OK();
        const auto code = rc > 0 ? static_cast<Status::Code>(rc) : Status::Code::kContext;
        return Status(code, detail::lastError());
    }

    static Status submit(transfer_engine_t engine, BatchID batch_id, const std::vector<TransferRequest>& entries,
                         NotifyDesc* message) {
        // most submits are short: those need no memory
        std::array<transfer_request_t, 16> few;
        std::vector<transfer_request_t> many;
        transfer_request_t* requests = few.data();
        if (entries.size() > few.size()) {
            many.resize(entries.size());
            requests = many.data();
        }
        for (size_t i = 0; i < entries.size(); i++) {
            const TransferRequest& entry = entries[i];
            if (entry.target_id > INT32_MAX)
                return Status::InvalidArgument("target_id " + std::to_string(entry.target_id) + " is no segment");
            requests[i] = {static_cast<int>(entry.opcode), entry.source, static_cast<int32_t>(entry.target_id),
                           entry.target_offset, entry.length};
        }
        if (!message) return toStatus(::submitTransfer(engine, batch_id, requests, entries.size()));
        return toStatus(::submitTransferWithNotify(engine, batch_id, requests, entries.size(),
                                                   {message->name.data(), message->notify_msg.data()}));
    }

    static Status statusOf(transfer_engine_t engine, BatchID batch_id, size_t task_id, TransferStatus& status) {
        transfer_status_t seen{};
        const int rc = ::getTransferStatus(engine, batch_id, task_id, &seen);
        status = {static_cast<TransferStatusEnum>(seen.status), static_cast<size_t>(seen.transferred_bytes)};
        return toStatus(rc);
    }

   private:
    transfer_engine_t engine_;
    std::string name_;
    std::shared_ptr<TransferMetadata> metadata_;
};

}  // namespace mooncake

#endif  // TENT_MOONCAKE_TRANSPORT_H
