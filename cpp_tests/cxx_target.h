// The other process of a C++ test: the same program run a second time, with an engine, memory and a
// transport, made through mooncake::TransferEngine. It lives until its parent lets go of it.
#ifndef CPP_TESTS_CXX_TARGET_H
#define CPP_TESTS_CXX_TARGET_H

#include <transfer_engine.h>

#include "check.h"

#include <memory>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <vector>

constexpr std::uint64_t kTargetSeed = 0x544152474554;

// An engine as upstream's programs begin it: init, then a transport by name.
inline std::unique_ptr<mooncake::TransferEngine> begin_engine() {
    auto engine = std::make_unique<mooncake::TransferEngine>(false);
    const auto host = mooncake::parseHostNameWithPort("127.0.0.1:12345");
    CHECK_INT(engine->init(P2PHANDSHAKE, "127.0.0.1:12345", host.first, host.second), 0);
    CHECK(engine->installTransport("tcp", nullptr) != nullptr);
    return engine;
}

// Polls a task to its end, as every program of upstream's does.
inline mooncake::TransferStatus poll_task(mooncake::TransferEngine &engine, mooncake::BatchID batch, size_t task) {
    mooncake::TransferStatus status{};
    const int64_t end = now_ms() + 30000;
    do {
        const auto asked = engine.getTransferStatus(batch, task, status);
        if (!asked.ok()) FAIL("getTransferStatus: %s", asked.ToString().c_str());
        if (now_ms() > end) FAIL("task %zu does not end", task);
    } while (status.s == mooncake::TransferStatusEnum::WAITING || status.s == mooncake::TransferStatusEnum::PENDING);
    return status;
}

// Moves `requests` as one batch; all must complete with all their bytes.
inline void move_all(mooncake::TransferEngine &engine, const std::vector<mooncake::TransferRequest> &requests) {
    const auto batch = engine.allocateBatchID(requests.size());
    CHECK(batch != mooncake::INVALID_BATCH_ID);
    const auto submitted = engine.submitTransfer(batch, requests);
    if (!submitted.ok()) FAIL("submitTransfer: %s", submitted.ToString().c_str());
    for (size_t i = 0; i < requests.size(); i++) {
        const auto status = poll_task(engine, batch, i);
        if (status.s != mooncake::TransferStatusEnum::COMPLETED)
            FAIL("task %zu ends as %d: %s", i, static_cast<int>(status.s), tent_last_error());
        CHECK_INT(status.transferred_bytes, requests[i].length);
    }
    const auto freed = engine.freeBatchID(batch);
    if (!freed.ok()) FAIL("freeBatchID: %s", freed.ToString().c_str());
}

inline mooncake::TransferRequest make_request(mooncake::TransferRequest::OpCode op, void *source,
                                              mooncake::SegmentID target, std::uint64_t at, size_t length) {
    mooncake::TransferRequest request;
    request.opcode = op;
    request.source = source;
    request.target_id = target;
    request.target_offset = at;
    request.length = length;
    return request;
}

inline bool target_asked(int argc, char **argv) { return argc == 4 && !std::strcmp(argv[1], "--target"); }

// The other process: `length` bytes of the pattern kTargetSeed. Answers every notification with its text
// behind "got ", and says at the end whether its memory still is that pattern.
inline int target_main(char **argv) {
    const int fd = std::atoi(argv[2]);
    const auto length = static_cast<size_t>(std::strtoull(argv[3], nullptr, 10));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    check_step = "target";
    auto engine = begin_engine();
    std::vector<std::uint8_t> memory(length);
    pattern_fill(memory.data(), kTargetSeed, 0, length);
    CHECK_INT(engine->registerLocalMemory(memory.data(), length, "cpu:0"), 0);
    const std::string name = engine->getLocalIpAndPort();
    CHECK(send(fd, name.data(), name.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(name.size()));
    std::vector<mooncake::TransferMetadata::NotifyDesc> inbox;
    pollfd asked{fd, POLLIN, 0};
    while (poll(&asked, 1, 1) == 0) {
        inbox.clear();
        (void)engine->getNotifies(inbox);
        // the name of a message is the address to answer to
        for (const auto &m : inbox) (void)engine->sendNotifyByName(m.name, {name, "got " + m.notify_msg});
    }
    char word;
    if (recv(fd, &word, 1, 0) != 1) return 0; // the parent is gone
    const char same = pattern_diff(memory.data(), kTargetSeed, 0, length) < 0 ? 'y' : 'n';
    CHECK(send(fd, &same, 1, MSG_NOSIGNAL) == 1);
    CHECK_INT(engine->unregisterLocalMemory(memory.data()), 0);
    CHECK_INT(engine->freeEngine(), 0);
    return 0;
}

class Target {
   public:
    explicit Target(size_t length) {
        int fds[2];
        char number[16], size[32], *self = own_path(), flag[] = "--target", answer[512];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
        snprintf(number, sizeof number, "%d", fds[1]);
        snprintf(size, sizeof size, "%zu", length);
        fflush(stdout);
        pid_ = fork();
        CHECK_SYS(pid_);
        if (pid_ == 0) {
            char *args[] = {self, flag, number, size, nullptr};
            fcntl(fds[1], F_SETFD, 0);
            execv(self, args);
            _exit(127);
        }
        close(fds[1]);
        fd_ = fds[0];
        const ssize_t n = recv(fd_, answer, sizeof answer, 0);
        if (n <= 0) FAIL("the target does not start");
        name_.assign(answer, static_cast<size_t>(n));
    }

    const std::string &name() const { return name_; }

    // Ends it in peace; whether its memory was as at the start.
    bool end() {
        char same = 0;
        CHECK(send(fd_, "q", 1, MSG_NOSIGNAL) == 1);
        CHECK(recv(fd_, &same, 1, 0) == 1);
        CHECK_EXIT(wait_child(pid_, 20000), 0);
        close(fd_);
        return same == 'y';
    }

    void kill_it() {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        close(fd_);
    }

   private:
    pid_t pid_ = -1;
    int fd_ = -1;
    std::string name_;
};

#endif
