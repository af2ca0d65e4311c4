// The flows of upstream's test of its TCP transport, on one engine that opens its own segment: get the
// transport; write; write and read; write, read, and both once again with other bytes.
#include "cxx_target.h"

namespace {

constexpr size_t kData = 4096000;
constexpr size_t kPool = 64 * MIB;

struct Node {
    std::unique_ptr<mooncake::TransferEngine> engine = begin_engine();
    std::vector<std::uint8_t> pool = std::vector<std::uint8_t>(kPool);
    mooncake::SegmentHandle segment = 0;
    std::uint64_t base = 0;

    Node() {
        CHECK_INT(engine->registerLocalMemory(pool.data(), kPool, "cpu:0"), 0);
        segment = engine->openSegment(engine->getLocalIpAndPort());
        const auto desc = engine->getMetadata()->getSegmentDescByID(segment);
        CHECK(desc != nullptr);
        CHECK_INT(desc->buffers.size(), 1);
        CHECK(desc->protocol == "tcp");
        CHECK(desc->name == engine->getLocalIpAndPort());
        base = desc->buffers[0].addr;
        CHECK(base == reinterpret_cast<std::uint64_t>(pool.data()));
    }

    void transfer(mooncake::TransferRequest::OpCode op, size_t from) {
        const auto batch = engine->allocateBatchID(1);
        auto status = engine->submitTransfer(batch, {make_request(op, pool.data() + from, segment, base + kPool / 2, kData)});
        CHECK(status == mooncake::Status::OK());
        CHECK_INT(poll_task(*engine, batch, 0).s, mooncake::TransferStatusEnum::COMPLETED);
        mooncake::TransferStatus all{};
        CHECK(engine->getBatchTransferStatus(batch, all).ok());
        CHECK_INT(all.s, mooncake::TransferStatusEnum::COMPLETED);
        CHECK_INT(all.transferred_bytes, kData);
        CHECK(engine->freeBatchID(batch) == mooncake::Status::OK());
    }

    void write_and_read(std::uint64_t seed) {
        pattern_fill(pool.data(), seed, 0, kData);
        transfer(mooncake::TransferRequest::WRITE, 0);
        transfer(mooncake::TransferRequest::READ, kData);
        CHECK(std::memcmp(pool.data(), pool.data() + kData, kData) == 0);
        CHECK_PATTERN(pool.data() + kData, seed, 0, kData);
    }
};

void get_tcp() {
    auto engine = begin_engine();
    mooncake::Transport *tcp = engine->installTransport("tcp", nullptr);
    CHECK(tcp != nullptr && tcp == engine->getTransport("tcp"));
    CHECK(std::string(tcp->getName()) == "tcp" && tcp->meta() == engine->getMetadata());
    CHECK(engine->isTcpOnly() && !engine->isUsingTent());
    CHECK(engine->installTransport("rdma", nullptr) == nullptr);
    CHECK(engine->getTransport("rdma") == nullptr);
    CHECK_INT(engine->uninstallTransport("tcp"), 0);
    CHECK_INT(engine->getRpcPort(), mooncake::parseHostNameWithPort(engine->getLocalIpAndPort()).second);
    CHECK(engine->getRpcPort() >= 1024);
}

// The same through the Transport that installTransport gave.
void by_transport() {
    Node node;
    mooncake::Transport *tcp = node.engine->getTransport("tcp");
    const auto batch = tcp->allocateBatchID(1);
    pattern_fill(node.pool.data(), 5, 0, kData);
    using Op = mooncake::TransferRequest;
    CHECK(tcp->submitTransfer(batch, {make_request(Op::WRITE, node.pool.data(), 0, node.base + kPool / 2, kData)}).ok());
    mooncake::TransferStatus status{};
    CHECK_BY(20000, tcp->getTransferStatus(batch, 0, status).ok() && status.s == mooncake::TransferStatusEnum::COMPLETED);
    CHECK(tcp->freeBatchID(batch).ok());
    CHECK_PATTERN(node.pool.data() + kPool / 2, 5, 0, kData);
}

} // namespace

int main() {
    watchdog(60);
    STEP("get");
    get_tcp();
    STEP("write");
    Node().transfer(mooncake::TransferRequest::WRITE, 0);
    STEP("write and read");
    Node().write_and_read(1);
    STEP("write and read, twice");
    Node twice;
    twice.write_and_read(2);
    twice.write_and_read(3);
    STEP("by transport");
    by_transport();
    return pass("cxx_tcp");
}
