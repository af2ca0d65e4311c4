/* What tent adds to the old API: memory that peers map, what a segment holds, a wait that sleeps, a
 * descriptor that wakes, cancel, rails in JSON, and the reason of a refusal in words. */
#include "peer.h"

#define LEN (4 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

static void memory(void) {
    void *at = NULL, *second = NULL;
    CHECK_INT(tent_allocate_memory(engine, &at, LEN, "*"), 0);
    CHECK(at != NULL && (uintptr_t)at % 4096 == 0);
    for (size_t i = 0; i < LEN; i += 511) CHECK(((uint8_t *)at)[i] == 0);
    CHECK_INT(tent_allocate_memory(engine, &second, 1, "cpu:0"), 0);
    CHECK(tent_allocate_memory(engine, NULL, 4096, "*") != 0);
    CHECK(tent_allocate_memory(engine, &second, 0, "*") != 0);
    CHECK(tent_allocate_memory(engine, &second, SIZE_MAX, "*") != 0);
    CHECK(tent_allocate_memory(engine, &second, (size_t)1 << 60, "*") != 0);
    CHECK_INT(registerLocalMemory(engine, at, LEN, "*", 1), -7); /* it is registered already */
    transfer_request_t r = te_request(OPCODE_READ, (uint8_t *)at + 7, target, remote, LEN - 7);
    te_move(engine, &r, 1, 1, 20000);
    CHECK_PATTERN((uint8_t *)at + 7, PEER_SEED, 0, LEN - 7);
    CHECK(tent_free_memory(engine, (uint8_t *)at + 4096) != 0);
    CHECK(tent_free_memory(engine, local) != 0); /* registered, but not allocated by us */
    CHECK_INT(tent_free_memory(engine, at), 0);
    CHECK(tent_free_memory(engine, at) != 0);
    CHECK(tent_free_memory(engine, NULL) != 0);
}

static void segment_info(void) {
    tent_segment_info_t info;
    memset(&info, 0, sizeof info);
    CHECK_INT(tent_get_segment_info(engine, (uint64_t)target, &info), 0);
    CHECK_INT(info.num_buffers, 1);
    CHECK_INT(info.buffers[0].base, remote);
    CHECK_INT(info.buffers[0].length, LEN);
    tent_free_segment_info(&info);
    CHECK(tent_get_segment_info(engine, 4711, &info) != 0);
    CHECK(tent_get_segment_info(engine, UINT64_MAX, &info) != 0);
    CHECK(tent_get_segment_info(engine, (uint64_t)target, NULL) != 0);
    tent_free_segment_info(NULL);
}

