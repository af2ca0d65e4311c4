// showLinks and the topology, through the class and through a cast of its address to transfer_engine_t,
// with and without an engine; what is said of rails is true.
#include "cxx_target.h"

namespace {

bool has(const std::string &text, const char *part) { return text.find(part) != std::string::npos; }

// The sum of what follows each `key` in `text`: several rails may have shared a transfer.
unsigned long long sum_of(const std::string &text, const std::string &key) {
    unsigned long long sum = 0;
    for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1))
        sum += std::strtoull(text.c_str() + at + key.size(), nullptr, 10);
    return sum;
}

void before_init() {
    mooncake::TransferEngine engine(false);
    CHECK(has(engine.showLinks(), "=== Local NICs ===") && has(engine.showLinks(), "(no RDMA devices found)"));
    CHECK(has(engine.showLinks(true), "\"local_nics\": []"));
    auto as_c = reinterpret_cast<transfer_engine_t>(&engine);
    char text[4096];
    CHECK_INT(::showLinks(as_c, text, sizeof text, 1), 0);
    CHECK(has(text, "\"local_nics\""));
    CHECK_INT(::showLinks(as_c, nullptr, sizeof text, 0), -1);
    CHECK_INT(::showLinks(as_c, text, 0, 0), -1);
    CHECK(::openSegment(as_c, "127.0.0.1:1") == -1 && has(tent_last_error(), "init"));
    auto topology = engine.getLocalTopology();
    CHECK(topology != nullptr && topology->empty());
    CHECK_INT(topology->parse("{\"cpu:0\" : [[\"erdma_0\"],[\"erdma_1\"]]}"), 0);
    CHECK(has(engine.showLinks(), "erdma_0") && has(engine.showLinks(), "erdma_1"));
    CHECK(has(engine.showLinks(), "(topology only; RDMA transport not initialized)"));
    const std::string json = engine.showLinks(true);
    const size_t first = json.find("\"source\": \"topology\"");
    CHECK(first != std::string::npos && json.find("\"source\": \"topology\"", first + 1) != std::string::npos);
    CHECK(!has(json, "transport\""));
}

void topologies() {
    mooncake::Topology t;
    CHECK(t.empty() && t.toString() == "{}");
    CHECK_INT(t.selectDevice("cpu:0"), ERR_DEVICE_NOT_FOUND);
    for (const char *bad : {"", "[]", "{\"cpu:0\":7}", "{\"cpu:0\":[[1],[]]}", "{\"cpu:0\":[[\"a\"]]", "nonsense"})
        CHECK_INT(t.parse(bad), ERR_MALFORMED_JSON);
    CHECK(t.empty());
    const std::string text = "{\"cpu:0\":[[\"a\",\"b\"],[\"c\"]],\"cuda:1\":[[],[\"c\"]]}";
    CHECK_INT(t.parse(text), 0);
    CHECK(t.toString() == text);
    CHECK_INT(t.getMatrix().size(), 2);
    CHECK(t.getMatrix()["cpu:0"].preferred_hca == (std::vector<std::string>{"a", "b"}));
    CHECK(t.getMatrix()["cuda:1"].avail_hca == std::vector<std::string>{"c"});
    CHECK(t.getHcaList() == (std::vector<std::string>{"a", "b", "c"}));
    bool seen[3] = {};
    for (int i = 0; i < 400; i++) seen[t.selectDevice("cpu:0")] = true;
    CHECK(seen[0] && seen[1] && !seen[2]); // among the preferred only
    CHECK_INT(t.selectDevice("cuda:1"), 2);
    CHECK_INT(t.selectDevice("cpu:0", 1), 0);
    CHECK_INT(t.selectDevice("cpu:0", 3), 2); // the third try: the third of all
    CHECK_INT(t.disableDevice("nobody"), ERR_DEVICE_NOT_FOUND);
    CHECK_INT(t.disableDevice("a"), 0);
    for (int i = 0; i < 50; i++) CHECK_INT(t.selectDevice("cpu:0"), 1);
    const mooncake::Topology copy(t);
    CHECK(copy.toString() == text && copy.getMatrix().size() == 2);
    t.clear();
    CHECK(t.empty());
    CHECK_INT(t.discover(), 0);
    CHECK(t.getMatrix().count("cpu:0") == 1 && !t.getHcaList().empty());
    CHECK_INT(t.discover({"no_such_device"}), 0);
    CHECK(t.getHcaList().empty() && !t.empty());
}

