/* Signals belong to the host: an engine installs no handler, unless enableGracefulShutdown asks for it;
 * then SIGTERM and SIGINT end the engines and the process, with status 128 + signal, also amid
 * transfers, and a forked child does not hang in it. */
#include "te.h"

#define LEN (64 * MIB)

typedef enum { PLAIN, GRACEFUL, GRACEFUL_TWICE, GRACEFUL_BUSY, GRACEFUL_FORKED, WAYS } way_t;
static const char *const names[WAYS] = {"not asked", "asked", "asked twice, two engines", "amid transfers",
                                        "with a forked child"};

static void remember_handlers(struct sigaction actions[65]) {
    memset(actions, 0, 65 * sizeof *actions);
    for (int s = 1; s < 65; s++) (void)sigaction(s, NULL, &actions[s]);
}

static void no_handlers(void) {
    static struct sigaction before[65], after[65];
    sigset_t mask_before, mask_after;
    sigprocmask(SIG_SETMASK, NULL, &mask_before);
    remember_handlers(before);
    transfer_engine_t e = te_create();
    remember_handlers(after);
    sigprocmask(SIG_SETMASK, NULL, &mask_after);
    for (int s = 1; s < 65; s++) {
        if (before[s].sa_handler != after[s].sa_handler) FAIL("the engine handles signal %d", s);
        CHECK_INT(sigismember(&mask_after, s), sigismember(&mask_before, s));
    }
    destroyTransferEngine(e);
    FACT("an engine leaves all signal handlers and the mask alone");
}

/* The process that gets the signal. */
static int victim(way_t way, int ready) {
    transfer_engine_t e = te_create();
    if (way != PLAIN) enableGracefulShutdown(e);
    if (way == GRACEFUL_TWICE) {
        enableGracefulShutdown(e);
        enableGracefulShutdown(te_create());
    }
    if (way == GRACEFUL_FORKED) {
        pid_t pid = fork();
        if (pid == 0) {
            kill(getpid(), SIGTERM); /* handled here or not: it must end, and not by hanging */
            _exit(0);
        }
        wait_child(pid, 15000);
    }
    uint8_t *memory = map_bytes(2 * LEN);
    te_register(e, memory, 2 * LEN);
    CHECK(write(ready, "r", 1) == 1);
    while (way == GRACEFUL_BUSY) { /* refused once the engine is gone; then the signal ends us */
        batch_id_t b = allocateBatchID(e, 1);
        transfer_request_t r = te_request(OPCODE_WRITE, memory, LOCAL_SEGMENT, (uintptr_t)memory + LEN, LEN);
        (void)submitTransfer(e, b, &r, 1);
        (void)tent_wait(e, b, 1000);
        (void)freeBatchID(e, b);
    }
    while (true) pause();
}

static void send_signal(way_t way, int signal_number) {
    int ready[2], status;
    char fd[16], number[16], byte, *self = own_path(), flag[] = "--victim";
    STEP(names[way]);
    CHECK_SYS(pipe2(ready, O_CLOEXEC));
    snprintf(fd, sizeof fd, "%d", ready[1]);
    snprintf(number, sizeof number, "%d", (int)way);
    fflush(stdout);
    pid_t pid = fork();
    CHECK_SYS(pid);
    if (pid == 0) {
        char *args[] = {self, flag, number, fd, NULL};
        fcntl(ready[1], F_SETFD, 0);
        execv(self, args);
        _exit(127);
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    CHECK_SYS(kill(pid, signal_number));
    status = wait_child(pid, 15000);
    if (way == PLAIN) {
        CHECK(WIFSIGNALED(status));
        CHECK_INT(WTERMSIG(status), signal_number);
    } else {
        CHECK_EXIT(status, 128 + signal_number);
    }
    FACT("graceful shutdown %s, signal %d: as it must", names[way], signal_number);
}

int main(int argc, char **argv) {
    watchdog(60);
    if (argc == 4 && !strcmp(argv[1], "--victim")) return victim((way_t)atoi(argv[2]), atoi(argv[3]));
    no_handlers();
    for (way_t way = PLAIN; way < WAYS; way++) {
        send_signal(way, SIGTERM);
        send_signal(way, SIGINT);
    }
    return pass("signals");
}
