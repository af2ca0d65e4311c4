// The checklist: every public method and helper type of upstream's class, with its signature. That this
// compiles is the test; a name that is missing, or takes or gives something else, does not.
#define ENABLE_MULTI_PROTOCOL
#include <cuda_alike.h>
#include <transfer_engine.h>
#include <common/base/status.h>
#include <config.h>

#include "check.h"

#include <string>
#include <vector>

using namespace mooncake;
using Notify = TransferMetadata::NotifyDesc;
using E = TransferEngine;

namespace {

int methods = 0;

// Takes the address of a method as exactly this type.
template <typename Method>
void has(Method method) {
    CHECK(method != nullptr);
    methods++;
}

void engine() {
    has<int (E::*)(const std::string &, const std::string &, const std::string &, uint64_t)>(&E::init);
    has<int (E::*)()>(&E::freeEngine);
    has<Transport *(E::*)(const std::string &, void **)>(&E::installTransport);
    has<int (E::*)(const std::string &)>(&E::uninstallTransport);
    has<std::string (E::*)()>(&E::getLocalIpAndPort);
    has<int (E::*)()>(&E::getRpcPort);
    has<bool (E::*)() const>(&E::isUsingTent);
    has<SegmentHandle (E::*)(const std::string &)>(&E::openSegment);
    has<Status (E::*)(SegmentID)>(&E::CheckSegmentStatus);
    has<int (E::*)(SegmentHandle)>(&E::closeSegment);
    has<int (E::*)(const std::string &)>(&E::removeLocalSegment);
    has<int (E::*)(void *, size_t, const std::string &, bool, bool)>(&E::registerLocalMemory);
    has<int (E::*)(void *, bool)>(&E::unregisterLocalMemory);
    has<int (E::*)(const std::vector<BufferEntry> &, const std::string &)>(&E::registerLocalMemoryBatch);
    has<int (E::*)(const std::vector<void *> &)>(&E::unregisterLocalMemoryBatch);
    has<BatchID (E::*)(size_t)>(&E::allocateBatchID);
    has<Status (E::*)(BatchID)>(&E::freeBatchID);
    has<Status (E::*)(BatchID, const std::vector<TransferRequest> &)>(&E::submitTransfer);
    has<Status (E::*)(BatchID, const std::vector<TransferRequest> &, Notify)>(&E::submitTransferWithNotify);
    has<int (E::*)(std::vector<Notify> &)>(&E::getNotifies);
    has<int (E::*)(SegmentID, Notify)>(&E::sendNotifyByID);
    has<int (E::*)(std::string, Notify)>(&E::sendNotifyByName);
    has<PeerLiveness (E::*)(SegmentID)>(&E::probePeerAliveByID);
    has<Status (E::*)(BatchID, size_t, TransferStatus &)>(&E::getTransferStatus);
    has<Status (E::*)(BatchID, TransferStatus &)>(&E::getBatchTransferStatus);
    has<Status (E::*)(std::vector<NicLoadStats> &) const>(&E::getNicLoadStats);
    has<Transport *(E::*)(const std::string &)>(&E::getTransport);
    has<bool (E::*)() const>(&E::isTcpOnly);
    has<int (E::*)() const>(&E::numContexts);
    has<int (E::*)(const std::string &)>(&E::syncSegmentCache);
    has<std::shared_ptr<TransferMetadata> (E::*)()>(&E::getMetadata);
    has<bool (E::*)(void *, uint64_t)>(&E::checkOverlap);
    has<void *(E::*)()>(&E::getBaseAddr);
    has<void (E::*)(bool)>(&E::setAutoDiscover);
    has<void (E::*)(const AutoDiscoverConfig &)>(&E::setAutoDiscover);
    has<void (E::*)(std::vector<std::string> &&)>(&E::setWhitelistFilters);
    has<std::shared_ptr<Topology> (E::*)()>(&E::getLocalTopology);
    has<std::string (E::*)()>(&E::getLocalTopologyString);
    has<void (E::*)()>(&E::enableGracefulShutdown);
    has<std::string (E::*)(bool) const>(&E::showLinks);
    using Buffers = std::unordered_map<std::string, std::vector<E::RegisteredBuffer>>;
    has<int (E::*)(Buffers &)>(&E::mp_registerLocalMemory);
    has<int (E::*)(Buffers &)>(&E::mp_unregisterLocalMemory);
    has<Status (E::*)(BatchID, const std::vector<TransferRequest> &, std::string &)>(&E::mp_submitTransfer);
    has<Status (E::*)(BatchID, const std::vector<TransferRequest> &, Notify, std::string &)>(
        &E::mp_submitTransferWithNotify);
#if __cplusplus >= 202002L
    using Ranges = std::vector<E::ScatterTransferRange>;
    has<E::ScatterTransferOperation (E::*)(const Ranges &)>(&E::submitScatter);
    has<Status (E::*)(const Ranges &)>(&E::transferScatter);
    has<Status (E::ScatterTransferOperation::*)()>(&E::ScatterTransferOperation::wait);
    has<Status (E::ScatterTransferOperation::*)(std::chrono::nanoseconds)>(&E::ScatterTransferOperation::waitFor);
#endif
}

void helpers() {
    using M = TransferMetadata;
    using Desc = std::shared_ptr<M::SegmentDesc>;
    has<Desc (M::*)(M::SegmentID, bool)>(&M::getSegmentDescByID);
    has<Desc (M::*)(const std::string &, bool)>(&M::getSegmentDescByName);
    has<M::SegmentID (M::*)(const std::string &)>(&M::getSegmentID);
    has<int (M::*)(const std::string &)>(&M::removeSegmentDesc);
    has<int (M::*)(const std::string &)>(&M::sendProbe);
    has<int (M::*)(M::SegmentID, const std::string &, Desc &&)>(&M::addLocalSegment);
    has<int (M::*)(M::SegmentID)>(&M::updateLocalSegmentDesc);
    has<int (M::*)(const std::string &)>(&M::rePublishRpcMetaEntry);
    has<int (Topology::*)()>(&Topology::discover);
    has<int (Topology::*)(const std::vector<std::string> &)>(&Topology::discover);
    has<int (Topology::*)(const std::string &)>(&Topology::parse);
    has<std::string (Topology::*)() const>(&Topology::toString);
    has<const std::vector<std::string> &(Topology::*)() const>(&Topology::getHcaList);
    has<TopologyMatrix (Topology::*)() const>(&Topology::getMatrix);
    has<int (Topology::*)(std::string, int)>(&Topology::selectDevice);
    has<int (Topology::*)(const std::string &)>(&Topology::disableDevice);
    has<Status::Code (Status::*)() const>(&Status::code);
    has<bool (Status::*)() const>(&Status::ok);
    has<std::string_view (Status::*)() const>(&Status::message);
    has<std::pair<std::string, uint16_t> (*)(const std::string &)>(&parseHostNameWithPort);
    has<int64_t (*)()>(&getCurrentTimeInNano);
    has<GlobalConfig &(*)()>(&globalConfig);
}

// Fields, by assignment as programs do it.
void fields() {
    TransferRequest request{TransferRequest::WRITE, nullptr, 1, 2, 3};
    request.advise_retry_cnt = 1;
    request.transport_hint = 0;
    request.task_group_id = 7;
    TransferStatus status{TransferStatusEnum::PENDING, 0};
    status.s = TransferStatusEnum::TIMEOUT;
    NicLoadStats load{"eth0", 1, 2.0};
    BufferEntry entry{nullptr, 1};
    TransferMetadata::DeviceDesc device;
    device.gid = "";
    TransferMetadata::HandShakeDesc shake;
    shake.qp_num.push_back(1);
    CHECK(request.task_group_id == 7 && status.s == STATUS_TIMEOUT && load.inflight_bytes == 1 && entry.length == 1);
    CHECK(LOCAL_SEGMENT_ID == 0 && INVALID_BATCH_ID == INVALID_BATCH && std::string(P2PHANDSHAKE) == "P2PHANDSHAKE");
    const int codes[] = {0, 1, 2, 3, 4, 6, 7, 8, 101, 102, 103, 104, 200, 201, 202, 300, 301, 302, 999};
    for (int code : codes)
        CHECK(Status::CodeToString(static_cast<Status::Code>(code)) != "UnknownCode");
    CHECK(Status::CodeToString(static_cast<Status::Code>(5)) == "UnknownCode");
}

// Memory of two protocols is registered once.
void protocols() {
    E engine(false);
    std::vector<char> memory(8192);
    std::unordered_map<std::string, std::vector<E::RegisteredBuffer>> map;
    map["tcp"].emplace_back(memory.data(), 4096);
    map["cxl"].emplace_back(memory.data(), 4096, "cpu:0");
    map["cxl"].emplace_back(memory.data() + 4096, 4096, "cpu:0");
    CHECK(engine.mp_registerLocalMemory(map) != 0);
    CHECK_INT(engine.init(P2PHANDSHAKE, "127.0.0.1"), 0);
    CHECK_INT(engine.mp_registerLocalMemory(map), 0);
    CHECK(engine.checkOverlap(memory.data() + 8191, 1));
    CHECK_INT(engine.mp_unregisterLocalMemory(map), 0);
    CHECK_INT(engine.mp_unregisterLocalMemory(map), ERR_ADDRESS_NOT_REGISTERED);
}

} // namespace

int main() {
    watchdog(30);
    engine();
    helpers();
    fields();
    protocols();
    FACT("%d methods, C++%ld", methods, __cplusplus / 100 % 100);
    return pass("cxx_methods");
}