void of_an_engine() {
    Target target(MIB);
    mooncake::TransferEngine engine(true);
    CHECK_INT(engine.init(P2PHANDSHAKE, "127.0.0.1"), 0);
    CHECK(engine.getTransport("tcp") != nullptr); // discovered and installed
    CHECK(engine.getLocalTopologyString() == engine.getLocalTopology()->toString());
    CHECK(!engine.getLocalTopology()->getHcaList().empty());
    const std::string nic = engine.getLocalTopology()->getHcaList()[0];
    CHECK(has(engine.showLinks(), nic.c_str()) && has(engine.showLinks(), "cpu:0: preferred ["));
    CHECK(has(engine.showLinks(true), ("\"device\": \"" + nic + "\"").c_str()));
    CHECK(has(engine.showLinks(true), "tcp_transport"));
    std::vector<std::uint8_t> memory(MIB);
    CHECK_INT(engine.registerLocalMemory(memory.data(), MIB), 0);
    const auto segment = engine.openSegment(target.name());
    const auto desc = engine.getMetadata()->getSegmentDescByID(segment);
    using Op = mooncake::TransferRequest;
    move_all(engine, {make_request(Op::READ, memory.data(), segment, desc->buffers[0].addr, MIB)});
    CHECK_PATTERN(memory.data(), kTargetSeed, 0, MIB);
    const std::string json = engine.showLinks(true);
    CHECK(has(json, "\"rails\"") && has(json, target.name().c_str()));
    CHECK_INT(sum_of(json, "\"read_bytes\": "), MIB);
    CHECK_INT(sum_of(json, "\"in_flight_bytes\": "), 0);
    char text[65536];
    auto as_c = reinterpret_cast<transfer_engine_t>(&engine);
    CHECK_INT(::showLinks(as_c, text, sizeof text, 0), 0);
    CHECK(has(text, target.name().c_str()) && has(text, "bytes in flight"));
    // what is parsed later shows, here and there
    CHECK_INT(engine.getLocalTopology()->parse("{\"cuda:3\":[[\"mlx5_9\"],[]]}"), 0);
    CHECK_INT(::showLinks(as_c, text, sizeof text, 1), 0);
    CHECK(has(text, "mlx5_9") && has(engine.showLinks(true), "mlx5_9"));
    char matrix[] = "{\"cpu:0\":[[\"eth77\"],[]]}";
    void *args[] = {matrix, nullptr};
    CHECK(engine.installTransport("tcp", args) != nullptr);
    CHECK(has(engine.showLinks(), "eth77") && engine.getLocalTopology()->getHcaList()[0] == "eth77");
    char wrong[] = "{\"cpu:0\":7}";
    args[0] = wrong;
    CHECK(engine.installTransport("tcp", args) == nullptr);
    CHECK(has(tent_last_error(), "cpu:0"));
    CHECK(target.end());
    CHECK_INT(engine.freeEngine(), 0);
    CHECK_INT(::showLinks(as_c, text, sizeof text, 0), 0); // the object is there, without an engine
    FACT("the rail to the target is told with its bytes, by class and by cast");
}

// discoverTopology of the C API.
void of_c() {
    char text[65536];
    transfer_engine_t e = createTransferEngine(P2PHANDSHAKE, "127.0.0.1", "", 0, 0);
    CHECK_INT(::showLinks(e, text, sizeof text, 1), 0);
    CHECK(has(text, "\"topology\": {}"));
    CHECK_INT(discoverTopology(e), 0);
    CHECK_INT(::showLinks(e, text, sizeof text, 1), 0);
    CHECK(has(text, "\"cpu:0\": ["));
    destroyTransferEngine(e);
}

} // namespace

int main(int argc, char **argv) {
    if (target_asked(argc, argv)) return target_main(argv);
    watchdog(60);
    STEP("before init");
    before_init();
    STEP("topologies");
    topologies();
    STEP("of an engine");
    of_an_engine();
    STEP("of C");
    of_c();
    return pass("cxx_links");
}
