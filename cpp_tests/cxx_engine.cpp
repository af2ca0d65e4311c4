// The rest of the class: notifications, probes, moves, statuses, descriptions, helpers, and what an object
// without an engine answers.
#include "cxx_target.h"

#include <sstream>
#include <type_traits>

using mooncake::Status;
using mooncake::TransferEngine;
using Notify = mooncake::TransferMetadata::NotifyDesc;

static_assert(!std::is_copy_constructible_v<TransferEngine> && !std::is_copy_assignable_v<TransferEngine>);
static_assert(std::is_nothrow_move_constructible_v<TransferEngine>);
static_assert(std::is_nothrow_move_assignable_v<TransferEngine>);
static_assert(mooncake::TransferRequest::READ == OPCODE_READ && mooncake::TransferRequest::WRITE == OPCODE_WRITE);
static_assert(mooncake::TransferStatusEnum::FAILED == STATUS_FAILED &&
              mooncake::TransferStatusEnum::WAITING == STATUS_WAITING);

namespace {

// Waits for the next messages; they are appended.
void receive(TransferEngine &engine, std::vector<Notify> &inbox, size_t count) {
    CHECK_BY(20000, engine.getNotifies(inbox) == 0 && inbox.size() >= count);
    CHECK_INT(inbox.size(), count);
}

void notify(TransferEngine &engine, Target &target, mooncake::SegmentID segment) {
    const std::string own = engine.getLocalIpAndPort();
    std::vector<Notify> inbox;
    CHECK_INT(engine.getNotifies(inbox), 0);
    CHECK(inbox.empty());
    CHECK_INT(engine.sendNotifyByID(segment, {own, "one"}), 0);
    receive(engine, inbox, 1);
    CHECK(inbox[0].name == target.name() && inbox[0].notify_msg == "got one");
    const std::string text = "gr\xc3\xbc\xc3\x9f=\"dich\"\n" + std::string(20000, 'x');
    CHECK_INT(engine.sendNotifyByName(target.name(), {own, text}), 0);
    receive(engine, inbox, 2);
    CHECK(inbox[1].notify_msg == "got " + text);
    Notify answer{"x", "y"};
    CHECK_INT(engine.getMetadata()->sendNotify(target.name(), {own, "three"}, answer), 0);
    receive(engine, inbox, 3);
    CHECK_INT(engine.sendNotifyByID(4711, {own, "nobody"}), ERR_METADATA);
    CHECK(engine.sendNotifyByName("127.0.0.1:1", {own, "nobody"}) < 0);
    // with a transfer: after the last byte
    std::vector<std::uint8_t> memory(65536);
    CHECK_INT(engine.registerLocalMemory(memory.data(), memory.size()), 0);
    const auto at = engine.getMetadata()->getSegmentDescByID(segment)->buffers[0].addr;
    const auto batch = engine.allocateBatchID(1);
    const auto request = make_request(mooncake::TransferRequest::READ, memory.data(), segment, at, memory.size());
    CHECK(engine.submitTransferWithNotify(batch, {request}, {own, "done"}).ok());
    receive(engine, inbox, 4);
    CHECK(inbox[3].notify_msg == "got done");
    CHECK_INT(poll_task(engine, batch, 0).s, mooncake::TransferStatusEnum::COMPLETED);
    CHECK_PATTERN(memory.data(), kTargetSeed, 0, memory.size());
    CHECK(engine.freeBatchID(batch).ok());
    CHECK_INT(engine.unregisterLocalMemory(memory.data()), 0);
}

void statuses(TransferEngine &engine, mooncake::SegmentID segment) {
    std::uint8_t byte = 0;
    const auto request = make_request(mooncake::TransferRequest::READ, &byte, segment, 1, 1);
    const auto batch = engine.allocateBatchID(1);
    Status s = engine.submitTransfer(batch, {request});
    CHECK_INT(s.code(), Status::Code::kAddressNotRegistered);
    CHECK(s.IsAddressNotRegistered() && !s.ok() && !s.message().empty());
    CHECK(s.ToString().find("AddressNotRegistered: ") == 0);
    std::ostringstream out;
    out << s << " " << s.code();
    CHECK(out.str().find("AddressNotRegistered") != std::string::npos);
    CHECK(engine.submitTransfer(batch, {request, request}).code() == Status::Code::kTooManyRequests);
    auto far_away = request;
    far_away.target_id = UINT64_MAX;
    CHECK(engine.submitTransfer(batch, {far_away}).IsInvalidArgument());
    far_away.target_id = 4711;
    CHECK(engine.submitTransfer(batch, {far_away}).IsInvalidArgument());
    mooncake::TransferStatus status{mooncake::TransferStatusEnum::COMPLETED, 7};
    CHECK(engine.getTransferStatus(batch, 0, status).IsInvalidArgument());
    CHECK_INT(status.s, mooncake::TransferStatusEnum::FAILED);
    CHECK(engine.getBatchTransferStatus(4711, status).IsInvalidArgument());
    CHECK(engine.freeBatchID(batch).ok());
    CHECK(engine.freeBatchID(batch).IsInvalidArgument());
    CHECK(engine.submitTransfer(mooncake::INVALID_BATCH_ID, {request}).IsInvalidArgument());
    CHECK(engine.allocateBatchID(size_t{1} << 40) == mooncake::INVALID_BATCH_ID);
    Status moved = std::move(s), none = Status::OK();
    CHECK(!(moved == none) && moved != none && none == Status() && none.message().empty());
    CHECK(Status(Status::Code::kOk, "dropped") == none);
    // many requests at once take the other way through the header
    std::vector<std::uint8_t> memory(200);
    CHECK_INT(engine.registerLocalMemory(memory.data(), memory.size()), 0);
    const auto at = engine.getMetadata()->getSegmentDescByID(segment)->buffers[0].addr;
    std::vector<mooncake::TransferRequest> requests;
    for (size_t i = 0; i < memory.size(); i++)
        requests.push_back(make_request(mooncake::TransferRequest::READ, &memory[i], segment, at + i, 1));
    move_all(engine, requests);
    CHECK_PATTERN(memory.data(), kTargetSeed, 0, memory.size());
    CHECK_INT(engine.unregisterLocalMemory(memory.data()), 0);
}

void descriptions(TransferEngine &engine, Target &target, mooncake::SegmentID segment) {
    auto metadata = engine.getMetadata();
    const auto desc = metadata->getSegmentDescByID(segment, true);
    CHECK(desc && desc->name == target.name() && desc->protocol == "tcp" && desc->buffers.size() == 1);
    CHECK(desc->tcp_data_port > 0 && desc->tcp_proto_version == 2 && desc->nicPathServerName() == target.name());
    CHECK(desc->buffers[0].length == MIB && desc->devices.empty() && desc->topology.empty());
    CHECK(metadata->getSegmentDescByName(target.name())->name == target.name());
    CHECK(metadata->getSegmentDesc(target.name()) != nullptr);
    CHECK_INT(metadata->getSegmentID(target.name()), segment);
    CHECK(metadata->getSegmentDescByID(4711) == nullptr && metadata->getSegmentDescByID(UINT64_MAX) == nullptr);
    CHECK(metadata->getSegmentDescByName("127.0.0.1:1") == nullptr);
    CHECK(metadata->getSegmentID("127.0.0.1:1") == UINT64_MAX);
    CHECK_INT(metadata->syncSegmentCache(), 0);
    CHECK_INT(metadata->syncSegmentCache(target.name()), 0);
    CHECK_INT(engine.syncSegmentCache(), 0);
    CHECK_INT(metadata->updateLocalSegmentDesc(), 0);
    CHECK_INT(metadata->rePublishRpcMetaEntry(engine.getLocalIpAndPort()), 0);
    mooncake::TransferMetadata::RpcMetaDesc rpc;
    CHECK_INT(metadata->getRpcMetaEntry(engine.getLocalIpAndPort(), rpc), 0);
    CHECK_INT(rpc.rpc_port, engine.getRpcPort());
    CHECK(metadata->localRpcMeta().rpc_port == rpc.rpc_port && rpc.ip_or_host_name == "127.0.0.1");
    CHECK_INT(metadata->getRpcMetaEntry(target.name(), rpc), 0);
    CHECK(target.name() == rpc.ip_or_host_name + ":" + std::to_string(rpc.rpc_port));
    CHECK_INT(metadata->addLocalSegment(5, "x", nullptr), ERR_NOT_IMPLEMENTED);
    CHECK(engine.CheckSegmentStatus(segment).ok());
    CHECK(engine.CheckSegmentStatus(4711).IsInvalidArgument());
    CHECK_INT(engine.closeSegment(segment), 0);
    CHECK(engine.closeSegment(UINT64_MAX) < 0);
    CHECK_INT(engine.openSegment("///" + target.name()), segment);
    CHECK_INT(static_cast<int64_t>(engine.openSegment("")), ERR_INVALID_ARGUMENT);
    CHECK_INT(static_cast<int64_t>(engine.openSegment("127.0.0.1:1")), ERR_INVALID_ARGUMENT);
    CHECK_INT(metadata->removeSegmentDesc(target.name()), 0);
    CHECK(engine.openSegment(target.name()) > segment); // a new id
    CHECK_INT(engine.removeLocalSegment(""), ERR_INVALID_ARGUMENT);
}

// An object moves; what it stood for moves with it, the cast of its address too.
void moves(const std::string &target) {
    TransferEngine first(false);
    CHECK_INT(first.init(P2PHANDSHAKE, "127.0.0.1"), 0);
    CHECK_INT(first.init(P2PHANDSHAKE, "127.0.0.1"), ERR_INVALID_ARGUMENT);
    const std::string name = first.getLocalIpAndPort();
    TransferEngine second(std::move(first));
    CHECK(second.getLocalIpAndPort() == name && second.openSegment(target) > 0);
    CHECK(::openSegment(reinterpret_cast<transfer_engine_t>(&second), name.c_str()) == 0);
    CHECK(::openSegment(reinterpret_cast<transfer_engine_t>(&first), name.c_str()) == -1);
    // NOLINTBEGIN(bugprone-use-after-move): that it answers is what is tested
    CHECK(first.getLocalIpAndPort().empty() && first.getMetadata() == nullptr && first.getRpcPort() < 0);
    CHECK(static_cast<int64_t>(first.openSegment(target)) < 0 && first.showLinks(true) == "{}");
    CHECK(first.allocateBatchID(1) == mooncake::INVALID_BATCH_ID && first.freeEngine() == 0);
    CHECK(first.installTransport("tcp", nullptr) == nullptr && first.init(P2PHANDSHAKE, "h") != 0);
    // NOLINTEND
    TransferEngine third(true);
    CHECK_INT(third.init(P2PHANDSHAKE, "127.0.0.1"), 0);
    const auto gone = third.getMetadata();
    third = std::move(second);
    CHECK(third.getLocalIpAndPort() == name);
    CHECK(gone->getSegmentDescByID(0) == nullptr && gone->updateLocalSegmentDesc() < 0); // its engine has ended
    CHECK_INT(third.freeEngine(), 0);
    CHECK_INT(third.freeEngine(), 0);
    CHECK_INT(third.init(P2PHANDSHAKE, "127.0.0.1"), 0); // and may begin anew
    CHECK(third.openSegment(target) > 0);
}

// Nothing crashes without an engine.
void unborn() {
    TransferEngine engine(false, {"mlx5_0"});
    std::uint8_t byte = 0;
    mooncake::TransferStatus status{};
    std::vector<Notify> inbox;
    std::vector<mooncake::NicLoadStats> loads;
    CHECK(engine.registerLocalMemory(&byte, 1) < 0 && engine.unregisterLocalMemory(&byte) < 0);
    CHECK(engine.registerLocalMemoryBatch({{&byte, 1}}, "*") < 0 && engine.unregisterLocalMemoryBatch({&byte}) < 0);
    CHECK(!engine.checkOverlap(&byte, 1) && engine.getBaseAddr() == nullptr && engine.numContexts() == 0);
    CHECK(static_cast<int64_t>(engine.openSegment("x")) < 0 && engine.closeSegment(0) < 0);
    CHECK(!engine.CheckSegmentStatus(0).ok() && engine.removeLocalSegment("x") < 0 && engine.syncSegmentCache() < 0);
    CHECK(engine.allocateBatchID(1) == mooncake::INVALID_BATCH_ID && !engine.freeBatchID(1).ok());
    CHECK(!engine.submitTransfer(1, {make_request(mooncake::TransferRequest::READ, &byte, 0, 1, 1)}).ok());
    CHECK(!engine.getTransferStatus(1, 0, status).ok() && !engine.getBatchTransferStatus(1, status).ok());
    CHECK(engine.getNotifies(inbox) < 0 && engine.sendNotifyByID(0, {"a", "b"}) < 0);
    CHECK(engine.sendNotifyByName("x", {"a", "b"}) < 0 && !engine.getNicLoadStats(loads).ok());
    CHECK(engine.probePeerAliveByID(1) == mooncake::PeerLiveness::Unreachable);
    CHECK(engine.installTransport("tcp", nullptr) == nullptr && engine.getTransport("tcp") == nullptr);
    CHECK(!engine.isTcpOnly() && engine.getMetadata() == nullptr && engine.getLocalIpAndPort().empty());
    CHECK_INT(engine.init("foo://bar", "127.0.0.1"), ERR_METADATA);
    CHECK(std::strlen(tent_last_error()) > 0);
    CHECK_INT(engine.init(P2PHANDSHAKE, "127.0.0.1"), 0); // a device that is no interface restricts nothing
    engine.setAutoDiscover(true);
    engine.setAutoDiscover(mooncake::AutoDiscoverConfig{true, "tcp"});
    CHECK_INT(engine.freeEngine(), 0);
    engine.setWhitelistFilters({"lo"});
    CHECK_INT(engine.init(P2PHANDSHAKE, "127.0.0.1"), 0);
    CHECK(engine.getTransport("tcp") != nullptr);
    CHECK(engine.getNicLoadStats(loads).ok() && loads.size() == 1 && loads[0].device_name == "lo");
    CHECK(engine.getLocalTopology()->getHcaList() == std::vector<std::string>{"lo"});
}

void helpers() {
    using mooncake::parseHostNameWithPort;
    const std::uint16_t port = mooncake::getDefaultHandshakePort();
    const auto is = [](const std::string &text, const char *host, int number) {
        const auto parsed = parseHostNameWithPort(text);
        if (parsed.first != host || parsed.second != number)
            FAIL("%s is read as %s and %d", text.c_str(), parsed.first.c_str(), parsed.second);
    };
    is("host", "host", port);
    is("host:17", "host", 17);
    is("host:0x1", "host", port);
    is("host:99999", "host", port);
    is("::1", "::1", port);
    is("[::1]", "::1", port);
    is("[::1]:17", "::1", 17);
    is("fe80::1%eth0", "fe80::1%eth0", port);
    is("[fe80::1%eth0]:17", "fe80::1%eth0", 17);
    is("[", "[", port);
    is("", "", port);
    CHECK(mooncake::getCurrentTimeInNano() > 1600000000000000000);
    CHECK(mooncake::getCurrentDateTime().size() == 26 && !mooncake::getHostname().empty());
    const char text[8] = {};
    CHECK(mooncake::overlap(text, 4, text + 3, 1) && !mooncake::overlap(text, 4, text + 4, 4));
    CHECK(mooncake::overlap(text + 3, 1, text, 4) && !mooncake::overlap(text + 4, 4, text, 4));
    CHECK(mooncake::getNicNameFromNicPath(mooncake::MakeNicPath("h:1", "eth0")) == "eth0");
    CHECK(mooncake::getServerNameFromNicPath("h:1@eth0") == "h:1" && mooncake::getServerNameFromNicPath("h").empty());
    mooncake::globalConfig().max_mr_size = 5;
    CHECK_INT(mooncake::globalConfig().max_mr_size, 5);
    CHECK(mooncake::ValidatePortRange(15000, 17000, 1, 2) == std::make_pair(15000, 17000));
    CHECK(mooncake::ValidatePortRange(40000, 41000, 1, 2) == std::make_pair(1, 2));
}

} // namespace

int main(int argc, char **argv) {
    if (target_asked(argc, argv)) return target_main(argv);
    watchdog(60);
    STEP("helpers");
    helpers();
    STEP("unborn");
    unborn();
    Target target(MIB);
    auto engine = begin_engine();
    const auto segment = engine->openSegment(target.name());
    CHECK(static_cast<int64_t>(segment) > 0);
    STEP("notify");
    notify(*engine, target, segment);
    STEP("statuses");
    statuses(*engine, segment);
    STEP("moves");
    moves(target.name());
    STEP("probe");
    CHECK(engine->probePeerAliveByID(segment) == mooncake::PeerLiveness::Alive);
    CHECK_INT(engine->getMetadata()->sendProbe(target.name()), 0);
    STEP("descriptions");
    descriptions(*engine, target, segment);
    const std::string name = target.name();
    target.kill_it();
    CHECK(engine->probePeerAliveByID(segment) == mooncake::PeerLiveness::Unreachable);
    CHECK(engine->getMetadata()->sendProbe(name) < 0);
    return pass("cxx_engine");
}
