// A validator as upstream's users write it: random blocks are written to a target, read back into other
// memory, and compared; lengths from one byte up, places at random.
#include "cxx_target.h"

#include <random>
#include <thread>

namespace {

constexpr size_t kSpan = 4 * MIB;
constexpr int kThreads = 2;

void validate(mooncake::TransferEngine &engine, mooncake::SegmentID segment, int thread, std::uint8_t *memory) {
    const auto desc = engine.getMetadata()->getSegmentDescByID(segment, thread == 0);
    CHECK(desc != nullptr && desc->buffers.size() == 1);
    const std::uint64_t base = desc->buffers[0].addr + static_cast<std::uint64_t>(thread) * kSpan;
    std::uint8_t *back = memory + kSpan;
    std::mt19937_64 random(static_cast<std::uint64_t>(thread) + 1);
    std::vector<size_t> lengths = {1, 2, 7, 8, 63, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, kSpan};
    while (lengths.size() < 60) lengths.push_back(1 + random() % (kSpan / 4));
    for (size_t i = 0; i < lengths.size(); i++) {
        const size_t length = lengths[i], at = random() % (kSpan - length + 1);
        const std::uint64_t seed = random();
        pattern_fill(memory + at, seed, at, length);
        std::memset(back + at, 0, length);
        using Op = mooncake::TransferRequest;
        move_all(engine, {make_request(Op::WRITE, memory + at, segment, base + at, length)});
        move_all(engine, {make_request(Op::READ, back + at, segment, base + at, length)});
        CHECK_PATTERN(back + at, seed, at, length);
    }
    FACT("thread %d: %zu blocks written, read back and compared", thread, lengths.size());
    // as it was at first, for the target looks at the end
    pattern_fill(memory, kTargetSeed, static_cast<std::uint64_t>(thread) * kSpan, kSpan);
    move_all(engine, {make_request(mooncake::TransferRequest::WRITE, memory, segment, base, kSpan)});
}

} // namespace

int main(int argc, char **argv) {
    if (target_asked(argc, argv)) return target_main(argv);
    watchdog(60);
    Target target(kThreads * kSpan);
    auto engine = begin_engine();
    std::vector<std::uint8_t> memory(kThreads * 2 * kSpan);
    CHECK_INT(engine->registerLocalMemory(memory.data(), memory.size(), "cpu:0"), 0);
    const auto segment = engine->openSegment(target.name());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++)
        threads.emplace_back(validate, std::ref(*engine), segment, t, memory.data() + static_cast<size_t>(t) * 2 * kSpan);
    for (auto &thread : threads) thread.join();
    CHECK(target.end());
    return pass("cxx_validator");
}
