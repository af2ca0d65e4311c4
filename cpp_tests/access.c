/* A remote access outside a registered, permitted range is refused and changes nothing (I11): memory
 * that was never registered, that is not for peers, that was withdrawn since, that was freed since. */
#include "peer.h"

#define LEN (1 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)

typedef struct {
    transfer_engine_t engine;
    peer_t peer;
    segment_id_t target;
    uint8_t *local;
} setup_t;

/* Both directions must end FAILED, or be refused at submit, and move nothing here or there. */
static void must_fail(setup_t *s, uint64_t remote, uint64_t len, const char *what) {
    for (int op = OPCODE_READ; op <= OPCODE_WRITE; op++) {
        int64_t begin = now_ms();
        transfer_status_t state = te_try(s->engine, te_request(op, s->local, s->target, remote, len), 20000);
        FACT("%s, %s: status %d after %lld ms", what, op == OPCODE_READ ? "READ" : "WRITE", state.status,
             (long long)(now_ms() - begin));
        CHECK_INT(state.status, STATUS_FAILED);
        CHECK_INT(state.transferred_bytes, 0);
        CHECK_PATTERN(s->local, LOCAL_SEED, 0, LEN);
    }
}

static void must_work(setup_t *s, uint64_t remote, uint64_t region, uint64_t len) {
    transfer_request_t r = te_request(OPCODE_READ, s->local, s->target, remote, len);
    te_move(s->engine, &r, 1, 1, 20000);
    CHECK_PATTERN(s->local, PEER_SEED + region, 0, len);
    pattern_fill(s->local, LOCAL_SEED, 0, LEN);
}

static void withdrawn(setup_t *s, const char *kind, int index) {
    char what[80];
    uint64_t remote = peer_region(&s->peer, kind, LEN, 1);
    CHECK_INT(openSegmentNoCache(s->engine, s->peer.name), s->target);
    must_work(s, remote, (uint64_t)index, LEN);
    PEER_OK(&s->peer, "unregister %d", index); /* our descriptor of it is old now */
    snprintf(what, sizeof what, "%s memory withdrawn since", kind);
    must_fail(s, remote, LEN, what);
    PEER_OK(&s->peer, "check %d", index);
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(100);
    setup_t s;
    STEP("start");
    peer_start(&s.peer);
    s.engine = te_create();
    s.local = map_bytes(LEN);
    pattern_fill(s.local, LOCAL_SEED, 0, LEN);
    te_register(s.engine, s.local, LEN);
    uint64_t open = peer_region(&s.peer, "map", LEN, 1);
    uint64_t closed = peer_region(&s.peer, "map", LEN, 0);
    uint64_t never = peer_region(&s.peer, "map", LEN, -1);
    s.target = te_open(s.engine, s.peer.name);
    STEP("allowed");
    must_work(&s, open, 0, LEN);
    must_work(&s, open, 0, 1);
    STEP("not for peers");
    must_fail(&s, closed, LEN, "remote_accessible 0");
    must_fail(&s, closed + 5, 1, "remote_accessible 0, one byte");
    STEP("never registered");
    must_fail(&s, never, 4096, "never registered");
    STEP("partly outside");
    must_fail(&s, open + 1, LEN, "one byte beyond the end");
    must_fail(&s, open - 1, 2, "one byte before the begin");
    STEP("withdrawn");
    withdrawn(&s, "map", 3);
    STEP("later than the open");
    uint64_t later = peer_region(&s.peer, "map", LEN, 1);
    must_work(&s, later, 4, LEN); /* registered after our open: found without being told */
    STEP("nothing has changed");
    for (int i = 0; i < 5; i++) PEER_OK(&s.peer, "check %d", i);
    must_work(&s, open, 0, LEN);
    peer_stop(&s.peer);
    destroyTransferEngine(s.engine);
    return pass("access");
}
