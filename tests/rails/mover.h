/* What the parts of mover share: the library's functions, this end's memory, the command at hand. See mover.c. */
#ifndef RAILS_MOVER_H
#define RAILS_MOVER_H

#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <tent.h>
#include <transfer_engine_c.h>

#define FUNCTIONS(X)                                                                                                  \
    X(createTransferEngine) X(destroyTransferEngine) X(installTransport) X(getLocalIpAndPort) X(openSegment)          \
    X(registerLocalMemory) X(unregisterLocalMemory) X(allocateBatchID) X(freeBatchID) X(submitTransfer)               \
    X(getTransferStatus) X(tent_wait) X(tent_cancel_task) X(tent_last_error) X(tent_get_segment_info)                 \
    X(tent_free_segment_info) X(tent_rails_json)

/* The library; the last two are NULL in an older one. */
struct library {
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
    int (*tent_events_json)(tent_engine_t, uint64_t since, char *buf, size_t len);
    int (*tent_rail_drain)(tent_engine_t, const char *rail, int on);
};
extern struct library lib;

extern transfer_engine_t engine;
extern uint8_t *memory; /* registered, `bytes` long, as the target's at `peer_base` is */
extern uint64_t bytes;
extern segment_id_t peer;
extern uint64_t peer_base;
extern const char *control_path;

enum { MAX_FAILURES = 100 /* then a command gives up */ };
#define LONGEST_MS 300000 /* a task ends by its own deadline before */

_Noreturn void die(const char *what);
uint64_t now_us(void); /* CLOCK_MONOTONIC */
void sleep_until(uint64_t us);
pthread_t start(void *(*run)(void *), void *arg);

/* `key=value` of the command at hand. The text is good until the next call. */
const char *text_of(const char *key, const char *fallback);
uint64_t number_of(const char *key, uint64_t fallback);
int opcode_of(void);

/* What the library tells of its rails as JSON, "null" if it cannot. For one thread at a time. */
const char *rails_text(void);

/* Drains the rail that the command names, with + for the spaces that a command cannot have, or undrains it. What the
 * library answers; -2 if it cannot. */
int drain(void);

/* Failures of the command at hand; only the first is kept in words. */
extern atomic_int failures;
void failures_begin(void);
void failures_print(void);

/* A batch of one, from and to the same offset at both ends; INVALID_BATCH if it was refused, which is a failure. */
batch_id_t submit(int op, uint64_t offset, uint64_t length);
/* Waits for its end, frees it, and gives the status. */
int finish(batch_id_t batch);

/* load.c */
void one(void);
void stream(void);
void mice_alone(void);
/* churn.c */
void take_orders(void); /* the target's part of it, from then on */
void churn(void);
void settle(void);
void spoil(void);

#endif
