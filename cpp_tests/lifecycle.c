/* Engines come and go without leaving a descriptor, a thread or memory behind. */
#include "te.h"

#define LEN (1 * MIB)

/* Memory that grows with use. ASan keeps what was freed for a while, so there it says nothing. */
static void check_growth(const char *what, long kib) {
    FACT("%s: %ld KiB more", what, kib);
#ifndef __SANITIZE_ADDRESS__
    CHECK(kib < 32 * 1024);
#endif
}

static void one_life(uint8_t *memory) {
    transfer_engine_t e = te_create();
    char name[NAME_LEN];
    void *shared = NULL;
    te_name(e, name);
    te_register(e, memory, LEN);
    CHECK_INT(tent_allocate_memory(e, &shared, LEN, "*"), 0);
    transfer_request_t r = te_request(OPCODE_WRITE, memory, te_open(e, name), (uintptr_t)memory + LEN / 2, LEN / 4);
    te_move(e, &r, 1, 1, 10000);
    r.target_offset = (uintptr_t)shared;
    te_move(e, &r, 1, 1, 10000);
    batch_id_t b = allocateBatchID(e, 100); /* one batch of each life is never freed */
    CHECK(b != INVALID_BATCH);
    CHECK(tent_batch_event_fd(e, b) >= 0);
    CHECK_INT(tent_free_memory(e, shared), 0);
    destroyTransferEngine(e);
}

int main(void) {
    watchdog(100);
    uint8_t *memory = map_bytes(LEN);
    pattern_fill(memory, 1, 0, LEN);
    for (int i = 0; i < 3; i++) one_life(memory); /* what a process keeps for good is there now */
    int fds = count_fds(), threads = count_threads();
    long kib = resident_kib();
    CHECK_INT(threads, 1);
    STEP("lives");
    for (int i = 0; i < 60; i++) {
        one_life(memory);
        CHECK_INT(count_fds(), fds);
        CHECK_INT(count_threads(), threads);
    }
    FACT("60 lives: %d descriptors and %d thread, as before", fds, threads);
    check_growth("60 lives", resident_kib() - kib);
    STEP("refused lives");
    for (int i = 0; i < 60; i++) CHECK(createTransferEngine("foo://x", "127.0.0.1", "", 0, 0) == NULL);
    CHECK_INT(count_fds(), fds);
    CHECK_INT(count_threads(), threads);
    STEP("batches");
    transfer_engine_t e = te_create();
    te_register(e, memory, LEN);
    kib = resident_kib();
    for (int i = 0; i < 20000; i++) {
        batch_id_t b = allocateBatchID(e, 16);
        transfer_request_t r = te_request(OPCODE_READ, memory, LOCAL_SEGMENT, (uintptr_t)memory + 4096, 64);
        CHECK_INT(submitTransfer(e, b, &r, 1), 0);
        CHECK_INT(te_wait(e, b, 1, 10000, NULL), 1);
        CHECK_INT(freeBatchID(e, b), 0);
    }
    check_growth("20000 batches", resident_kib() - kib);
    destroyTransferEngine(e);
    CHECK_INT(count_fds(), fds);
    CHECK_INT(count_threads(), threads);
    return pass("lifecycle");
}
