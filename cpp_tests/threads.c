/* What upstream leaves undefined and we promise: any function from any thread. Eight threads on
 * batches of their own; one batch submitted by one thread and polled by others; open, register and
 * allocate from all sides at once. */
#include "peer.h"

#define WINDOW (1 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)
enum { THREADS = 8 };

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

static void *own_batches(void *arg) {
    uint64_t index = (uint64_t)(uintptr_t)arg;
    for (uint64_t round = 0; round < 12; round++) {
        layout_t l = {index * WINDOW, index * 100 + round, 1 + round * 5 % 50, 1, 14000};
        for (int op = OPCODE_READ; op <= OPCODE_WRITE; op++) {
            transfer_request_t *r = te_requests(&l, op, local, target, remote);
            te_move(engine, r, l.count, 1 + round % 3 % l.count, 20000);
            free(r);
            if (op == OPCODE_WRITE) {
                PEER_OK(&peer, "layout 0 %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
                        l.base, l.seed, l.count, l.min, l.max, (uint64_t)LOCAL_SEED);
            } else {
                const char *wrong = layout_verify(local, THREADS * WINDOW, &l, LOCAL_SEED, PEER_SEED);
                if (wrong) FAIL("READ: %s", wrong);
            }
        }
    }
    return NULL;
}

typedef struct {
    batch_id_t batch;
    size_t submitted; /* atomic */
} shared_t;

enum { SHARED_TASKS = 2000 };

/* Polls whatever the other thread has submitted so far; ends when all have been seen to end. */
static void *poll_shared(void *arg) {
    shared_t *s = (shared_t *)arg;
    int64_t end = now_ms() + 30000;
    for (size_t done = 0; done < SHARED_TASKS;) {
        if (now_ms() > end) FAIL("only %zu of %d tasks of the shared batch ended", done, SHARED_TASKS);
        if (done >= __atomic_load_n(&s->submitted, __ATOMIC_ACQUIRE)) {
            transfer_status_t state; /* a task that may not be there yet: an answer, never a crash */
            (void)getTransferStatus(engine, s->batch, done, &state);
            sched_yield();
            continue;
        }
        transfer_status_t state = te_status(engine, s->batch, done);
        if (!te_final(state.status)) {
            sched_yield();
            continue;
        }
        CHECK_INT(state.status, STATUS_COMPLETED);
        done++;
    }
    return NULL;
}

static void shared_batch(void) {
    shared_t s = {allocateBatchID(engine, SHARED_TASKS), 0};
    pthread_t pollers[3];
    CHECK(s.batch != INVALID_BATCH);
    for (int i = 0; i < 3; i++) CHECK_INT(pthread_create(&pollers[i], NULL, poll_shared, &s), 0);
    layout_t l = {0, 42, SHARED_TASKS, 1, 3000};
    transfer_request_t *r = te_requests(&l, OPCODE_READ, local, target, remote);
    for (size_t i = 0; i < SHARED_TASKS;) {
        size_t n = 1 + i % 7;
        if (n > SHARED_TASKS - i) n = SHARED_TASKS - i;
        CHECK_INT(submitTransfer(engine, s.batch, r + i, n), 0);
        i += n;
        __atomic_store_n(&s.submitted, i, __ATOMIC_RELEASE);
    }
    for (int i = 0; i < 3; i++) CHECK_INT(pthread_join(pollers[i], NULL), 0);
    free(r);
    const char *wrong = layout_verify(local, THREADS * WINDOW, &l, LOCAL_SEED, PEER_SEED);
    if (wrong) FAIL("READ: %s", wrong);
    CHECK_INT(freeBatchID(engine, s.batch), 0);
}

/* Everything that is not the data path, while others move data. */
static void *slow_path(void *arg) {
    uint8_t *mine = map_bytes(64 * KIB);
    char name[NAME_LEN];
    (void)arg;
    for (int round = 0; round < 40; round++) {
        CHECK_INT(registerLocalMemory(engine, mine, 64 * KIB, "*", 1), 0);
        CHECK_INT(openSegment(engine, peer.name), target);
        CHECK_INT(openSegmentNoCache(engine, peer.name), target);
        te_name(engine, name);
        batch_id_t b = allocateBatchID(engine, 3);
        CHECK(b != INVALID_BATCH);
        CHECK_INT(freeBatchID(engine, b), 0);
        CHECK_INT(syncSegmentCache(engine), 0);
        CHECK_INT(unregisterLocalMemory(engine, mine), 0);
    }
    munmap(mine, 64 * KIB);
    return NULL;
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    pthread_t ids[THREADS + 2];
    watchdog(120);
    peer_start(&peer);
    engine = te_create();
    remote = peer_region(&peer, "map", THREADS * WINDOW, 1);
    local = map_bytes(THREADS * WINDOW);
    pattern_fill(local, LOCAL_SEED, 0, THREADS * WINDOW);
    te_register(engine, local, THREADS * WINDOW);
    target = te_open(engine, peer.name);
    STEP("own batches beside the slow path");
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&ids[i], NULL, own_batches, (void *)i), 0);
    for (int i = 0; i < 2; i++) CHECK_INT(pthread_create(&ids[THREADS + i], NULL, slow_path, NULL), 0);
    for (int i = 0; i < THREADS + 2; i++) CHECK_INT(pthread_join(ids[i], NULL), 0);
    STEP("one batch, one submitter, three pollers");
    shared_batch();
    PEER_OK(&peer, "check 0");
    CHECK_PATTERN(local, LOCAL_SEED, 0, THREADS * WINDOW);
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("threads");
}
