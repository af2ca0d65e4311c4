/* Random transfers of which every byte is checked, and every byte again later: the target's memory is filled, checked
 * and stamped by the target itself, which takes orders on a unix socket. */
#include "mover.h"

#include <math.h>
#include <stdlib.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pattern.h"

enum {
    MAX_WORKERS = 16,
    GUARD = 4096, /* bytes on each side of a checked transfer that must stay as they were */
};

/* ---- what the target does for the initiator ---- */

enum { FILL, CHECK };
struct order {
    uint64_t what, seed, offset, length; /* of the target's memory */
};

/* The target's end of a control connection: fills its memory, or counts the bytes that are not as they should be. */
static void *serve(void *arg) {
    int fd = (int)(intptr_t)arg;
    struct order order;
    while (recv(fd, &order, sizeof order, MSG_WAITALL) == sizeof order) {
        uint64_t answer = UINT64_MAX;
        if (order.offset <= bytes && order.length <= bytes - order.offset) {
            answer = 0;
            if (order.what == FILL) fill(memory, order.seed, order.offset, order.length);
            else answer = wrong(memory, order.seed, order.offset, order.length);
        }
        if (send(fd, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) break;
    }
    close(fd);
    return NULL;
}

static struct sockaddr_un control_address(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", control_path);
    return address;
}

static void *accept_orders(void *arg) {
    struct sockaddr_un address = control_address();
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (void *)&address, sizeof address) != 0 || listen(listener, 64) != 0) die("control socket");
    sem_post(arg);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) die("accept");
        pthread_detach(start(serve, (void *)(intptr_t)fd));
    }
}

void take_orders(void) {
    sem_t ready;
    sem_init(&ready, 0, 0);
    pthread_detach(start(accept_orders, &ready));
    sem_wait(&ready); /* an initiator that knows our name finds the socket */
}

static int connect_control(void) {
    struct sockaddr_un address = control_address();
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (void *)&address, sizeof address) != 0) die("control socket");
    return fd;
}

/* Fills or checks a range at either end. */
static uint64_t at_end(bool there, int fd, uint64_t what, uint64_t seed, uint64_t offset, uint64_t length) {
    struct order order = {what, seed, offset, length};
    uint64_t answer = 0;
    if (!there && what == FILL) fill(memory, seed, offset, length);
    if (!there && what == CHECK) answer = wrong(memory, seed, offset, length);
    if (!there) return answer;
    if (send(fd, &order, sizeof order, MSG_NOSIGNAL) != sizeof order) die("the target is gone");
    if (recv(fd, &answer, sizeof answer, MSG_WAITALL) != sizeof answer) die("the target is gone");
    if (answer == UINT64_MAX) die("the target has no such range");
    return answer;
}

/* ---- churn ---- */

/* Where a transfer went, stamped by its owner when the transfer had ended: nothing may change it any more. */
struct region {
    uint64_t begin, end, stamp;
    bool there;
};

static struct worker {
    pthread_t thread;
    int fd;
    uint64_t seed, count, max, cancel;
    uint64_t ring, ring_end, next; /* its part of the memory is used round and round */
    struct region *regions;        /* of all its transfers */
    uint64_t made, retired;
    uint64_t moved, canceled, wrong_bytes, spilt_bytes, late_bytes;
} workers[MAX_WORKERS];
static uint64_t worker_count;

static uint64_t random_of(struct worker *w) {
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    return w->seed ^= w->seed << 17;
}

/* From 1 byte to `max`, each order of magnitude as often as the next. */
static uint64_t random_size(struct worker *w) {
    double part = (double)(random_of(w) >> 11) / (double)(1ull << 53);
    return (uint64_t)exp(part * log((double)w->max));
}

static void retire(struct worker *w) {
    struct region *old = &w->regions[w->retired++];
    w->late_bytes += at_end(old->there, w->fd, CHECK, old->stamp, old->begin, old->end - old->begin);
}

/* The next `length` bytes of the ring, with guards around them. */
static uint64_t take_range(struct worker *w, uint64_t length) {
    uint64_t begin = w->next + GUARD + random_of(w) % 64;
    if (begin + length + GUARD > w->ring_end) {
        /* what the last round left behind this point is older than what lies at the start */
        while (w->retired < w->made && w->regions[w->retired].begin >= w->next) retire(w);
        begin = w->ring + GUARD + random_of(w) % 64;
    }
    w->next = begin + length + GUARD;
    while (w->retired < w->made) {
        struct region *old = &w->regions[w->retired];
        if (old->end <= begin - GUARD || old->begin >= w->next) break;
        retire(w);
    }
    return begin;
}

