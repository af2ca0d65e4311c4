/* The peer dies, or destroys its engine, in the middle of transfers: every task ends, in time, as FAILED
 * or, if its bytes are all there, COMPLETED; later ones FAIL; other peers are not disturbed; and a new
 * peer is served at once (I10). */
#include "peer.h"

#define LEN (256 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)
#define DEADLINE_MS 30000
enum { TASKS = 256, PIECES = 16 };

static transfer_engine_t engine;
static uint8_t *local;

typedef enum { KILL, DESTROY } death_t;

static void die(peer_t *peer, death_t how) {
    if (how == KILL)
        peer_kill(peer);
    else
        PEER_OK(peer, "destroy");
}

/* Tasks that READ the peer's region piece by piece, again and again; the peer goes when bytes flow. */
static void amid(death_t how, int op, const char *text) {
    peer_t peer;
    transfer_request_t r[TASKS];
    transfer_status_t states[TASKS];
    STEP(text);
    peer_start(&peer);
    uint64_t remote = peer_region(&peer, "map", LEN, 1);
    segment_id_t target = te_open(engine, peer.name);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    for (int i = 0; i < TASKS; i++) {
        uint64_t at = (uint64_t)(i % PIECES) * (LEN / PIECES);
        r[i] = te_request(op, local + at, target, remote + at, LEN / PIECES);
    }
    batch_id_t batch = allocateBatchID(engine, TASKS);
    CHECK_INT(submitTransfer(engine, batch, r, TASKS), 0);
    CHECK_BY(20000, te_status(engine, batch, 0).transferred_bytes > 0);
    CHECK_INT(freeBatchID(engine, batch), 4); /* busy */
    die(&peer, how);
    int64_t begin = now_ms();
    size_t completed = te_wait(engine, batch, TASKS, DEADLINE_MS, states);
    FACT("%s: %zu of %d tasks COMPLETED, the others FAILED, %lld ms after the end of the peer", text, completed,
         TASKS, (long long)(now_ms() - begin));
    CHECK(completed < TASKS);
    for (int i = 0; i < TASKS; i++) {
        uint64_t at = (uint64_t)(i % PIECES) * (LEN / PIECES);
        if (states[i].status == STATUS_COMPLETED && op == OPCODE_READ)
            CHECK_PATTERN(local + at, PEER_SEED, at, LEN / PIECES);
        CHECK(states[i].transferred_bytes <= LEN / PIECES);
    }
    CHECK_INT(freeBatchID(engine, batch), 0);
    STEP("after the end");
    begin = now_ms();
    /* What may still have been under way has ended with its task: nothing lands late (I3). */
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    transfer_status_t s = te_try(engine, te_request(op, local, target, remote, 4096), DEADLINE_MS);
    FACT("%s: the next task ends %d after %lld ms", text, s.status, (long long)(now_ms() - begin));
    CHECK_INT(s.status, STATUS_FAILED);
    CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
    if (how == DESTROY) {
        PEER_OK(&peer, "quit");
        CHECK_EXIT(wait_child(peer.pid, 20000), 0);
        close(peer.fd);
    }
}

/* A peer beside the one that dies: its transfers must not fail. */
static void bystander(void) {
    peer_t dying, other;
    transfer_request_t r[PIECES], d[PIECES];
    STEP("a bystander");
    peer_start(&dying);
    peer_start(&other);
    uint64_t doomed = peer_region(&dying, "map", LEN / 2, 1), remote = peer_region(&other, "map", LEN / 2, 1);
    segment_id_t dying_id = te_open(engine, dying.name), other_id = te_open(engine, other.name);
    for (int i = 0; i < PIECES; i++) {
        uint64_t at = (uint64_t)i * (LEN / 2 / PIECES);
        d[i] = te_request(OPCODE_READ, local + LEN / 2 + at, dying_id, doomed + at, LEN / 2 / PIECES);
        r[i] = te_request(OPCODE_READ, local + at, other_id, remote + at, LEN / 2 / PIECES);
    }
    batch_id_t lost = allocateBatchID(engine, PIECES), kept = allocateBatchID(engine, PIECES);
    CHECK_INT(submitTransfer(engine, lost, d, PIECES), 0);
    CHECK_INT(submitTransfer(engine, kept, r, PIECES), 0);
    peer_kill(&dying);
    CHECK_INT(te_wait(engine, kept, PIECES, DEADLINE_MS, NULL), PIECES);
    te_wait(engine, lost, PIECES, DEADLINE_MS, NULL);
    CHECK_PATTERN(local, PEER_SEED, 0, LEN / 2);
    CHECK_INT(freeBatchID(engine, lost), 0);
    CHECK_INT(freeBatchID(engine, kept), 0);
    peer_stop(&other);
}

/* We end our own engine in the middle: it must come back, and the peer must go on. */
static void own_end(void) {
    peer_t peer;
    transfer_request_t r[PIECES];
    STEP("we destroy our engine amid transfers");
    peer_start(&peer);
    uint64_t remote = peer_region(&peer, "map", LEN, 1);
    for (int round = 0; round < 3; round++) {
        segment_id_t target = te_open(engine, peer.name);
        for (int i = 0; i < PIECES; i++) {
            uint64_t at = (uint64_t)i * (LEN / PIECES);
            r[i] = te_request(OPCODE_READ, local + at, target, remote + at, LEN / PIECES);
        }
        batch_id_t batch = allocateBatchID(engine, PIECES);
        CHECK_INT(submitTransfer(engine, batch, r, PIECES), 0);
        int64_t begin = now_ms();
        destroyTransferEngine(engine);
        FACT("destroy amid transfers takes %lld ms", (long long)(now_ms() - begin));
        CHECK(now_ms() - begin < 10000);
        pattern_fill(local, LOCAL_SEED, 0, LEN); /* ours again: nothing may land in it (I3) */
        engine = te_create();
        te_register(engine, local, LEN);
        CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
    }
    PEER_OK(&peer, "check 0");
    peer_stop(&peer);
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(280);
    engine = te_create();
    local = map_bytes(LEN);
    te_register(engine, local, LEN);
    amid(KILL, OPCODE_READ, "killed amid READ");
    amid(KILL, OPCODE_WRITE, "killed amid WRITE");
    amid(DESTROY, OPCODE_READ, "engine destroyed amid READ");
    amid(DESTROY, OPCODE_WRITE, "engine destroyed amid WRITE");
    bystander();
    own_end();
    destroyTransferEngine(engine);
    return pass("peer_death");
}