static void waiting(void) {
    batch_id_t b = allocateBatchID(engine, 4);
    transfer_request_t r = te_request(OPCODE_READ, local, target, remote, LEN);
    CHECK_INT(submitTransfer(engine, b, &r, 1), 0);
    CHECK_INT(tent_wait(engine, b, 20000), 0);
    CHECK_INT(te_status(engine, b, 0).status, STATUS_COMPLETED);
    CHECK_INT(tent_wait(engine, b, 0), 0);
    CHECK_INT(freeBatchID(engine, b), 0);
    CHECK_INT(tent_wait(engine, b, 1000), -1);
    b = allocateBatchID(engine, 4);
    int fd = tent_batch_event_fd(engine, b);
    CHECK(fd >= 0);
    CHECK_INT(submitTransfer(engine, b, &r, 1), 0);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK_INT(poll(&p, 1, 20000), 1); /* nobody asks for the status meanwhile: progress needs no caller */
    CHECK_INT(te_status(engine, b, 0).status, STATUS_COMPLETED);
    CHECK_INT(freeBatchID(engine, b), 0);
    CHECK_PATTERN(local, PEER_SEED, 0, LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
}

/* Cancel is a wish that never lies: each task ends COMPLETED with its bytes or, for old callers, FAILED;
 * after that nothing lands (I3). */
static void cancel(void) {
    enum { TASKS = 64 };
    for (int round = 0; round < 10; round++) {
        transfer_request_t r[TASKS];
        transfer_status_t states[TASKS];
        batch_id_t b = allocateBatchID(engine, TASKS);
        for (size_t i = 0; i < TASKS; i++)
            r[i] = te_request(OPCODE_READ, local + i * (LEN / TASKS), target, remote + i * (LEN / TASKS), LEN / TASKS);
        CHECK_INT(submitTransfer(engine, b, r, TASKS), 0);
        for (size_t i = 0; i < TASKS; i++) (void)tent_cancel_task(engine, b, TASKS - 1 - i);
        size_t completed = te_wait(engine, b, TASKS, 20000, states);
        tent_status_t whole = {-1, 0};
        CHECK_INT(tent_batch_status(engine, b, &whole), 0);
        CHECK_INT(whole.status, completed == TASKS ? TENT_STATUS_COMPLETED : TENT_STATUS_CANCELED);
        uint64_t sum = 0;
        for (size_t i = 0; i < TASKS; i++) {
            sum += states[i].transferred_bytes;
            if (states[i].status == STATUS_COMPLETED)
                CHECK_PATTERN(local + i * (LEN / TASKS), PEER_SEED, i * (LEN / TASKS), LEN / TASKS);
        }
        CHECK_INT(whole.transferred_bytes, sum);
        CHECK(tent_cancel_task(engine, b, TASKS) != 0);
        CHECK_INT(freeBatchID(engine, b), 0);
        CHECK(tent_cancel_task(engine, b, 0) != 0);
        pattern_fill(local, LOCAL_SEED, 0, LEN);
        if (round == 9) FACT("64 tasks canceled after submit: %zu COMPLETED all the same", completed);
        CHECK_PATTERN(local, LOCAL_SEED, 0, LEN);
    }
}

static void reports(void) {
    static char json[65536];
    char tiny[4] = "###";
    CHECK_INT(tent_rails_json(engine, json, sizeof json), strlen(json));
    CHECK(json[0] == '[' && strstr(json, "\"transport\"") != NULL);
    FACT("rails: %.300s", json);
    (void)tent_rails_json(engine, tiny, sizeof tiny);
    CHECK(memchr(tiny, 0, sizeof tiny) != NULL);
    CHECK(tent_rails_json(engine, NULL, 0) > 0); /* the length that it needs */
    CHECK(tent_rails_json(engine, NULL, 10) < 0);
    CHECK(tent_config_json(NULL, 0) > 0); /* needs no engine */
    CHECK(tent_config_json(NULL, 10) < 0);
    CHECK_INT(tent_config_json(tiny, sizeof tiny), tent_config_json(NULL, 0));
    CHECK_INT(strlen(tiny), sizeof tiny - 1);
    CHECK(tent_version()[0] >= '0' && tent_version()[0] <= '9');
    (void)openSegment(engine, "127.0.0.1:1");
    FACT("reason of a refusal: %s", tent_last_error());
    CHECK(strstr(tent_last_error(), "127.0.0.1:1") != NULL);
}

static void *other_thread(void *arg) {
    (void)openSegment(engine, "127.0.0.1:2");
    (void)arg;
    return NULL;
}

/* The text belongs to the thread that failed. */
static void errors_of_a_thread(void) {
    pthread_t id;
    (void)openSegment(engine, "127.0.0.1:1");
    CHECK_INT(pthread_create(&id, NULL, other_thread, NULL), 0);
    CHECK_INT(pthread_join(id, NULL), 0);
    CHECK(strstr(tent_last_error(), "127.0.0.1:1") != NULL);
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(100);
    peer_start(&peer);
    engine = te_create();
    remote = peer_region(&peer, "map", LEN, 1);
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    target = te_open(engine, peer.name);
    STEP("memory");
    memory();
    STEP("segment info");
    segment_info();
    STEP("waiting");
    waiting();
    STEP("cancel");
    cancel();
    STEP("reports");
    reports();
    errors_of_a_thread();
    PEER_OK(&peer, "check 0");
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("extensions");
}