static void churn_once(struct worker *w) {
    int op = random_of(w) % 2 ? OPCODE_READ : OPCODE_WRITE;
    bool to_there = op == OPCODE_WRITE, give_up = random_of(w) % 100 < w->cancel;
    uint64_t length = random_size(w), begin = take_range(w, length), end = begin + length;
    uint64_t data = random_of(w), guard = random_of(w), stamp = random_of(w);
    at_end(to_there, w->fd, FILL, guard, begin - GUARD, GUARD);
    at_end(to_there, w->fd, FILL, guard, end, GUARD);
    at_end(!to_there, w->fd, FILL, data, begin, length);
    batch_id_t batch = submit(op, begin, length);
    int status = STATUS_FAILED;
    if (batch != INVALID_BATCH) {
        if (give_up) {
            sleep_until(now_us() + random_of(w) % 5000);
            lib.tent_cancel_task(engine, batch, 0);
        }
        status = finish(batch);
    }
    if (status == STATUS_COMPLETED) {
        w->wrong_bytes += at_end(to_there, w->fd, CHECK, data, begin, length);
        w->moved += length;
    }
    w->canceled += status == STATUS_CANCELED;
    w->spilt_bytes += at_end(to_there, w->fd, CHECK, guard, begin - GUARD, GUARD);
    w->spilt_bytes += at_end(to_there, w->fd, CHECK, guard, end, GUARD);
    /* however it ended, it is over: what lands from now on is late. And the source belongs to its owner again. */
    at_end(to_there, w->fd, FILL, stamp, begin - GUARD, length + 2 * GUARD);
    at_end(!to_there, w->fd, FILL, stamp, begin, length);
    w->regions[w->made++] = (struct region){begin - GUARD, end + GUARD, stamp, to_there};
}

static void *run_worker(void *arg) {
    struct worker *w = arg;
    w->fd = connect_control();
    while (w->made < w->count && failures < MAX_FAILURES) churn_once(w);
    return NULL;
}

static void churn_print(const char *done) {
    struct worker sum = {0};
    for (struct worker *w = workers; w < workers + worker_count; w++) {
        sum.made += w->made;
        sum.moved += w->moved;
        sum.canceled += w->canceled;
        sum.wrong_bytes += w->wrong_bytes;
        sum.spilt_bytes += w->spilt_bytes;
        sum.late_bytes += w->late_bytes;
    }
    printf("{\"done\":\"%s\",\"transfers\":%llu,\"bytes\":%llu,\"canceled\":%llu,\"wrong_bytes\":%llu,\"spilt_bytes\":%llu,"
           "\"late_bytes\":%llu,", done, (unsigned long long)sum.made, (unsigned long long)sum.moved,
           (unsigned long long)sum.canceled, (unsigned long long)sum.wrong_bytes, (unsigned long long)sum.spilt_bytes,
           (unsigned long long)sum.late_bytes);
    failures_print();
    printf("}\n");
}

void churn(void) {
    uint64_t count = number_of("count", 1000), seed = number_of("seed", 1), max = number_of("max", 4 << 20);
    uint64_t cancel = number_of("cancel", 0);
    worker_count = number_of("workers", 4);
    if (!worker_count || worker_count > MAX_WORKERS || bytes / worker_count < 2 * (max + 3 * GUARD)) die("too little memory");
    failures_begin();
    printf("{\"begin\":%llu}\n", (unsigned long long)now_us());
    fflush(stdout);
    for (uint64_t i = 0; i < worker_count; i++) {
        struct worker *w = &workers[i];
        uint64_t ring = bytes / worker_count * i;
        /* never 0, which would stay 0 */
        *w = (struct worker){.seed = (seed * worker_count + i + 1) * 0x9e3779b97f4a7c15u, .max = max, .cancel = cancel};
        w->count = count / worker_count + (i < count % worker_count);
        w->ring = w->next = ring;
        w->ring_end = ring + bytes / worker_count;
        w->regions = calloc(w->count + 1, sizeof *w->regions);
        w->thread = start(run_worker, w);
    }
    for (uint64_t i = 0; i < worker_count; i++) pthread_join(workers[i].thread, NULL);
    churn_print("churn");
}

void settle(void) {
    for (struct worker *w = workers; w < workers + worker_count; w++) {
        while (w->retired < w->made) retire(w);
        close(w->fd);
        free(w->regions);
    }
    churn_print("settle");
    worker_count = 0;
}

/* As a late write would: a checker that never finds anything proves nothing. */
void spoil(void) {
    struct worker *w = &workers[0];
    uint64_t spoilt = 0;
    for (uint64_t i = w->retired; i < w->made && !spoilt; i++) {
        if (w->regions[i].there) continue;
        memory[w->regions[i].begin] ^= 1;
        spoilt = 1;
    }
    printf("{\"done\":\"spoil\",\"bytes\":%llu}\n", (unsigned long long)spoilt);
}
