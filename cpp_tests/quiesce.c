/* Memory is taken back while transfers use it, here or at the peer. unregisterLocalMemory either refuses,
 * and the transfers go on, or succeeds, and then not one byte more is read from or written to the range
 * (I3, I6): its owner may free it at once. */
#include "peer.h"

#define LEN (64 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)
enum { TASKS = 32, ROUNDS = 12 };

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

static batch_id_t submit(int op) {
    transfer_request_t r[TASKS];
    for (size_t i = 0; i < TASKS; i++)
        r[i] = te_request(op, local + i * (LEN / TASKS), target, remote + i * (LEN / TASKS), LEN / TASKS);
    batch_id_t b = allocateBatchID(engine, TASKS);
    CHECK_INT(submitTransfer(engine, b, r, TASKS), 0);
    return b;
}

static void await_bytes(batch_id_t b) {
    CHECK_BY(20000, te_status(engine, b, 0).transferred_bytes > 0);
}

/* The peer takes its region back amid our WRITEs, and lends it again. */
static void at_the_peer(void) {
    int refused = 0;
    size_t failed = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char answer[PEER_ANSWER];
        int rc;
        batch_id_t b = submit(OPCODE_WRITE);
        await_bytes(b);
        peer_ask(&peer, answer, "withdraw 0");
        if (sscanf(answer, "OK %d", &rc) != 1) FAIL("the peer says: %s", answer);
        refused += rc != 0;
        failed += TASKS - te_wait(engine, b, TASKS, 30000, NULL);
        CHECK_INT(freeBatchID(engine, b), 0);
        CHECK_INT(openSegmentNoCache(engine, peer.name), target);
    }
    FACT("the peer withdraws its memory amid WRITEs, %d times: refused %d times, %zu tasks FAILED", ROUNDS, refused,
         failed);
}

/* We take our own memory back amid our READs. */
static void here(void) {
    int refused = 0;
    size_t failed = 0;
    PEER_OK(&peer, "withdraw 0"); /* fills it with its pattern again */
    CHECK_INT(openSegmentNoCache(engine, peer.name), target);
    for (int round = 0; round < ROUNDS; round++) {
        pattern_fill(local, LOCAL_SEED, 0, LEN);
        batch_id_t b = submit(OPCODE_READ);
        await_bytes(b);
        int rc = unregisterLocalMemory(engine, local);
        if (rc == 0) {
            pattern_fill(local, LOCAL_SEED, 0, LEN);
            failed += TASKS - te_wait(engine, b, TASKS, 30000, NULL);
            CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
            te_register(engine, local, LEN);
        } else {
            refused++;
            CHECK_INT(rc, -4);
            CHECK_INT(te_wait(engine, b, TASKS, 30000, NULL), TASKS);
            CHECK_PATTERN(local, PEER_SEED, 0, LEN);
        }
        CHECK_INT(freeBatchID(engine, b), 0);
    }
    FACT("we withdraw our memory amid READs, %d times: refused %d times, %zu tasks FAILED", ROUNDS, refused, failed);
}

/* We cancel, and use the memory again at once. */
static void canceled(void) {
    for (int round = 0; round < ROUNDS; round++) {
        batch_id_t b = submit(OPCODE_READ);
        await_bytes(b);
        for (size_t i = 0; i < TASKS; i++) CHECK_INT(tent_cancel_task(engine, b, i), 0);
        CHECK_INT(tent_wait(engine, b, 30000), 0);
        pattern_fill(local, LOCAL_SEED, 0, LEN);
        te_wait(engine, b, TASKS, 0, NULL);
        for (int64_t end = now_ms() + 20; now_ms() < end;) CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
        CHECK_INT(freeBatchID(engine, b), 0);
    }
    FACT("canceled amid READs, %d times: nothing lands after the end", ROUNDS);
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(150);
    peer_start(&peer);
    engine = te_create();
    remote = peer_region(&peer, "map", LEN, 1);
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    target = te_open(engine, peer.name);
    STEP("at the peer");
    at_the_peer();
    STEP("here");
    here();
    STEP("canceled");
    canceled();
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("quiesce");
}
