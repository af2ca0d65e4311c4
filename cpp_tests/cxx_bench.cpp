// A bench as upstream's users write it: threads that submit batches of blocks to a target's first buffer,
// poll and free, for a while; every thread has its own stretch of both memories. Here with a comparison of
// what was read at the end.
#include "cxx_target.h"

#include <atomic>
#include <thread>

namespace {

struct Options {
    int threads = 4;
    size_t batch = 16;
    size_t block = 65536;
    int duration_ms = 1500;
};

size_t span_of(const Options &o) { return o.batch * o.block; }

void worker(mooncake::TransferEngine &engine, mooncake::SegmentID segment, const Options &o, int thread,
            std::uint8_t *memory, mooncake::TransferRequest::OpCode op, std::atomic<std::uint64_t> &moved) {
    mooncake::bindToSocket(0);
    const auto desc = engine.getMetadata()->getSegmentDescByID(segment);
    CHECK(desc != nullptr && !desc->buffers.empty());
    const std::uint64_t remote = desc->buffers[0].addr + static_cast<size_t>(thread) * span_of(o);
    CHECK(desc->buffers[0].length >= static_cast<size_t>(thread + 1) * span_of(o));
    const int64_t end = now_ms() + o.duration_ms;
    do {
        std::vector<mooncake::TransferRequest> requests;
        for (size_t i = 0; i < o.batch; i++)
            requests.push_back(make_request(op, memory + i * o.block, segment, remote + i * o.block, o.block));
        move_all(engine, requests);
        moved += span_of(o);
    } while (now_ms() < end);
}

void run(mooncake::TransferEngine &engine, mooncake::SegmentID segment, const Options &o,
         std::vector<std::uint8_t> &memory, mooncake::TransferRequest::OpCode op) {
    std::atomic<std::uint64_t> moved{0};
    std::vector<std::thread> threads;
    const int64_t begin = now_ms();
    for (int t = 0; t < o.threads; t++)
        threads.emplace_back(worker, std::ref(engine), segment, std::cref(o), t,
                             memory.data() + static_cast<size_t>(t) * span_of(o), op, std::ref(moved));
    for (auto &thread : threads) thread.join();
    const double seconds = static_cast<double>(now_ms() - begin) / 1e3;
    FACT("%s: %d threads, batch %zu, block %zu: %.2f GB/s", op == mooncake::TransferRequest::READ ? "READ" : "WRITE",
         o.threads, o.batch, o.block, static_cast<double>(moved.load()) / seconds / 1e9);
}

} // namespace

int main(int argc, char **argv) {
    if (target_asked(argc, argv)) return target_main(argv);
    watchdog(60);
    Options o;
    if (argc == 5) o = {std::atoi(argv[1]), size_t(std::atol(argv[2])), size_t(std::atol(argv[3])), std::atoi(argv[4])};
    const size_t total = static_cast<size_t>(o.threads) * span_of(o);
    Target target(total);
    auto engine = begin_engine();
    std::vector<std::uint8_t> memory(total);
    CHECK_INT(engine->registerLocalMemory(memory.data(), total), 0);
    const auto segment = engine->openSegment(target.name());
    CHECK(static_cast<int64_t>(segment) > 0);
    STEP("READ");
    run(*engine, segment, o, memory, mooncake::TransferRequest::READ);
    CHECK_PATTERN(memory.data(), kTargetSeed, 0, total);
    STEP("WRITE");
    run(*engine, segment, o, memory, mooncake::TransferRequest::WRITE);
    std::vector<mooncake::NicLoadStats> loads;
    CHECK(engine->getNicLoadStats(loads).ok());
    CHECK(!loads.empty());
    double rate = 0;
    for (const auto &load : loads) {
        CHECK_INT(load.inflight_bytes, 0);
        rate += load.ewma_bandwidth_bps;
    }
    const char *transports = std::getenv("TENT_TRANSPORTS"); // copies within the host are not timed
    if (transports && std::strstr(transports, "tcp") && !(rate > 0))
        FAIL("no interface has a rate:\n%s", engine->showLinks(true).c_str());
    CHECK_INT(engine->unregisterLocalMemory(memory.data()), 0);
    CHECK(target.end());
    return pass("cxx_bench");
}
