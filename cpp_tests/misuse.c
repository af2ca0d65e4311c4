/* No handle, id or pointer that a C program may pass can crash, hang or be taken for another's (I7,
 * I12): NULL, invented, freed, foreign, used after destroy, freed twice by many threads at once. */
#include "te.h"
#include <pthread.h>

static uint8_t memory[64 * 1024] __attribute__((aligned(4096)));
static char own[NAME_LEN];

/* Every function of the C API on a handle that is none; each must refuse. */
static void all_calls(transfer_engine_t e, batch_id_t b) {
    char text[256];
    int size = 0;
    size_t count = 4;
    nic_load_stat_t stats[4];
    buffer_entry_t entry = {memory, 4096};
    void *addr = memory;
    char words[] = "x";
    notify_msg_t message = {words, words};
    transfer_status_t status = {-1, 7};
    transfer_request_t request = te_request(OPCODE_READ, memory, LOCAL_SEGMENT, (uintptr_t)memory, 16);
    CHECK(installTransport(e, "tcp", NULL) == NULL);
    CHECK(getLocalIpAndPort(e, text, sizeof text) != 0);
    CHECK_INT(openSegment(e, own), -1);
    CHECK_INT(openSegmentNoCache(e, own), -1);
    CHECK(registerLocalMemory(e, memory, 4096, "*", 1) < 0);
    CHECK(registerLocalMemoryBatch(e, &entry, 1, "*") < 0);
    CHECK(unregisterLocalMemory(e, memory) < 0);
    CHECK(unregisterLocalMemoryBatch(e, &addr, 1) < 0);
    CHECK(allocateBatchID(e, 4) == INVALID_BATCH);
    CHECK(submitTransfer(e, b, &request, 1) > 0);
    CHECK(submitTransferWithNotify(e, b, &request, 1, message) > 0);
    CHECK(getTransferStatus(e, b, 0, &status) > 0);
    CHECK_INT(status.status, STATUS_FAILED);
    CHECK(freeBatchID(e, b) > 0);
    CHECK(getNotifsFromEngine(e, &size) == NULL && size == 0);
    CHECK(genNotifyInEngine(e, 0, message) < 0);
    CHECK(getNicLoadStats(e, stats, &count) != 0);
    CHECK_INT(showLinks(e, text, sizeof text, 0), -1);
    CHECK(tent_allocate_memory(e, &addr, 4096, "*") != 0);
    CHECK(tent_free_memory(e, memory) != 0);
    CHECK_INT(tent_wait(e, b, 1000), -1);
    CHECK(tent_batch_event_fd(e, b) < 0);
    CHECK(tent_cancel_task(e, b, 0) != 0);
    /* These answer 0 upstream whatever they are given; they need only come back. */
    (void)uninstallTransport(e, "tcp");
    (void)discoverTopology(e);
    (void)closeSegment(e, 0);
    (void)removeLocalSegment(e, own);
    (void)syncSegmentCache(e);
    (void)warmupEfaSegment(e, own);
    (void)tent_rails_json(e, text, sizeof text);
    CHECK(tent_last_error() != NULL);
}

static void no_handles(void) {
    uintptr_t on_stack = 0;
    all_calls(NULL, 1);
    all_calls((void *)(uintptr_t)1, 0);
    all_calls((void *)(uintptr_t)0xdeadbeef, 0xdeadbeef);
    all_calls((void *)UINTPTR_MAX, UINT64_MAX);
    all_calls((void *)&on_stack, (uintptr_t)&on_stack);
    all_calls((void *)memory, 42);
    destroyTransferEngine(NULL);
    destroyTransferEngine((void *)memory);
    destroyTransferEngine((void *)(uintptr_t)0xdeadbeef);
    FACT("handles that are none: every call refuses");
}

static batch_id_t filled_batch(transfer_engine_t e) {
    batch_id_t b = allocateBatchID(e, 4);
    transfer_request_t r = te_request(OPCODE_READ, memory, LOCAL_SEGMENT, (uintptr_t)memory + 4096, 100);
    CHECK(b != INVALID_BATCH);
    CHECK_INT(submitTransfer(e, b, &r, 1), 0);
    CHECK_INT(te_wait(e, b, 1, 10000, NULL), 1);
    return b;
}

/* An id that is not this engine's: refused by every call that takes one. */
static void foreign_id(transfer_engine_t e, batch_id_t b) {
    transfer_status_t s = {-1, 7};
    transfer_request_t r = te_request(OPCODE_READ, memory, LOCAL_SEGMENT, (uintptr_t)memory + 4096, 100);
    CHECK_INT(submitTransfer(e, b, &r, 1), 1);
    CHECK_INT(getTransferStatus(e, b, 0, &s), 1);
    CHECK_INT(s.status, STATUS_FAILED);
    CHECK_INT(freeBatchID(e, b), 1);
    CHECK_INT(tent_wait(e, b, 0), -1);
    CHECK(tent_cancel_task(e, b, 0) != 0);
}

