// As ping.c, in C++17: what is acquired is released by its owner, and refusals are exceptions. Two engines
// of one process play server and client here; between processes nothing changes but who calls what.
//
//   g++ -std=c++17 ping.cpp $(pkg-config --cflags --libs tent) -o ping
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <tent.h>
#include <transfer_engine_c.h>

namespace {

// What the library says of the last refusal, as an exception.
[[noreturn]] void fail(const std::string &what) { throw std::runtime_error(what + ": " + tent_last_error()); }

class Engine {
  public:
    Engine() : handle_(createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 0)) {
        if (!handle_ || !installTransport(handle_.get(), "tcp", nullptr)) fail("no engine");
    }

    std::string name() const {
        char text[256];
        if (getLocalIpAndPort(get(), text, sizeof text) != 0) fail("no name");
        return text;
    }

    segment_id_t open(const std::string &name) const {
        segment_id_t id = openSegment(get(), name.c_str());
        if (id < 0) fail("cannot open " + name);
        return id;
    }

    // Moves one range and waits for it.
    void move(int opcode, void *here, segment_id_t peer, std::uint64_t there, std::size_t length) const {
        transfer_request_t request{opcode, here, peer, there, length};
        transfer_status_t status{};
        batch_id_t batch = allocateBatchID(get(), 1);
        if (submitTransfer(get(), batch, &request, 1) != 0) fail("submit");
        if (tent_wait(get(), batch, 30000) != 0) fail("wait");
        getTransferStatus(get(), batch, 0, &status);
        freeBatchID(get(), batch);
        if (status.status != STATUS_COMPLETED) fail("transfer");
    }

    transfer_engine_t get() const { return handle_.get(); }

  private:
    struct End {
        void operator()(void *handle) const { destroyTransferEngine(handle); }
    };
    std::unique_ptr<void, End> handle_;
};

// Bytes that are registered for as long as they live. It must not outlive its engine.
class Memory {
  public:
    Memory(const Engine &engine, std::size_t length) : engine_(engine), bytes_(length) {
        if (registerLocalMemory(engine.get(), bytes_.data(), length, "*", 1) != 0) fail("cannot register");
    }
    ~Memory() { unregisterLocalMemory(engine_.get(), bytes_.data()); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

    char *data() { return bytes_.data(); }
    std::uint64_t address() const { return reinterpret_cast<std::uintptr_t>(bytes_.data()); }

  private:
    const Engine &engine_;
    std::vector<char> bytes_;
};

void ping() {
    constexpr std::size_t kLine = 4096;
    Engine server, client;
    Memory there(server, 2 * kLine), here(client, 2 * kLine);
    std::strcpy(there.data(), "hello from the server");
    std::strcpy(here.data() + kLine, "hello from the client");

    segment_id_t peer = client.open(server.name());
    client.move(OPCODE_READ, here.data(), peer, there.address(), kLine);
    client.move(OPCODE_WRITE, here.data() + kLine, peer, there.address() + kLine, kLine);
    std::cout << "the client read \"" << here.data() << "\"\n";
    std::cout << "the server's memory holds \"" << there.data() + kLine << "\"\n";
    if (std::strcmp(here.data(), there.data()) != 0 || std::strcmp(here.data() + kLine, there.data() + kLine) != 0)
        throw std::runtime_error("the bytes differ");

    std::vector<char> rails(16384);
    if (tent_rails_json(client.get(), rails.data(), rails.size()) < 0) fail("no rails");
    std::cout << "moved over " << rails.data() << "\n";
}

} // namespace

int main() {
    try {
        ping();
    } catch (const std::exception &error) {
        std::cerr << "ping: " << error.what() << "\n";
        return 1;
    }
}
