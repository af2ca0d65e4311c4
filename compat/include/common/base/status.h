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

// What a method of mooncake::TransferEngine that does not return a number has to say.
#ifndef TENT_MOONCAKE_STATUS_H
#define TENT_MOONCAKE_STATUS_H

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

namespace mooncake {

class Status final {
   public:
    enum class Code : uint16_t {
        kOk = 0,
        kInvalidArgument = 1,
        kTooManyRequests = 2,
        kAddressNotRegistered = 3,
        kBatchBusy = 4,
        kDeviceNotFound = 6,
        kAddressOverlapped = 7,
        kNotSupportedTransport = 8,
        kDns = 101,
        kSocket = 102,
        kMalformedJson = 103,
        kRejectHandshake = 104,
        kMetadata = 200,
        kEndpoint = 201,
        kContext = 202,
        kNuma = 300,
        kClock = 301,
        kMemory = 302,
        kNotImplemented = 999,
        kMaxCode
    };

    Status() = default;

    // The message of an OK status is dropped.
    Status(Code code, std::string_view message) : code_(code), message_(code == Code::kOk ? "" : message) {}

    Code code() const { return code_; }
    std::string_view message() const { return message_; }

    [[nodiscard]] bool ok() const { return code_ == Code::kOk; }
    [[nodiscard]] bool IsInvalidArgument() const { return code_ == Code::kInvalidArgument; }
    [[nodiscard]] bool IsTooManyRequests() const { return code_ == Code::kTooManyRequests; }
    [[nodiscard]] bool IsAddressNotRegistered() const { return code_ == Code::kAddressNotRegistered; }
    [[nodiscard]] bool IsBatchBusy() const { return code_ == Code::kBatchBusy; }
    [[nodiscard]] bool IsDeviceNotFound() const { return code_ == Code::kDeviceNotFound; }
    [[nodiscard]] bool IsAddressOverlapped() const { return code_ == Code::kAddressOverlapped; }
    [[nodiscard]] bool IsNotSupportedTransport() const { return code_ == Code::kNotSupportedTransport; }
    [[nodiscard]] bool IsDns() const { return code_ == Code::kDns; }
    [[nodiscard]] bool IsSocket() const { return code_ == Code::kSocket; }
    [[nodiscard]] bool IsMalformedJson() const { return code_ == Code::kMalformedJson; }
    [[nodiscard]] bool IsRejectHandshake() const { return code_ == Code::kRejectHandshake; }
    [[nodiscard]] bool IsMetadata() const { return code_ == Code::kMetadata; }
    [[nodiscard]] bool IsEndpoint() const { return code_ == Code::kEndpoint; }
    [[nodiscard]] bool IsContext() const { return code_ == Code::kContext; }
    [[nodiscard]] bool IsNuma() const { return code_ == Code::kNuma; }
    [[nodiscard]] bool IsClock() const { return code_ == Code::kClock; }
    [[nodiscard]] bool IsMemory() const { return code_ == Code::kMemory; }
    [[nodiscard]] bool IsNotImplemented() const { return code_ == Code::kNotImplemented; }

    std::string ToString() const {
        std::string text(CodeToString(code_));
        return ok() ? text : text + ": " + message_;
    }

    bool operator==(const Status& other) const { return code_ == other.code_ && message_ == other.message_; }
    bool operator!=(const Status& other) const { return !(*this == other); }

    static Status OK() { return Status(); }
    static Status InvalidArgument(std::string_view message) { return Status(Code::kInvalidArgument, message); }
    static Status TooManyRequests(std::string_view message) { return Status(Code::kTooManyRequests, message); }
    static Status AddressNotRegistered(std::string_view message) { return Status(Code::kAddressNotRegistered, message); }
    static Status BatchBusy(std::string_view message) { return Status(Code::kBatchBusy, message); }
    static Status DeviceNotFound(std::string_view message) { return Status(Code::kDeviceNotFound, message); }
    static Status AddressOverlapped(std::string_view message) { return Status(Code::kAddressOverlapped, message); }
    static Status NotSupportedTransport(std::string_view message) { return Status(Code::kNotSupportedTransport, message); }
    static Status Dns(std::string_view message) { return Status(Code::kDns, message); }
    static Status Socket(std::string_view message) { return Status(Code::kSocket, message); }
    static Status MalformedJson(std::string_view message) { return Status(Code::kMalformedJson, message); }
    static Status RejectHandshake(std::string_view message) { return Status(Code::kRejectHandshake, message); }
    static Status Metadata(std::string_view message) { return Status(Code::kMetadata, message); }
    static Status Endpoint(std::string_view message) { return Status(Code::kEndpoint, message); }
    static Status Context(std::string_view message) { return Status(Code::kContext, message); }
    static Status Numa(std::string_view message) { return Status(Code::kNuma, message); }
    static Status Clock(std::string_view message) { return Status(Code::kClock, message); }
    static Status Memory(std::string_view message) { return Status(Code::kMemory, message); }
    static Status NotImplemented(std::string_view message) { return Status(Code::kNotImplemented, message); }

    static std::string_view CodeToString(Code code) {
        switch (code) {
            case Code::kOk:
                return "OK";
            case Code::kInvalidArgument:
                return "InvalidArgument";
            case Code::kTooManyRequests:
                return "TooManyRequests";
            case Code::kAddressNotRegistered:
                return "AddressNotRegistered";
            case Code::kBatchBusy:
                return "BatchBusy";
            case Code::kDeviceNotFound:
                return "DeviceNotFound";
            case Code::kAddressOverlapped:
                return "AddressOverlapped";
            case Code::kNotSupportedTransport:
                return "NotSupportedTransport";
            case Code::kDns:
                return "Dns";
            case Code::kSocket:
                return "Socket";
            case Code::kMalformedJson:
                return "MalformedJson";
            case Code::kRejectHandshake:
                return "RejectHandshake";
            case Code::kMetadata:
                return "Metadata";
            case Code::kEndpoint:
                return "Endpoint";
            case Code::kContext:
                return "Context";
            case Code::kNuma:
                return "Numa";
            case Code::kClock:
                return "Clock";
            case Code::kMemory:
                return "Memory";
            case Code::kNotImplemented:
                return "NotImplemented";
            case Code::kMaxCode:
                break;
        }
        return "UnknownCode";
    }

   private:
    Code code_ = Code::kOk;
    std::string message_;
};

inline std::ostream& operator<<(std::ostream& out, Status::Code code) { return out << Status::CodeToString(code); }
inline std::ostream& operator<<(std::ostream& out, const Status& status) { return out << status.ToString(); }

}  // namespace mooncake

#endif  // TENT_MOONCAKE_STATUS_H
