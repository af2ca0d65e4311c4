/* Peers that are dead, mute, or lie: at the RPC port, in the descriptor, on the data port. Every call
 * comes back in bounded time, no lie becomes COMPLETED, and no lie about one peer holds up another. */
#include "peer.h"
#include "wire.h"

#define LEN (64 * KIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)
#define OPEN_LIMIT_MS 40000
#define TASK_LIMIT_MS 100000

static transfer_engine_t engine;
static uint8_t *local;

/* ---- a liar at the RPC port ------------------------------------------------------------------ */

typedef enum {
    CLOSES, HALF_LENGTH, LONG_FRAME, SHORT_FRAME, HUGE_FRAME, EMPTY_FRAME, OTHER_TYPE, NOT_JSON, HTTP_ANSWER,
    BRACKETS, WRONG_KINDS, ARRAY, NO_KEYS, WRAPPING_BUFFER, EMPTY_BUFFER, WRONG_PORT, ODD_TENT, TRAILING,
    MUTE, DRIBBLE, RPC_LIES
} rpc_lie_t;

static const struct {
    const char *what;
    int may_open; /* the descriptor can be read; that it is worth nothing shows later */
} rpc_lies[RPC_LIES] = {
    [CLOSES] = {"closes", 0}, [HALF_LENGTH] = {"closes within the length", 0},
    [LONG_FRAME] = {"promises more than it sends", 0}, [SHORT_FRAME] = {"sends more than it promises", 0},
    [HUGE_FRAME] = {"promises 2^60 bytes", 0}, [EMPTY_FRAME] = {"an empty frame", 0},
    [OTHER_TYPE] = {"another type", 0}, [NOT_JSON] = {"noise in a frame", 0}, [HTTP_ANSWER] = {"HTTP", 0},
    [BRACKETS] = {"100000 open brackets", 0}, [WRONG_KINDS] = {"values of wrong kinds", 0},
    [ARRAY] = {"an array", 0}, [NO_KEYS] = {"an object without keys", 1},
    [WRAPPING_BUFFER] = {"a buffer that wraps", 1}, [EMPTY_BUFFER] = {"a buffer at 0 of 0 bytes", 0},
    [WRONG_PORT] = {"a port of 99999", 1}, [ODD_TENT] = {"private facts that are nonsense", 1},
    [TRAILING] = {"two objects in one frame", 1}, [MUTE] = {"never answers", 0},
    [DRIBBLE] = {"answers a byte at a time, without end", 0},
};

typedef struct {
    int listener, port;
    rpc_lie_t lie;
    const char *descriptor; /* instead of a lie */
    int stop;               /* read end of a pipe that closes when the test is done */
} liar_t;

#define BUFFERS(addr, len) "\"buffers\":[{\"name\":\"x\",\"addr\":" addr ",\"length\":" len "}]"
#define REST "\"name\":\"x\",\"protocol\":\"tcp\",\"tcp_proto_version\":2"

static bool stopped(const liar_t *l, int limit_ms) {
    struct pollfd p = {l->stop, POLLIN, 0};
    return poll(&p, 1, limit_ms) > 0;
}

