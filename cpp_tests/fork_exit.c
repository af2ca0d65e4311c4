/* The host process forks, execs and exits as it likes, with transfers under way: the child's calls on
 * the inherited engine refuse at once, the parent's bytes are right, an exit neither hangs nor crashes,
 * and the peer of a process that is gone serves others. */
#include "peer.h"

#define LEN (128 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

/* In the child of a fork: every call must come back at once, with an error. */
static void child_calls(batch_id_t batch) {
    int64_t begin = now_ms();
    char text[256];
    int size = 0;
    static uint8_t page[4096];
    transfer_status_t s = {-1, 7};
    transfer_request_t r = te_request(OPCODE_WRITE, local, target, remote, 64);
    CHECK(submitTransfer(engine, batch, &r, 1) != 0);
    CHECK(getTransferStatus(engine, batch, 0, &s) != 0);
    CHECK_INT(s.status, STATUS_FAILED);
    CHECK_INT(tent_wait(engine, batch, 5000), -1);
    CHECK(allocateBatchID(engine, 1) == INVALID_BATCH);
    CHECK(freeBatchID(engine, batch) != 0);
    CHECK_INT(openSegment(engine, "127.0.0.1:1"), -1);
    CHECK(registerLocalMemory(engine, page, sizeof page, "*", 1) < 0);
    CHECK(unregisterLocalMemory(engine, local) < 0);
    CHECK(getNotifsFromEngine(engine, &size) == NULL);
    (void)syncSegmentCache(engine);
    (void)getLocalIpAndPort(engine, text, sizeof text);
    destroyTransferEngine(engine);
    int64_t took = now_ms() - begin;
    if (took > 1000) FAIL("the child's calls take %lld ms", (long long)took);
}

typedef enum { LEAVES_AT_ONCE, CALLS, MAKES_ITS_OWN, EXITS, EXECS, WAYS } way_t;

static void child(way_t way, batch_id_t batch) {
    check_step = "forked child";
    watchdog(20);
    if (way == CALLS) child_calls(batch);
    if (way == MAKES_ITS_OWN) {
        transfer_engine_t own = te_create();
        char name[NAME_LEN];
        te_name(own, name);
        CHECK_INT(te_open(own, name), LOCAL_SEGMENT);
        CHECK(te_open(own, peer.name) > 0);
        destroyTransferEngine(own);
    }
#ifndef __SANITIZE_ADDRESS__ /* its leak check counts what the parent's other threads hold as lost */
    if (way == EXITS) exit(0);
#endif
    if (way == EXECS) {
        char *self = own_path(), flag[] = "--count-descriptors";
        char *args[] = {self, flag, NULL};
        execv(self, args);
        _exit(127);
    }
    _exit(0);
}

static void forks(void) {
    static const char *const names[WAYS] = {"leaves at once", "calls the inherited engine",
                                            "makes an engine of its own", "exits", "execs"};
    for (int op = OPCODE_READ; op <= OPCODE_WRITE; op++)
        for (way_t way = LEAVES_AT_ONCE; way < WAYS; way++) {
            STEP(names[way]);
            layout_t l = {0, 10 + (uint64_t)way, 16, LEN / 32, LEN / 20};
            transfer_request_t *r = te_requests(&l, op, local, target, remote);
            batch_id_t batch = allocateBatchID(engine, l.count);
            CHECK_INT(submitTransfer(engine, batch, r, l.count), 0);
            fflush(stdout);
            pid_t pid = fork();
            CHECK_SYS(pid);
            if (pid == 0) child(way, batch);
            CHECK_INT(te_wait(engine, batch, l.count, 60000, NULL), l.count);
            CHECK_EXIT(wait_child(pid, 25000), 0);
            CHECK_INT(freeBatchID(engine, batch), 0);
            free(r);
            if (op == OPCODE_WRITE) {
                PEER_OK(&peer, "layout 0 0 %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, l.seed, l.count,
                        l.min, l.max, (uint64_t)LOCAL_SEED);
            } else {
                const char *wrong = layout_verify(local, LEN, &l, LOCAL_SEED, PEER_SEED);
                if (wrong) FAIL("READ: %s", wrong);
            }
            FACT("%s, child %s: the parent's bytes are right", op == OPCODE_READ ? "READ" : "WRITE", names[way]);
        }
}

/* Another process writes to our peer and ends in the middle. */
static void exits(void) {
    static const char *const names[] = {"exit", "destroy and exit", "_exit", "SIGKILL"};
    for (int how = 0; how < 4; how++) {
        STEP(names[how]);
        peer_t other;
        peer_start(&other);
        uint64_t open = remote + LEN; /* region 0's upper half is theirs */
        PEER_OK(&other, "exit-amid %s %llu %llu %d", peer.name, (unsigned long long)open,
                (unsigned long long)LEN / 2, how);
        int status = wait_child(other.pid, 30000);
        if (how == 3)
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        else
            CHECK_EXIT(status, 0);
        close(other.fd);
        transfer_request_t r = te_request(OPCODE_READ, local, target, remote, LEN / 2);
        te_move(engine, &r, 1, 1, 30000);
        CHECK_PATTERN(local, PEER_SEED, 0, LEN / 2);
        pattern_fill(local, LOCAL_SEED, 0, LEN / 2);
        FACT("a process ends by %s while it writes: its peer serves others", names[how]);
    }
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    if (argc == 2 && !strcmp(argv[1], "--count-descriptors")) {
        /* 0, 1, 2 and what ctest or a shell may leave open: but none of the engine's sockets, memfds... */
        DIR *dir = opendir("/proc/self/fd");
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            char path[300], to[256] = "";
            snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
            if (readlink(path, to, sizeof to - 1) < 0 || atoi(e->d_name) <= 2) continue;
            if (strstr(to, "memfd:") || strstr(to, "anon_inode:")) FAIL("descriptor %s -> %s came along", e->d_name, to);
        }
        closedir(dir);
        return 0;
    }
    watchdog(170);
    STEP("start");
    peer_start(&peer);
    engine = te_create();
    remote = peer_region(&peer, "map", 2 * LEN, 1);
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    target = te_open(engine, peer.name);
    forks();
    exits();
    STEP("nothing was left behind");
    CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("fork_exit");
}
