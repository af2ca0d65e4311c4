/* The engine as the tests use it: made with checks, polled with a deadline, its states judged. */
#ifndef CPP_TESTS_TE_H
#define CPP_TESTS_TE_H

#include "check.h"
#include "layout.h"
#include <tent.h>
#include <transfer_engine_c.h>

#define NAME_LEN 128

static inline transfer_engine_t te_create(void) {
    transfer_engine_t engine = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "127.0.0.1", 0, 0);
    if (!engine) FAIL("createTransferEngine: %s", tent_last_error());
    if (!installTransport(engine, "tcp", NULL)) FAIL("installTransport: %s", tent_last_error());
    return engine;
}

static inline void te_name(transfer_engine_t engine, char name[NAME_LEN]) {
    CHECK_INT(getLocalIpAndPort(engine, name, NAME_LEN), 0);
    CHECK(strchr(name, ':') != NULL);
}

static inline segment_id_t te_open(transfer_engine_t engine, const char *name) {
    segment_id_t id = openSegment(engine, name);
    if (id < 0) FAIL("openSegment(%s): %s", name, tent_last_error());
    return id;
}

static inline void te_register(transfer_engine_t engine, void *at, size_t len) {
    int rc = registerLocalMemory(engine, at, len, "*", 1);
    if (rc != 0) FAIL("registerLocalMemory gives %d: %s", rc, tent_last_error());
}

static inline bool te_final(int status) { return status == STATUS_COMPLETED || status == STATUS_FAILED; }

/* One status; old callers know only four of the seven values, so no other may appear. */
static inline transfer_status_t te_status(transfer_engine_t engine, batch_id_t batch, size_t task) {
    transfer_status_t status;
    status.status = -1;
    status.transferred_bytes = UINT64_MAX;
    int rc = getTransferStatus(engine, batch, task, &status);
    if (rc != 0) FAIL("getTransferStatus(task %zu) gives %d: %s", task, rc, tent_last_error());
    if (status.status != STATUS_WAITING && status.status != STATUS_PENDING && !te_final(status.status))
        FAIL("task %zu has status %d, which old callers count as success", task, status.status);
    return status;
}

/* Polls tasks 0..count until all have ended; returns how many are COMPLETED. `states` may be NULL. */
static inline size_t te_wait(transfer_engine_t engine, batch_id_t batch, size_t count, int limit_ms,
                             transfer_status_t *states) {
    size_t completed = 0;
    int64_t end = now_ms() + limit_ms;
    for (size_t task = 0; task < count; task++) {
        transfer_status_t s = te_status(engine, batch, task);
        while (!te_final(s.status)) {
            if (now_ms() > end)
                FAIL("task %zu of %zu has not ended in %d ms (%" PRIu64 " bytes so far)", task, count,
                     limit_ms, s.transferred_bytes);
            sched_yield();
            transfer_status_t next = te_status(engine, batch, task);
            if (next.transferred_bytes < s.transferred_bytes) FAIL("task %zu: bytes shrink", task);
            s = next;
        }
        completed += s.status == STATUS_COMPLETED;
        if (states) states[task] = s;
    }
    return completed;
}

static inline transfer_request_t te_request(int opcode, void *source, segment_id_t target,
                                            uint64_t remote, uint64_t len) {
    transfer_request_t r;
    memset(&r, 0, sizeof r);
    r.opcode = opcode;
    r.source = source;
    r.target_id = target;
    r.target_offset = remote;
    r.length = len;
    return r;
}

/* Moves `count` requests in one batch, cut into `submits` calls; all must succeed. */
static inline void te_move(transfer_engine_t engine, transfer_request_t *requests, size_t count,
                           size_t submits, int limit_ms) {
    batch_id_t batch = allocateBatchID(engine, count);
    CHECK(batch != INVALID_BATCH);
    size_t done = 0;
    for (size_t i = 0; i < submits; i++) {
        size_t upto = i + 1 == submits ? count : count * (i + 1) / submits;
        int rc = submitTransfer(engine, batch, requests + done, upto - done);
        if (rc != 0) FAIL("submitTransfer gives %d: %s", rc, tent_last_error());
        done = upto;
    }
    transfer_status_t *states = (transfer_status_t *)calloc(count + 1, sizeof *states);
    size_t completed = te_wait(engine, batch, count, limit_ms, states);
    if (completed != count)
        FAIL("%zu of %zu tasks COMPLETED: %s", completed, count, tent_last_error());
    for (size_t i = 0; i < count; i++) CHECK_INT(states[i].transferred_bytes, requests[i].length);
    free(states);
    CHECK_INT(freeBatchID(engine, batch), 0);
}

/* One request; gives its final state and leaves nothing behind. */
static inline transfer_status_t te_try(transfer_engine_t engine, transfer_request_t request, int limit_ms) {
    transfer_status_t status;
    batch_id_t batch = allocateBatchID(engine, 1);
    CHECK(batch != INVALID_BATCH);
    int rc = submitTransfer(engine, batch, &request, 1);
    if (rc != 0) FAIL("submitTransfer gives %d: %s", rc, tent_last_error());
    te_wait(engine, batch, 1, limit_ms, &status);
    CHECK_INT(freeBatchID(engine, batch), 0);
    return status;
}

/* The pieces of a layout as requests. For WRITE the source is local; for READ it is the peer. */
static inline transfer_request_t *te_requests(const layout_t *l, int opcode, uint8_t *local,
                                              segment_id_t target, uint64_t remote) {
    uint64_t span;
    piece_t *pieces = layout_pieces(l, &span);
    layout_shuffle(pieces, l->count, l->seed);
    transfer_request_t *requests = (transfer_request_t *)calloc(l->count + 1, sizeof *requests);
    CHECK(requests != NULL);
    for (uint64_t i = 0; i < l->count; i++) {
        uint64_t here = l->base + (opcode == OPCODE_WRITE ? pieces[i].src : pieces[i].dst);
        uint64_t there = l->base + (opcode == OPCODE_WRITE ? pieces[i].dst : pieces[i].src);
        requests[i] = te_request(opcode, local + here, target, remote + there, pieces[i].len);
    }
    free(pieces);
    return requests;
}

#endif
