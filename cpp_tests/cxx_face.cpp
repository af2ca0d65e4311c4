// The C API from C++17, as NIXL's plug-in uses it: engine by RAII, "P2PHANDSHAKE" and an address without
// a port, a batch of 1024, one request handle posted many times, notifications freed with (NULL, 0) too.
#include "peer.h"

#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kLen = 2 * MIB;
constexpr std::uint64_t kLocalSeed = 0x4c4f43414c;

struct EngineEnd {
    void operator()(void *engine) const { destroyTransferEngine(engine); }
};
using Engine = std::unique_ptr<void, EngineEnd>;

Engine make_engine() { return Engine(createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 1)); }

std::string address_of(const Engine &engine) {
    char text[64]; // NIXL's size
    CHECK_INT(getLocalIpAndPort(engine.get(), text, sizeof text), 0);
    return text;
}

// One posting of NIXL: a batch of 1024, submit with the agent's name, poll every task, free.
void post(const Engine &engine, std::vector<transfer_request_t> &requests, std::string name, std::string text) {
    batch_id_t batch = allocateBatchID(engine.get(), 1024);
    CHECK(batch != INVALID_BATCH);
    notify_msg_t message{name.data(), text.data()};
    CHECK_INT(submitTransferWithNotify(engine.get(), batch, requests.data(), requests.size(), message), 0);
    CHECK_INT(te_wait(engine.get(), batch, requests.size(), 20000, nullptr), requests.size());
    CHECK_INT(freeBatchID(engine.get(), batch), 0);
}

void too_many(const Engine &engine, const transfer_request_t &request) {
    std::vector<transfer_request_t> requests(1025, request);
    batch_id_t batch = allocateBatchID(engine.get(), 1024);
    CHECK_INT(submitTransfer(engine.get(), batch, requests.data(), requests.size()), 2);
    CHECK_INT(freeBatchID(engine.get(), batch), 0);
}

} // namespace

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(60);
    peer_t peer;
    peer_start(&peer);
    std::uint64_t remote = peer_region(&peer, "map", kLen, 1);
    Engine engine = make_engine();
    CHECK(engine != nullptr);
    std::string own = address_of(engine);
    CHECK_INT(openSegment(engine.get(), own.c_str()), LOCAL_SEGMENT);
    std::vector<std::uint8_t> local(kLen);
    pattern_fill(local.data(), kLocalSeed, 0, kLen);
    te_register(engine.get(), local.data(), local.size());
    segment_id_t target = te_open(engine.get(), peer.name);

    layout_t layout{0, 5, 1024, 1, 1900};
    for (int i = 0; i < 10; i++) {
        transfer_request_t *raw = te_requests(&layout, OPCODE_WRITE, local.data(), target, remote);
        std::vector<transfer_request_t> requests(raw, raw + layout.count);
        std::free(raw);
        post(engine, requests, "0 0", "0 0 0 0 0");
        PEER_OK(&peer, "inbox 1 20000");
        PEER_OK(&peer, "layout 0 0 5 1024 1 1900 %llu", (unsigned long long)kLocalSeed);
    }
    too_many(engine, te_request(OPCODE_READ, local.data(), target, remote, 1));
    std::thread([&] { CHECK_INT(openSegment(engine.get(), peer.name), target); }).join();
    CHECK_INT(freeNotifsMsgBuf(nullptr, 0), 0);
    CHECK_INT(unregisterLocalMemory(engine.get(), local.data()), 0);
    PEER_OK(&peer, "check 0");
    peer_stop(&peer);
    return pass("cxx_face");
}
