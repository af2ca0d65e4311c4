// Graceful shutdown through the class, as upstream's test has it: SIGTERM and SIGINT end the process with
// 128 + signal, whether the engine was initialised or not, is there or gone, alone or not, forked or not.
#include <transfer_engine.h>

#include "check.h"

#include <functional>
#include <memory>

using mooncake::TransferEngine;

namespace {

using Body = std::function<void()>;

std::unique_ptr<TransferEngine> enabled(bool init) {
    auto engine = std::make_unique<TransferEngine>(false);
    if (init) CHECK_INT(engine->init(P2PHANDSHAKE, "127.0.0.1"), 0);
    engine->enableGracefulShutdown();
    return engine;
}

// A child that does `body` and is then killed; `inner` is the signal that must end it with 128 + itself.
void expect(const char *what, int number, const Body &body) {
    STEP(what);
    int ready[2];
    char byte;
    CHECK_SYS(pipe(ready));
    fflush(stdout);
    const pid_t pid = fork();
    CHECK_SYS(pid);
    if (pid == 0) {
        alarm(20);
        body();
        if (write(ready[1], "r", 1) != 1) _exit(98);
        for (;;) pause();
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    CHECK_SYS(kill(pid, number));
    CHECK_EXIT(wait_child(pid, 15000), 128 + number);
    FACT("%s: exit status %d", what, 128 + number);
}

} // namespace

int main() {
    watchdog(100);
    static std::unique_ptr<TransferEngine> one, two;
    for (const bool init : {false, true}) {
        const char *how = init ? "with an engine" : "before init";
        FACT("%s", how);
        expect("SIGTERM", SIGTERM, [&] { one = enabled(init); });
        expect("SIGINT", SIGINT, [&] { one = enabled(init); });
        expect("enabled three times", SIGTERM, [&] {
            one = enabled(init);
            one->enableGracefulShutdown();
            one->enableGracefulShutdown();
        });
        expect("destroyed before the signal", SIGTERM, [&] { enabled(init).reset(); });
        expect("several engines", SIGTERM, [&] {
            one = enabled(init);
            two = enabled(init);
        });
        expect("moved", SIGTERM, [&] {
            one = std::make_unique<TransferEngine>(std::move(*enabled(init)));
            if (!init) CHECK_INT(one->init(P2PHANDSHAKE, "127.0.0.1"), 0);
        });
    }
    // a child that inherits the handlers, but not the thread that serves them
    STEP("forked");
    one = enabled(true);
    expect("a forked child", SIGTERM, [] {});
    expect("a forked child that enables anew", SIGINT, [] { two = enabled(true); });
    CHECK(one->allocateBatchID(1) != mooncake::INVALID_BATCH_ID); // the parent did not notice
    return pass("cxx_shutdown");
}