static void ids(transfer_engine_t a, transfer_engine_t b) {
    static const uint64_t invented[] = {0, 1, 2, 42, 0x100000000, 0xffffffff, UINT64_C(1) << 63, UINT64_MAX - 1,
                                        UINT64_MAX};
    batch_id_t of_a = filled_batch(a);
    for (size_t i = 0; i < sizeof invented / sizeof *invented; i++) foreign_id(a, invented[i]);
    for (int bit = 0; bit < 64; bit++) foreign_id(a, of_a ^ (UINT64_C(1) << bit));
    foreign_id(b, of_a);
    CHECK_INT(te_status(a, of_a, 0).status, STATUS_COMPLETED); /* none of that touched it */
    CHECK_INT(freeBatchID(a, of_a), 0);
    foreign_id(a, of_a);
    for (int i = 0; i < 1000; i++) { /* its slot is used again and again; the id never is */
        batch_id_t next = filled_batch(a);
        CHECK(next != of_a);
        if (i % 100 == 0) foreign_id(a, of_a);
        CHECK_INT(freeBatchID(a, next), 0);
    }
    FACT("invented, foreign and freed batch ids: refused, and no other batch is touched");
}

typedef struct {
    transfer_engine_t engine;
    batch_id_t batch;
    pthread_barrier_t *start;
    int freed;
} race_t;

static void *race_free(void *arg) {
    race_t *r = (race_t *)arg;
    pthread_barrier_wait(r->start);
    r->freed = freeBatchID(r->engine, r->batch);
    return NULL;
}

static void double_free(transfer_engine_t e) {
    enum { THREADS = 4 };
    for (int round = 0; round < 200; round++) {
        pthread_t ids[THREADS];
        race_t races[THREADS];
        pthread_barrier_t start;
        int wins = 0;
        batch_id_t b = filled_batch(e);
        pthread_barrier_init(&start, NULL, THREADS);
        for (int i = 0; i < THREADS; i++) {
            races[i] = (race_t){e, b, &start, -1};
            CHECK_INT(pthread_create(&ids[i], NULL, race_free, &races[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            CHECK_INT(pthread_join(ids[i], NULL), 0);
            wins += races[i].freed == 0;
        }
        pthread_barrier_destroy(&start);
        CHECK_INT(wins, 1);
    }
    FACT("four threads free one batch: exactly one succeeds, 200 times");
}

typedef struct {
    transfer_engine_t engine;
    volatile int stop;
    int calls;
} user_t;

/* Uses the engine until it is gone under its feet, and for a while after. */
static void *use(void *arg) {
    user_t *u = (user_t *)arg;
    transfer_request_t r = te_request(OPCODE_WRITE, memory, LOCAL_SEGMENT, (uintptr_t)memory + 8192, 4096);
    while (!u->stop) {
        transfer_status_t s;
        batch_id_t b = allocateBatchID(u->engine, 2);
        if (b == INVALID_BATCH) {
            u->calls++;
            continue;
        }
        (void)submitTransfer(u->engine, b, &r, 1);
        (void)getTransferStatus(u->engine, b, 0, &s);
        (void)tent_wait(u->engine, b, 100);
        (void)freeBatchID(u->engine, b);
    }
    return NULL;
}

static void destroy_in_use(void) {
    for (int round = 0; round < 20; round++) {
        pthread_t threads[3];
        user_t users[3];
        transfer_engine_t e = te_create();
        te_register(e, memory, sizeof memory);
        for (int i = 0; i < 3; i++) {
            users[i] = (user_t){e, 0, 0};
            CHECK_INT(pthread_create(&threads[i], NULL, use, &users[i]), 0);
        }
        filled_batch(e); /* left behind on purpose */
        destroyTransferEngine(e);
        destroyTransferEngine(e);
        all_calls(e, 1);
        for (int i = 0; i < 3; i++) {
            users[i].stop = 1;
            CHECK_INT(pthread_join(threads[i], NULL), 0);
        }
    }
    FACT("engines destroyed under three threads that use them, and twice: 20 times");
}

static void *destroy(void *engine) {
    destroyTransferEngine(engine);
    return NULL;
}

static void double_destroy(void) {
    for (int round = 0; round < 20; round++) {
        pthread_t ids[4];
        transfer_engine_t e = te_create();
        for (int i = 0; i < 4; i++) CHECK_INT(pthread_create(&ids[i], NULL, destroy, e), 0);
        for (int i = 0; i < 4; i++) CHECK_INT(pthread_join(ids[i], NULL), 0);
    }
    FACT("four threads destroy one engine: 20 times");
}

int main(void) {
    watchdog(100);
    STEP("no handles");
    no_handles();
    transfer_engine_t a = te_create(), b = te_create();
    te_name(a, own);
    te_register(a, memory, sizeof memory);
    te_register(b, memory, sizeof memory);
    STEP("ids");
    ids(a, b);
    STEP("double free");
    double_free(a);
    destroyTransferEngine(a);
    all_calls(a, 1);
    CHECK_INT(freeBatchID(b, filled_batch(b)), 0); /* the other engine lives */
    destroyTransferEngine(b);
    STEP("destroy in use");
    destroy_in_use();
    STEP("double destroy");
    double_destroy();
    return pass("misuse");
}