static void rpc_lie(const liar_t *l, int fd) {
    static uint8_t bin[100009];
    uint8_t head[16] = {0};
    switch (l->lie) {
    case CLOSES: break;
    case HALF_LENGTH: send_some(fd, head, 3); break;
    case LONG_FRAME:
        put_u64(head, 5000);
        head[8] = 1;
        send_some(fd, head, 12);
        break;
    case SHORT_FRAME:
        put_u64(head, 3);
        memcpy(head + 8, "\x01{\"name", 7);
        send_some(fd, head, 15);
        break;
    case HUGE_FRAME:
        put_u64(head, UINT64_C(1) << 60);
        send_some(fd, head, 16);
        break;
    case EMPTY_FRAME: send_some(fd, head, 8); break;
    case OTHER_TYPE: send_frame(fd, 2, "{" REST "}"); break;
    case NOT_JSON: send_frame(fd, 1, "\xff\xfe\x01{]}"); break;
    case HTTP_ANSWER: send_some(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28); break;
    case BRACKETS:
        memset(bin, '[', sizeof bin);
        put_u64(bin, sizeof bin - 8);
        bin[8] = 1;
        send_some(fd, bin, sizeof bin);
        break;
    case WRONG_KINDS: send_frame(fd, 1, "{\"buffers\":7,\"name\":[],\"protocol\":{},\"tcp_data_port\":\"x\"}"); break;
    case ARRAY: send_frame(fd, 1, "[1,2,3]"); break;
    case NO_KEYS: send_frame(fd, 1, "{}"); break;
    case WRAPPING_BUFFER:
        send_frame(fd, 1, "{" BUFFERS("18446744073709551000", "18446744073709551615") "," REST ",\"tcp_data_port\":1}");
        break;
    case EMPTY_BUFFER: send_frame(fd, 1, "{" BUFFERS("0", "0") "," REST ",\"tcp_data_port\":1}"); break;
    case WRONG_PORT: send_frame(fd, 1, "{" BUFFERS("4096", "65536") "," REST ",\"tcp_data_port\":99999}"); break;
    case ODD_TENT:
        send_frame(fd, 1, "{" BUFFERS("4096", "65536") "," REST ",\"tcp_data_port\":1,"
                   "\"tent\":{\"incarnation\":-1,\"host\":[],\"rails\":\"x\",\"guard\":{\"fd\":1e99}}}");
        break;
    case TRAILING: send_frame(fd, 1, "{" REST "}{" REST "}"); break;
    case MUTE: stopped(l, OPEN_LIMIT_MS + 10000); break;
    case DRIBBLE:
        put_u64(head, 60000);
        head[8] = 1;
        send_some(fd, head, 9);
        while (!stopped(l, 50) && send(fd, " ", 1, MSG_NOSIGNAL) == 1) continue;
        break;
    case RPC_LIES: break;
    }
}

