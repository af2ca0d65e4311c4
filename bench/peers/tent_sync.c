/*
 * Submit, wait and free in one call, so that Python's share of a transfer is one call into C, as it is
 * with Mooncake's transfer_sync_read and its kin. Uses nothing that a C caller would not.
 *
 * Built by tent_pair.py; the symbols it needs come from the libtransfer_engine.so loaded before it.
 */
#include "tent.h"
#include "transfer_engine_c.h"

struct tent_job {
    transfer_engine_t engine;
    transfer_request_t *requests;
    size_t count;
    int block; /* sleep in tent_wait instead of polling */
};

enum { UNFINISHED = 0, DONE = 1, BROKEN = -1 };

static int look(const struct tent_job *job, batch_id_t batch, size_t task) {
    transfer_status_t status;
    if (getTransferStatus(job->engine, batch, task, &status) != 0) return BROKEN;
    if (status.status == STATUS_WAITING || status.status == STATUS_PENDING) return UNFINISHED;
    return status.status == STATUS_COMPLETED ? DONE : BROKEN;
}

/* The batch, or INVALID_BATCH. */
uint64_t tent_job_post(const struct tent_job *job) {
    batch_id_t batch = allocateBatchID(job->engine, job->count);
    if (batch == INVALID_BATCH) return batch;
    /* not freed when that fails: the next call would overwrite tent_last_error, and the run is over */
    return submitTransfer(job->engine, batch, job->requests, job->count) == 0 ? batch : INVALID_BATCH;
}

/* 1: every task completed, and the batch is freed; 0: not over; -1: one failed, or the call did. */
int tent_job_poll(const struct tent_job *job, uint64_t batch) {
    /* the last task first: while it runs, the others need no call of their own */
    for (size_t task = job->count; task-- > 0;) {
        int state = look(job, batch, task);
        if (state != DONE) return state;
    }
    return freeBatchID(job->engine, batch) == 0 ? DONE : BROKEN;
}

/* 0: every byte is in place. */
int tent_job_run(const struct tent_job *job) {
    uint64_t batch = tent_job_post(job);
    if (batch == INVALID_BATCH) return BROKEN;
    if (job->block && tent_wait(job->engine, batch, 120000) != 0) return BROKEN;
    for (size_t task = job->count; task-- > 0;) {
        int state;
        while ((state = look(job, batch, task)) == UNFINISHED) {}
        if (state != DONE) return BROKEN;
    }
    return freeBatchID(job->engine, batch) == 0 ? 0 : BROKEN;
}
