// Scattered fragments between one buffer and one range of a peer (C++20): every fragment lands where it
// must and nowhere else, is told of once, and an operation that is let go of waits for its end.
#include "cxx_target.h"

#include <array>
#include <chrono>
#include <numeric>

#ifndef TENT_HAS_SCATTER
#error "this test needs C++20 and std::span"
#endif

using Range = mooncake::TransferEngine::ScatterTransferRange;
using mooncake::Status;
using Op = mooncake::TransferRequest;

namespace {

constexpr size_t kSpan = MIB;
constexpr size_t kCount = 500;

// What one range needs to live while it is submitted.
struct Plan {
    std::vector<size_t> here, there, lengths;
    std::vector<int> told;
    std::vector<Status> endings;

    // Fragments of odd lengths, packed here, in turned order with gaps there.
    Plan() : told(kCount), endings(kCount) {
        size_t packed = 0;
        for (size_t i = 0; i < kCount; i++) {
            lengths.push_back(i % 7 == 0 ? 0 : 1 + i * 3 % 1500);
            here.push_back(packed);
            there.push_back((kCount - 1 - i) * 2000 + i % 13);
            packed += lengths[i];
        }
    }

    Range range(mooncake::TransferRequest::OpCode op, const std::string &segment, std::uint64_t base, std::uint8_t *at) {
        return {op,   segment,         base, kSpan, at, kSpan, here, there, lengths, [this](size_t i, const Status &s) {
                    told[i]++;
                    endings[i] = s;
                }};
    }

    void all_told() const {
        for (size_t i = 0; i < kCount; i++) {
            CHECK_INT(told[i], 1);
            if (!endings[i].ok()) FAIL("fragment %zu: %s", i, endings[i].ToString().c_str());
        }
    }
};

void read(mooncake::TransferEngine &engine, const std::string &segment, std::uint64_t base, std::uint8_t *memory) {
    Plan plan;
    std::memset(memory, 0x5a, kSpan);
    const auto status = engine.transferScatter({plan.range(Op::READ, segment, base, memory)});
    if (!status.ok()) FAIL("transferScatter: %s", status.ToString().c_str());
    plan.all_told();
    for (size_t i = 0; i < kCount; i++) CHECK_PATTERN(memory + plan.here[i], kTargetSeed, plan.there[i], plan.lengths[i]);
    const size_t end = plan.here.back() + plan.lengths.back();
    for (size_t i = end; i < kSpan; i++) CHECK_INT(memory[i], 0x5a);
}

void write(mooncake::TransferEngine &engine, const std::string &segment, std::uint64_t base, std::uint8_t *memory) {
    Plan plan;
    for (size_t i = 0; i < kCount; i++) pattern_fill(memory + plan.here[i], 9, plan.there[i], plan.lengths[i]);
    auto operation = engine.submitScatter({plan.range(Op::WRITE, segment, base, memory)});
    auto moved = std::move(operation);
    Status status = Status::Context("");
    CHECK_BY(20000, (status = moved.waitFor(std::chrono::microseconds(50))).ok());
    CHECK(moved.wait().ok() && operation.wait().ok());
    plan.all_told();
    // all of the target, read back plainly: the fragments are new, the gaps are old
    std::vector<std::uint8_t> back(kSpan), want(kSpan);
    pattern_fill(want.data(), kTargetSeed, 0, kSpan);
    for (size_t i = 0; i < kCount; i++) pattern_fill(want.data() + plan.there[i], 9, plan.there[i], plan.lengths[i]);
    CHECK_INT(engine.registerLocalMemory(back.data(), kSpan), 0);
    move_all(engine, {make_request(Op::READ, back.data(), engine.openSegment(segment), base, kSpan)});
    CHECK(back == want);
    pattern_fill(back.data(), kTargetSeed, 0, kSpan);
    {
        // let go of at once, without a callback
        std::array<size_t, 2> offsets{0, kSpan / 2}, lengths{kSpan / 2, kSpan / 2};
        (void)engine.submitScatter({{Op::WRITE, segment, base, kSpan, back.data(), kSpan, offsets, offsets, lengths, {}}});
    }
    CHECK_INT(engine.unregisterLocalMemory(back.data()), 0); // nothing uses it any more
}

void refusals(mooncake::TransferEngine &engine, const std::string &segment, std::uint64_t base, std::uint8_t *memory) {
    const std::array<size_t, 2> zero{0, 0}, lengths{8, kSpan + 1}, far{0, SIZE_MAX}, one{1, 1};
    const std::array<size_t, 1> single{0};
    std::vector<int> told(2);
    const auto tell = [&](size_t i, const Status &s) { told[i] += s.ok() ? 100 : 1; };
    CHECK(engine.transferScatter({}).ok());
    CHECK(engine.transferScatter({{Op::READ, segment, base, kSpan, memory, kSpan, {}, {}, {}, tell}}).ok());
    const Range bad[] = {
        {Op::READ, segment, base, kSpan, memory, kSpan, zero, zero, lengths, tell},          // longer than both
        {Op::READ, segment, base, kSpan, memory, kSpan, far, zero, one, tell},               // beyond the buffer
        {Op::READ, segment, base, kSpan, memory, kSpan, zero, far, one, tell},               // beyond the peer's range
        {Op::READ, segment, base, kSpan, memory, kSpan, single, zero, one, tell},            // fewer offsets
        {Op::READ, "127.0.0.1:1", base, kSpan, memory, kSpan, zero, zero, one, tell},        // nobody there
        {Op::READ, segment, base, kSpan, memory - 4096, kSpan + 4096, zero, zero, one, tell}, // not registered
    };
    for (const Range &range : bad) {
        told.assign(2, 0);
        auto operation = engine.submitScatter({range});
        const Status first = operation.wait();
        CHECK(!first.ok() && !first.message().empty());
        CHECK(operation.wait() == first && told == std::vector<int>({1, 1}));
    }
    // a range that the peer has not registered: found out on the way, and told of by its fragment
    told.assign(2, 0);
    const std::array<size_t, 2> there{0, 2 * kSpan};
    const Status late =
        engine.transferScatter({{Op::READ, segment, base, 4 * kSpan, memory, kSpan, zero, there, one, tell}});
    CHECK(!late.ok());
    CHECK_INT(told[0], 100);
    CHECK_INT(told[1], 1);
    mooncake::TransferEngine none(false);
    CHECK(!none.transferScatter({bad[0]}).ok());
}

} // namespace

int main(int argc, char **argv) {
    if (target_asked(argc, argv)) return target_main(argv);
    watchdog(60);
    Target target(kSpan);
    auto engine = begin_engine();
    std::vector<std::uint8_t> memory(kSpan + 4096);
    std::uint8_t *at = memory.data() + 4096;
    CHECK_INT(engine->registerLocalMemory(at, kSpan), 0);
    const auto base = engine->getMetadata()->getSegmentDescByName(target.name())->buffers[0].addr;
    STEP("read");
    read(*engine, target.name(), base, at);
    STEP("write");
    write(*engine, target.name(), base, at);
    STEP("refusals");
    refusals(*engine, target.name(), base, at);
    FACT("%zu fragments each way, each told of once", kCount);
    CHECK(target.end());
    return pass("cxx_scatter");
}
