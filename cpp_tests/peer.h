/* The other process. Every test that needs one runs its own program a second time, as a peer that does
 * what it is asked over a socket pair: `if (peer_asked(argc, argv)) return peer_main(argc, argv);`.
 *
 * One packet is one command or one answer; answers begin with "OK" or say what is wrong. A peer ends
 * with "quit", when its parent dies, or when it is killed. */
#ifndef CPP_TESTS_PEER_H
#define CPP_TESTS_PEER_H

#include "te.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define PEER_REGIONS 16
#define PEER_ANSWER 4096
#define PEER_SEED 0x50454552 /* region i is filled with pattern PEER_SEED + i */

/* ---- the peer's side --------------------------------------------------------------------------- */

typedef struct {
    uint8_t *at;
    size_t len;
    bool shm, registered;
} peer_region_t;

typedef struct {
    transfer_engine_t engine;
    peer_region_t regions[PEER_REGIONS];
    int count;
    notify_msg_t *inbox;
    int inbox_count, inbox_next;
} peer_state_t;

static inline bool peer_asked(int argc, char **argv) { return argc == 3 && !strcmp(argv[1], "--peer"); }

static inline void peer_answer(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void peer_answer(int fd, const char *format, ...) {
    char text[PEER_ANSWER];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (send(fd, text, (size_t)(n < PEER_ANSWER ? n : PEER_ANSWER - 1), MSG_NOSIGNAL) < 0) _exit(3);
}

static inline void peer_alloc(peer_state_t *s, int fd, const char *kind, size_t len, int access) {
    CHECK(s->count < PEER_REGIONS);
    peer_region_t *r = &s->regions[s->count];
    void *at = NULL;
    r->len = len;
    r->shm = !strcmp(kind, "shm");
    r->registered = access >= 0;
    if (r->shm) {
        if (tent_allocate_memory(s->engine, &at, len, "*") != 0) {
            peer_answer(fd, "ERR tent_allocate_memory: %s", tent_last_error());
            return;
        }
        r->at = (uint8_t *)at;
    } else {
        r->at = map_bytes(len);
    }
    pattern_fill(r->at, PEER_SEED + (uint64_t)s->count, 0, len);
    int rc = r->shm || !r->registered ? 0 : registerLocalMemory(s->engine, r->at, len, "*", access);
    if (rc != 0) {
        peer_answer(fd, "ERR registerLocalMemory gives %d: %s", rc, tent_last_error());
        return;
    }
    peer_answer(fd, "OK %d %llu", s->count, (unsigned long long)(uintptr_t)r->at);
    s->count++;
}

/* Waits for the next message of the inbox; NULL after `limit_ms`. It stays valid until the next call. */
static inline notify_msg_t *peer_next(peer_state_t *s, int limit_ms) {
    int64_t end = now_ms() + limit_ms;
    while (s->inbox_next == s->inbox_count) {
        if (s->inbox) freeNotifsMsgBuf(s->inbox, s->inbox_count);
        s->inbox_next = s->inbox_count = 0;
        s->inbox = getNotifsFromEngine(s->engine, &s->inbox_count);
        if ((s->inbox == NULL) != (s->inbox_count == 0)) FAIL("getNotifsFromEngine: NULL and size differ");
        if (s->inbox) break;
        if (now_ms() > end) return NULL;
        poll(NULL, 0, 1);
    }
    return &s->inbox[s->inbox_next++];
}

/* Takes `count` messages "<region> <offset> <len> <pos> <seed>" named "<sender> <number>": the numbers of each
 * sender must rise by one, and the bytes named must be there already. */
static inline void peer_inbox(peer_state_t *s, int fd, int count, int limit_ms) {
    long last[64];
    for (int i = 0; i < 64; i++) last[i] = -1;
    for (int i = 0; i < count; i++) {
        notify_msg_t *m = peer_next(s, limit_ms);
        if (!m) {
            peer_answer(fd, "ERR only %d of %d messages came", i, count);
            return;
        }
        int sender, region;
        long number;
        unsigned long long offset, len, pos, seed;
        if (sscanf(m->name, "%d %ld", &sender, &number) != 2 || sender < 0 || sender >= 64 ||
            sscanf(m->msg, "%d %llu %llu %llu %llu", &region, &offset, &len, &pos, &seed) != 5 ||
            region >= s->count) {
            peer_answer(fd, "ERR message %d is \"%.99s\" \"%.99s\"", i, m->name, m->msg);
            return;
        }
        if (number != last[sender] + 1) {
            peer_answer(fd, "ERR sender %d: number %ld after %ld", sender, number, last[sender]);
            return;
        }
        last[sender] = number;
        int64_t bad = len ? pattern_diff(s->regions[region].at + offset, seed, pos, len) : -1;
        if (bad >= 0) {
            peer_answer(fd, "ERR sender %d, message %ld: byte %lld was not there yet", sender, number,
                        (long long)bad);
            return;
        }
    }
    peer_answer(fd, "OK");
}

static inline void peer_check(peer_state_t *s, int fd, int i) {
    int64_t bad = pattern_diff(s->regions[i].at, PEER_SEED + (uint64_t)i, 0, s->regions[i].len);
    if (bad >= 0)
        peer_answer(fd, "ERR region %d: byte %lld has changed", i, (long long)bad);
    else
        peer_answer(fd, "OK");
}

static inline void peer_layout(peer_state_t *s, int fd, const char *args) {
    int i;
    unsigned long long base, seed, count, min, max, moved;
    if (sscanf(args, "%d %llu %llu %llu %llu %llu %llu", &i, &base, &seed, &count, &min, &max, &moved) != 7)
        FAIL("bad layout command: %s", args);
    layout_t l = {base, seed, count, min, max};
    peer_region_t *r = &s->regions[i];
    const char *wrong = layout_verify(r->at, r->len, &l, PEER_SEED + (uint64_t)i, moved);
    if (wrong)
        peer_answer(fd, "ERR %s", wrong);
    else
        peer_answer(fd, "OK");
}

/* Unregisters a region while others use it; once that has succeeded, nothing may reach it any more (I6). */
static inline void peer_withdraw(peer_state_t *s, int fd, int i) {
    peer_region_t *r = &s->regions[i];
    int rc = unregisterLocalMemory(s->engine, r->at);
    if (rc != 0) {
        peer_answer(fd, "OK %d", rc);
        return;
    }
    r->registered = false;
    pattern_fill(r->at, PEER_SEED + (uint64_t)i, 0, r->len);
    for (int64_t end = now_ms() + 50; now_ms() < end;) {
        int64_t bad = pattern_diff(r->at, PEER_SEED + (uint64_t)i, 0, r->len);
        if (bad >= 0) {
            peer_answer(fd, "ERR byte %lld was written after unregisterLocalMemory had returned 0", (long long)bad);
            return;
        }
    }
    if (registerLocalMemory(s->engine, r->at, r->len, "*", 1) != 0) FAIL("%s", tent_last_error());
    r->registered = true;
    peer_answer(fd, "OK 0");
}

/* Submits a WRITE to another peer and ends the process at once, in the middle of it. */
static inline void peer_exit_amid(peer_state_t *s, const char *name, uint64_t remote, size_t len, int how) {
    uint8_t *from = map_bytes(len);
    memset(from, 0, len);
    te_register(s->engine, from, len);
    segment_id_t target = te_open(s->engine, name);
    batch_id_t batch = allocateBatchID(s->engine, 64);
    transfer_request_t r = te_request(OPCODE_WRITE, from, target, remote, len);
    for (int i = 0; i < 64; i++) CHECK_INT(submitTransfer(s->engine, batch, &r, 1), 0);
    CHECK_BY(20000, te_status(s->engine, batch, 0).transferred_bytes > 0);
    if (how == 1) destroyTransferEngine(s->engine);
    if (how == 2) _exit(0);
    if (how == 3) kill(getpid(), SIGKILL);
    exit(0); /* runs atexit handlers and destructors under the engine's threads */
}

static inline void peer_quit(peer_state_t *s) {
    if (s->inbox) freeNotifsMsgBuf(s->inbox, s->inbox_count);
    for (int i = 0; i < s->count; i++) {
        peer_region_t *r = &s->regions[i];
        if (r->shm)
            CHECK_INT(tent_free_memory(s->engine, r->at), 0);
        else if (r->registered)
            CHECK_INT(unregisterLocalMemory(s->engine, r->at), 0);
    }
    if (s->engine) destroyTransferEngine(s->engine);
}

/* Runs one command; false ends the peer. */
static inline bool peer_do(peer_state_t *s, int fd, const char *text) {
    char word[256];
    int a, b;
    unsigned long long x, y;
    if (sscanf(text, "alloc %255s %llu %d", word, &x, &a) == 3) {
        peer_alloc(s, fd, word, (size_t)x, a);
    } else if (!strncmp(text, "layout ", 7)) {
        peer_layout(s, fd, text + 7);
    } else if (sscanf(text, "check %d", &a) == 1) {
        peer_check(s, fd, a);
    } else if (sscanf(text, "unregister %d", &a) == 1) {
        s->regions[a].registered = false;
        peer_answer(fd, "OK %d", unregisterLocalMemory(s->engine, s->regions[a].at));
    } else if (sscanf(text, "withdraw %d", &a) == 1) {
        peer_withdraw(s, fd, a);
    } else if (sscanf(text, "protect %d", &a) == 1) { /* as if unmapped, but the address stays taken */
        CHECK_SYS(mprotect(s->regions[a].at, s->regions[a].len, PROT_NONE));
        peer_answer(fd, "OK");
    } else if (sscanf(text, "inbox %d %d", &a, &b) == 2) {
        peer_inbox(s, fd, a, b);
    } else if (sscanf(text, "exit-amid %255s %llu %llu %d", word, &x, &y, &a) == 4) {
        peer_answer(fd, "OK");
        peer_exit_amid(s, word, x, (size_t)y, a);
    } else if (!strcmp(text, "destroy")) {
        destroyTransferEngine(s->engine);
        s->engine = NULL;
        s->count = 0;
        peer_answer(fd, "OK");
    } else if (!strcmp(text, "counts")) {
        peer_answer(fd, "OK %d %d %ld", count_fds(), count_threads(), resident_kib());
    } else if (!strcmp(text, "quit")) {
        peer_quit(s);
        peer_answer(fd, "OK");
        return false;
    } else {
        FAIL("unknown command: %s", text);
    }
    return true;
}

static inline int peer_main(int argc, char **argv) {
    (void)argc;
    int fd = atoi(argv[2]);
    char text[PEER_ANSWER], name[NAME_LEN];
    peer_state_t state;
    memset(&state, 0, sizeof state);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    check_step = "peer";
    state.engine = te_create();
    te_name(state.engine, name);
    peer_answer(fd, "OK %s", name);
    for (bool more = true; more;) {
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        if (n <= 0) break; /* the parent is gone */
        text[n] = 0;
        more = peer_do(&state, fd, text);
    }
    close(fd);
    return 0;
}

/* ---- the test's side --------------------------------------------------------------------------- */

typedef struct {
    pid_t pid;
    int fd;
    char name[NAME_LEN];
    pthread_mutex_t lock;
} peer_t;

static inline bool peer_says(peer_t *peer, char answer[PEER_ANSWER], int limit_ms) {
    struct pollfd p = {peer->fd, POLLIN, 0};
    int n;
    do n = poll(&p, 1, limit_ms);
    while (n < 0 && errno == EINTR);
    if (n == 0) FAIL("peer %d does not answer in %d ms", (int)peer->pid, limit_ms);
    ssize_t got = recv(peer->fd, answer, PEER_ANSWER - 1, 0);
    answer[got > 0 ? got : 0] = 0;
    return got > 0;
}

/* Asks, and gives the answer. */
__attribute__((format(printf, 3, 4))) static inline void peer_ask(peer_t *peer, char answer[PEER_ANSWER],
                                                                  const char *format, ...) {
    char text[PEER_ANSWER];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pthread_mutex_lock(&peer->lock);
    if (send(peer->fd, text, (size_t)n, MSG_NOSIGNAL) != n) FAIL("peer %d is gone", (int)peer->pid);
    bool said = peer_says(peer, answer, 120000);
    pthread_mutex_unlock(&peer->lock);
    if (!said) FAIL("peer %d ended while asked: %s", (int)peer->pid, text);
}

/* Asks; the answer must be OK. */
#define PEER_OK(peer, ...)                                                                              \
    do {                                                                                                \
        char peer_said[PEER_ANSWER];                                                                    \
        peer_ask((peer), peer_said, __VA_ARGS__);                                                       \
        if (strncmp(peer_said, "OK", 2) != 0) FAIL("the peer says: %s", peer_said);                     \
    } while (0)

static inline void peer_start(peer_t *peer) {
    int fds[2];
    char number[16], answer[PEER_ANSWER];
    char *self = own_path(), flag[] = "--peer";
    CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
    snprintf(number, sizeof number, "%d", fds[1]);
    fflush(stdout);
    pid_t pid = fork();
    CHECK_SYS(pid);
    if (pid == 0) {
        char *args[] = {self, flag, number, NULL};
        fcntl(fds[1], F_SETFD, 0);
        execv(self, args);
        _exit(127);
    }
    close(fds[1]);
    peer->pid = pid;
    peer->fd = fds[0];
    pthread_mutex_init(&peer->lock, NULL);
    if (!peer_says(peer, answer, 30000) || sscanf(answer, "OK %127s", peer->name) != 1)
        FAIL("the peer does not start: %s", answer);
}

/* Adds a region of the peer; gives its address there. `kind` is "map" or "shm"; access as in
 * registerLocalMemory, -1 for memory that is not registered at all. */
static inline uint64_t peer_region(peer_t *peer, const char *kind, size_t len, int access) {
    char answer[PEER_ANSWER];
    int index;
    unsigned long long at;
    peer_ask(peer, answer, "alloc %s %zu %d", kind, len, access);
    if (sscanf(answer, "OK %d %llu", &index, &at) != 2) FAIL("the peer says: %s", answer);
    return at;
}

static inline void peer_stop(peer_t *peer) {
    PEER_OK(peer, "quit");
    CHECK_EXIT(wait_child(peer->pid, 30000), 0);
    close(peer->fd);
}

static inline void peer_kill(peer_t *peer) {
    kill(peer->pid, SIGKILL);
    waitpid(peer->pid, NULL, 0);
    close(peer->fd);
}

#endif
