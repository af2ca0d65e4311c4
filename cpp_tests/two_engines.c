/* Two engines in one process: own names, own memory, own ids; bytes move between them; the end of one
 * is nothing to the other. */
#include "te.h"

#define LEN (8 * MIB)

int main(void) {
    char name_a[NAME_LEN], name_b[NAME_LEN];
    watchdog(60);
    STEP("start");
    transfer_engine_t a = te_create(), b = te_create();
    te_name(a, name_a);
    te_name(b, name_b);
    CHECK(strcmp(name_a, name_b) != 0);
    uint8_t *of_a = map_bytes(LEN), *of_b = map_bytes(LEN);
    pattern_fill(of_a, 1, 0, LEN);
    pattern_fill(of_b, 2, 0, LEN);
    te_register(a, of_a, LEN);
    te_register(b, of_b, LEN);
    segment_id_t b_at_a = te_open(a, name_b), a_at_b = te_open(b, name_a);
    CHECK(b_at_a > 0 && a_at_b > 0);
    CHECK_INT(te_open(a, name_a), LOCAL_SEGMENT);

    STEP("from a to b");
    transfer_request_t r = te_request(OPCODE_WRITE, of_a + 3, b_at_a, (uintptr_t)of_b + 5, LEN / 2);
    te_move(a, &r, 1, 1, 20000);
    CHECK_PATTERN(of_b, 2, 0, 5);
    CHECK_PATTERN(of_b + 5, 1, 3, LEN / 2);
    CHECK_PATTERN(of_b + 5 + LEN / 2, 2, 5 + LEN / 2, LEN / 2 - 5);

    STEP("from b, read out of a");
    pattern_fill(of_b, 2, 0, LEN);
    r = te_request(OPCODE_READ, of_b, a_at_b, (uintptr_t)of_a, LEN);
    te_move(b, &r, 1, 1, 20000);
    CHECK_PATTERN(of_b, 1, 0, LEN);

    STEP("within a");
    r = te_request(OPCODE_READ, of_a + LEN / 2, LOCAL_SEGMENT, (uintptr_t)of_a, LEN / 2);
    te_move(a, &r, 1, 1, 20000);
    CHECK_PATTERN(of_a + LEN / 2, 1, 0, LEN / 2);

    STEP("foreign ids and memory");
    transfer_status_t s = {-1, 7};
    batch_id_t batch = allocateBatchID(a, 1);
    r = te_request(OPCODE_READ, of_b, a_at_b, (uintptr_t)of_a, 16);
    CHECK_INT(submitTransfer(b, batch, &r, 1), 1);
    CHECK_INT(getTransferStatus(b, batch, 0, &s), 1);
    CHECK_INT(freeBatchID(b, batch), 1);
    r = te_request(OPCODE_WRITE, of_b, b_at_a, (uintptr_t)of_b, 16); /* b's memory, submitted to a */
    CHECK_INT(submitTransfer(a, batch, &r, 1), 3);
    CHECK_INT(freeBatchID(a, batch), 0);

    STEP("b ends");
    destroyTransferEngine(b);
    r = te_request(OPCODE_WRITE, of_a, b_at_a, (uintptr_t)of_b, LEN);
    memset(of_b, 0x5a, LEN);
    s = te_try(a, r, 30000);
    CHECK_INT(s.status, STATUS_FAILED);
    for (size_t i = 0; i < LEN; i++) CHECK(of_b[i] == 0x5a);
    r = te_request(OPCODE_READ, of_a, LOCAL_SEGMENT, (uintptr_t)of_a + LEN / 2, 4096);
    te_move(a, &r, 1, 1, 20000);
    destroyTransferEngine(a);
    return pass("two_engines");
}
