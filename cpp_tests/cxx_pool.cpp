// A memory pool as upstream's users write it: slabs registered and withdrawn by several threads, one by one
// and in batches, while others move bytes between them.
#include "cxx_target.h"

#include <thread>

namespace {

constexpr size_t kSlab = 256 * KIB;
constexpr int kRounds = 60;

// Each thread takes slabs, moves a block between two of them through its own segment, gives them back.
void churn(mooncake::TransferEngine &engine, int thread) {
    const auto own = engine.openSegment(engine.getLocalIpAndPort());
    CHECK_INT(own, mooncake::LOCAL_SEGMENT_ID);
    for (int round = 0; round < kRounds; round++) {
        std::vector<std::uint8_t> a(kSlab), b(kSlab);
        const auto seed = static_cast<std::uint64_t>(thread * kRounds + round);
        pattern_fill(a.data(), seed, 0, kSlab);
        if (round % 2 == 0) {
            CHECK_INT(engine.registerLocalMemoryBatch({{a.data(), kSlab}, {b.data(), kSlab}}, "cpu:0"), 0);
        } else {
            CHECK_INT(engine.registerLocalMemory(a.data(), kSlab, mooncake::kWildcardLocation, true, false), 0);
            CHECK_INT(engine.registerLocalMemory(b.data(), kSlab), 0);
        }
        CHECK(engine.checkOverlap(b.data() + kSlab - 1, 1));
        const auto at = reinterpret_cast<std::uint64_t>(b.data());
        move_all(engine, {make_request(mooncake::TransferRequest::WRITE, a.data(), own, at, kSlab)});
        CHECK_PATTERN(b.data(), seed, 0, kSlab);
        if (round % 2 == 0) {
            CHECK_INT(engine.unregisterLocalMemoryBatch({a.data(), b.data()}), 0);
        } else {
            CHECK_INT(engine.unregisterLocalMemory(a.data(), false), 0);
            CHECK_INT(engine.unregisterLocalMemory(b.data()), 0);
        }
    }
}

void refusals(mooncake::TransferEngine &engine) {
    std::vector<std::uint8_t> memory(4096);
    std::uint8_t *at = memory.data();
    CHECK(!engine.checkOverlap(at, 4096));
    CHECK_INT(engine.registerLocalMemory(at, 0), ERR_INVALID_ARGUMENT);
    CHECK_INT(engine.registerLocalMemory(nullptr, 8), ERR_INVALID_ARGUMENT);
    CHECK_INT(engine.registerLocalMemory(at, 4096), 0);
    CHECK_INT(engine.registerLocalMemory(at + 100, 8), ERR_ADDRESS_OVERLAPPED);
    CHECK_INT(engine.unregisterLocalMemory(at + 100), ERR_ADDRESS_NOT_REGISTERED);
    CHECK_INT(engine.unregisterLocalMemory(at), 0);
    CHECK_INT(engine.registerLocalMemoryBatch({{at, 64}, {at + 32, 64}}, "*"), ERR_ADDRESS_OVERLAPPED);
    CHECK(!engine.checkOverlap(at, 4096));
    const auto places = mooncake::getMemoryLocation(at, 4096);
    CHECK(!places.empty() && places.front().start == reinterpret_cast<std::uint64_t>(at));
    size_t covered = 0;
    for (const auto &place : places) covered += place.len;
    CHECK_INT(covered, 4096);
}

} // namespace

int main() {
    watchdog(60);
    auto engine = begin_engine();
    refusals(*engine);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) threads.emplace_back(churn, std::ref(*engine), t);
    for (auto &thread : threads) thread.join();
    const auto own = engine->getMetadata()->getSegmentDescByID(mooncake::LOCAL_SEGMENT_ID);
    CHECK(own != nullptr);
    CHECK_INT(own->buffers.size(), 0);
    FACT("%d slabs registered, used and withdrawn; none is left", 4 * kRounds * 2);
    return pass("cxx_pool");
}