/* Takes one connection after the other, each on its own, until the test is done. */
static void *rpc_liar(void *arg) {
    liar_t *l = (liar_t *)arg;
    while (true) {
        struct pollfd p[2] = {{l->listener, POLLIN, 0}, {l->stop, POLLIN, 0}};
        uint64_t len = 0;
        uint8_t request[4096];
        poll(p, 2, -1);
        if (p[1].revents) return NULL;
        int fd = accept4(l->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        struct timeval limit = {5, 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (recv_all(fd, &len, 8)) { /* the request is taken first, or our close would be a reset */
            while (len > 0 && recv_all(fd, request, len < sizeof request ? len : sizeof request))
                len -= len < sizeof request ? len : sizeof request;
        }
        if (l->descriptor)
            send_frame(fd, 1, l->descriptor);
        else
            rpc_lie(l, fd);
        shutdown(fd, SHUT_WR);
        close(fd);
    }
}

typedef struct {
    liar_t liar;
    segment_id_t id;
    int64_t took_ms;
} opening_t;

static void *open_liar(void *arg) {
    opening_t *o = (opening_t *)arg;
    char name[32];
    int64_t begin = now_ms();
    snprintf(name, sizeof name, "127.0.0.1:%d", o->liar.port);
    o->id = openSegment(engine, name);
    o->took_ms = now_ms() - begin;
    return NULL;
}

static void rpc_liars(int stop) {
    static opening_t o[RPC_LIES]; /* the liars outlive this function */
    pthread_t liars[RPC_LIES], openers[RPC_LIES];
    for (int i = 0; i < RPC_LIES; i++) {
        memset(&o[i], 0, sizeof o[i]);
        o[i].liar.listener = listen_any(&o[i].liar.port);
        o[i].liar.lie = (rpc_lie_t)i;
        o[i].liar.stop = stop;
        CHECK_INT(pthread_create(&liars[i], NULL, rpc_liar, &o[i].liar), 0);
        CHECK_INT(pthread_create(&openers[i], NULL, open_liar, &o[i]), 0);
    }
    for (int i = 0; i < RPC_LIES; i++) {
        CHECK_INT(pthread_join(openers[i], NULL), 0);
        FACT("a peer that sends %s: id %d after %lld ms", rpc_lies[i].what, o[i].id, (long long)o[i].took_ms);
        if (o[i].took_ms > OPEN_LIMIT_MS) FAIL("openSegment takes %lld ms", (long long)o[i].took_ms);
        if (o[i].id >= 0 && !rpc_lies[i].may_open) FAIL("openSegment believes a peer that sends %s", rpc_lies[i].what);
        CHECK(o[i].id != LOCAL_SEGMENT);
    }
    for (int i = 0; i < RPC_LIES; i++) { /* what could be opened leads nowhere */
        if (o[i].id < 0) continue;
        batch_id_t b = allocateBatchID(engine, 1);
        transfer_request_t r = te_request(OPCODE_READ, local, o[i].id, 4096, 4096);
        if (submitTransfer(engine, b, &r, 1) == 0) {
            transfer_status_t s;
            te_wait(engine, b, 1, TASK_LIMIT_MS, &s);
            FACT("READ from a peer that sends %s: status %d", rpc_lies[i].what, s.status);
            CHECK_INT(s.status, STATUS_FAILED);
        }
        CHECK_INT(freeBatchID(engine, b), 0);
    }
    CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
}

/* ---- a liar on the data port ----------------------------------------------------------------- */

typedef enum {
    D_REFUSES, D_CLOSES, D_RESETS, D_NOISE, D_SHORT, D_REJECTS, D_NO_MAGIC, D_HALF_STATUS, D_HTTP, D_MUTE, DATA_LIES
} data_lie_t;

static const char *const data_lies[DATA_LIES] = {
    "refuses connections", "closes at once", "resets after the header", "answers noise", "ends within the data",
    "rejects the range", "answers a status without magic", "ends within the status", "answers HTTP", "never answers",
};

typedef struct {
    int listener, stop;
    data_lie_t lie;
} data_liar_t;

static void data_lie(const data_liar_t *l, int fd) {
    static const uint8_t ok[8] = {0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};
    static const uint8_t rejected[8] = {1, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};
    static const uint8_t zeros[64] = {0};
    uint8_t header[24], noise[512];
    struct linger hard = {1, 0};
    struct pollfd p = {l->stop, POLLIN, 0};
    if (l->lie == D_CLOSES || !recv_all(fd, header, sizeof header)) return;
    pattern_fill(noise, 3, 0, sizeof noise);
    switch (l->lie) {
    case D_RESETS: setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard); break;
    case D_NOISE: send_some(fd, noise, sizeof noise); break;
    case D_SHORT:
        send_some(fd, ok, 8);
        send_some(fd, zeros, sizeof zeros);
        break;
    case D_REJECTS: send_some(fd, rejected, 8); break;
    case D_NO_MAGIC: send_some(fd, zeros, 8); break;
    case D_HALF_STATUS: send_some(fd, ok, 5); break;
    case D_HTTP: send_some(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28); break;
    case D_MUTE: poll(&p, 1, TASK_LIMIT_MS + 10000); break;
    case D_REFUSES: case D_CLOSES: case DATA_LIES: break;
    }
}

typedef struct {
    data_liar_t liar;
    int fd;
} data_call_t;

static void *data_call(void *arg) { /* one thread per connection: a mute one must not block the next */
    data_call_t *c = (data_call_t *)arg;
    data_lie(&c->liar, c->fd);
    close(c->fd);
    free(c);
    return NULL;
}

static void *data_liar(void *arg) {
    data_liar_t *l = (data_liar_t *)arg;
    while (true) {
        struct pollfd p[2] = {{l->listener, POLLIN, 0}, {l->stop, POLLIN, 0}};
        pthread_t id;
        poll(p, 2, -1);
        if (p[1].revents) return NULL;
        data_call_t *c = (data_call_t *)calloc(1, sizeof *c);
        c->liar = *l;
        c->fd = accept4(l->listener, NULL, NULL, SOCK_CLOEXEC);
        CHECK_INT(pthread_create(&id, NULL, data_call, c), 0);
        pthread_detach(id);
    }
}

typedef struct {
    data_liar_t data;
    liar_t rpc;
    char descriptor[512];
    batch_id_t batch;
    int64_t begin;
} upstream_t;

/* An honest upstream descriptor before a data port that lies. */
static void start_upstream(upstream_t *u, data_lie_t lie, int stop) {
    pthread_t id;
    int port;
    memset(u, 0, sizeof *u);
    u->data.listener = listen_any(&port);
    u->data.lie = lie;
    u->data.stop = stop;
    if (lie == D_REFUSES)
        close(u->data.listener);
    else
        CHECK_INT(pthread_create(&id, NULL, data_liar, &u->data), 0);
    if (lie != D_REFUSES) pthread_detach(id);
    u->rpc.listener = listen_any(&u->rpc.port);
    u->rpc.stop = stop;
    u->rpc.descriptor = u->descriptor;
    snprintf(u->descriptor, sizeof u->descriptor,
             "{" BUFFERS("1048576", "1048576") ",\"name\":\"127.0.0.1:%d\",\"protocol\":\"tcp\","
             "\"tcp_data_host\":\"127.0.0.1\",\"tcp_data_port\":%d,\"tcp_proto_version\":2}", u->rpc.port, port);
    CHECK_INT(pthread_create(&id, NULL, rpc_liar, &u->rpc), 0);
    pthread_detach(id);
}

static void data_liars(int stop) {
    static upstream_t u[DATA_LIES];
    transfer_status_t s[2];
    for (int i = 0; i < DATA_LIES; i++) {
        char name[32];
        start_upstream(&u[i], (data_lie_t)i, stop);
        snprintf(name, sizeof name, "127.0.0.1:%d", u[i].rpc.port);
        segment_id_t id = te_open(engine, name);
        uint8_t *at = local + (size_t)i * 4096;
        transfer_request_t r[2] = {te_request(OPCODE_READ, at, id, 1048576, 4096),
                                   te_request(OPCODE_WRITE, at, id, 1048576 + 65536, 4096)};
        u[i].batch = allocateBatchID(engine, 2);
        u[i].begin = now_ms();
        CHECK_INT(submitTransfer(engine, u[i].batch, r, 2), 0);
    }
    for (int i = 0; i < DATA_LIES; i++) {
        te_wait(engine, u[i].batch, 2, TASK_LIMIT_MS, s);
        FACT("a data port that %s: READ %d, WRITE %d, within %lld ms", data_lies[i], s[0].status, s[1].status,
             (long long)(now_ms() - u[i].begin));
        CHECK_INT(s[0].status, STATUS_FAILED);
        if (i != D_SHORT) CHECK_INT(s[1].status, STATUS_FAILED); /* there its WRITE gets a proper OK */
        CHECK_INT(freeBatchID(engine, u[i].batch), 0);
    }
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    int stop[2];
    peer_t peer;
    watchdog(250);
    STEP("start");
    CHECK_SYS(pipe2(stop, O_CLOEXEC));
    peer_start(&peer);
    uint64_t remote = peer_region(&peer, "map", LEN, 1);
    engine = te_create();
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    STEP("liars at the RPC port");
    rpc_liars(stop[0]);
    STEP("liars on the data port");
    data_liars(stop[0]);
    STEP("an honest peer");
    transfer_request_t r = te_request(OPCODE_READ, local, te_open(engine, peer.name), remote, LEN);
    te_move(engine, &r, 1, 1, 20000);
    CHECK_PATTERN(local, PEER_SEED, 0, LEN);
    peer_stop(&peer);
    STEP("end");
    int64_t begin = now_ms();
    destroyTransferEngine(engine);
    CHECK(now_ms() - begin < 10000);
    close(stop[1]);
    return pass("fake_peer");
}
