/* Loads: single transfers, a stream of them, and mice beside it; with a series of the bytes that had landed. */
#include "mover.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SAMPLES = 1 << 20,
    MAX_LOOKS = 1 << 14, /* at the rails */
    MAX_DEPTH = 64,
    MAX_MICE = 1 << 18,
    MICE_THREADS = 32,
};

/* ---- progress over time ---- */

static struct {
    size_t count;
    struct { uint64_t us, bytes; } at[MAX_SAMPLES];
    size_t looks;
    struct { uint64_t us; char *text; } look[MAX_LOOKS];
    uint64_t next_look, look_us; /* 0: do not look at the rails */
} series;

static void series_begin(uint64_t look_ms) {
    for (size_t i = 0; i < series.looks; i++) free(series.look[i].text);
    series.count = series.looks = 0;
    series.look_us = look_ms * 1000;
    series.next_look = 0;
}

static void series_add(uint64_t us, uint64_t done) {
    if (series.count < MAX_SAMPLES) {
        series.at[series.count].us = us;
        series.at[series.count++].bytes = done;
    }
    if (!series.look_us || us < series.next_look || series.looks == MAX_LOOKS) return;
    series.next_look = us + series.look_us;
    series.look[series.looks].us = now_us();
    series.look[series.looks++].text = strdup(rails_text());
}

/* The samples at which something had moved, and the first and last. */
static void series_print(void) {
    printf("\"series\":[");
    for (size_t i = 0; i < series.count; i++) {
        if (i && i + 1 < series.count && series.at[i].bytes == series.at[i - 1].bytes) continue;
        printf("%s[%llu,%llu]", i ? "," : "", (unsigned long long)series.at[i].us, (unsigned long long)series.at[i].bytes);
    }
    printf("],\"looks\":[");
    for (size_t i = 0; i < series.looks; i++)
        printf("%s[%llu,%s]", i ? "," : "", (unsigned long long)series.look[i].us, series.look[i].text);
    printf("]");
}

/* ---- transfers one by one ---- */
/* What the sampler of `one` looks at. */
static struct {
    pthread_mutex_t lock;
    batch_id_t batch;
    uint64_t before; /* bytes of the transfers before this one */
    bool stop;
} watched = {PTHREAD_MUTEX_INITIALIZER, INVALID_BATCH, 0, false};

static void *watch(void *unused) {
    transfer_status_t status;
    for (uint64_t tick = now_us();; tick += 1000) {
        sleep_until(tick);
        pthread_mutex_lock(&watched.lock);
        bool stop = watched.stop;
        if (watched.batch != INVALID_BATCH && lib.getTransferStatus(engine, watched.batch, 0, &status) == 0)
            series_add(now_us(), watched.before + status.transferred_bytes);
        pthread_mutex_unlock(&watched.lock);
        if (stop) return unused;
    }
}

static void set_watched(batch_id_t batch, uint64_t before, bool stop) {
    pthread_mutex_lock(&watched.lock);
    watched.batch = batch;
    watched.before = before;
    watched.stop = stop;
    pthread_mutex_unlock(&watched.lock);
}

void one(void) {
    int op = opcode_of();
    uint64_t size = number_of("size", 64 << 20), count = number_of("count", 1), gap_ms = number_of("gap_ms", 20);
    bool sampled = number_of("series", 0);
    pthread_t sampler = 0;
    series_begin(number_of("rails_ms", 0));
    failures_begin();
    set_watched(INVALID_BATCH, 0, false);
    if (sampled) sampler = start(watch, NULL);
    for (uint64_t i = 0; i < count && failures < MAX_FAILURES; i++) {
        if (i) sleep_until(now_us() + gap_ms * 1000);
        uint64_t begin = now_us();
        batch_id_t batch = submit(op, 0, size);
        if (batch == INVALID_BATCH) continue;
        set_watched(batch, i * size, false);
        printf("{\"begin\":%llu}\n", (unsigned long long)begin);
        fflush(stdout);
        if (lib.tent_wait(engine, batch, LONGEST_MS) != 0) die("a task without an end");
        uint64_t end = now_us();
        set_watched(INVALID_BATCH, 0, false);
        bool ok = finish(batch) == STATUS_COMPLETED;
        if (sampled) series_add(end, (i + ok) * size);
        printf("{\"begin\":%llu,\"end\":%llu,\"ok\":%s}\n", (unsigned long long)begin, (unsigned long long)end, ok ? "true" : "false");
        fflush(stdout);
    }
    set_watched(INVALID_BATCH, 0, true);
    if (sampled) pthread_join(sampler, NULL);
    printf("{\"done\":\"one\",");
    failures_print();
    printf(",");
    series_print();
    printf("}\n");
}

/* ---- mice: small transfers at fixed times ---- */

static struct {
    int op;
    uint64_t size, offset, begin, per_second;
    size_t count;
    atomic_size_t next;
    double latency_us[MAX_MICE]; /* from when it was due, so that one that waits for its turn is late too */
} mice;

static void *run_mice(void *arg) {
    uint64_t offset = mice.offset + (uint64_t)(intptr_t)arg * mice.size;
    for (size_t i; (i = atomic_fetch_add(&mice.next, 1)) < mice.count;) {
        uint64_t due = mice.begin + i * 1000000 / mice.per_second;
        sleep_until(due);
        batch_id_t batch = failures < MAX_FAILURES ? submit(mice.op, offset, mice.size) : INVALID_BATCH;
        if (batch != INVALID_BATCH) finish(batch);
        mice.latency_us[i] = (double)(now_us() - due);
    }
    return NULL;
}

static void mice_begin(pthread_t *threads, int op, uint64_t offset, uint64_t begin, uint64_t end) {
    mice.op = op;
    mice.size = number_of("mice_size", 16 << 10);
    mice.per_second = number_of("mice", 1000);
    mice.offset = offset;
    mice.begin = begin;
    mice.count = (end - begin) * mice.per_second / 1000000;
    mice.next = 0;
    if (mice.count > MAX_MICE || offset + MICE_THREADS * mice.size > bytes) die("too many mice");
    for (intptr_t i = 0; i < MICE_THREADS; i++) threads[i] = start(run_mice, (void *)i);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void mice_end(pthread_t *threads) {
    static const double parts[] = {0.5, 0.9, 0.99, 0.999, 1};
    static const char *names[] = {"p50", "p90", "p99", "p999", "max"};
    for (int i = 0; i < MICE_THREADS; i++) pthread_join(threads[i], NULL);
    qsort(mice.latency_us, mice.count, sizeof *mice.latency_us, ascending);
    printf("\"mice\":{\"count\":%zu,\"bytes\":%llu", mice.count, (unsigned long long)(mice.count * mice.size));
    for (int i = 0; i < 5 && mice.count; i++)
        printf(",\"%s\":%.0f", names[i], mice.latency_us[(size_t)ceil((double)mice.count * parts[i]) - 1]);
    printf("},");
}

void mice_alone(void) {
    pthread_t threads[MICE_THREADS];
    uint64_t begin = now_us() + 10000;
    failures_begin();
    mice_begin(threads, opcode_of(), 0, begin, begin + number_of("ms", 2000) * 1000);
    printf("{\"begin\":%llu}\n{\"done\":\"mice\",", (unsigned long long)begin);
    mice_end(threads);
    failures_print();
    printf("}\n");
}

/* ---- a stream of large transfers ---- */

static batch_id_t lane[MAX_DEPTH];

/* Looks at the transfers under way, starts others in place of those that ended while `more`; the bytes so far. */
static uint64_t stream_turn(int op, uint64_t size, uint64_t depth, bool more, uint64_t *finished, bool *idle) {
    uint64_t under_way = 0;
    *idle = true;
    for (uint64_t i = 0; i < depth; i++) {
        transfer_status_t status = {STATUS_WAITING, 0};
        if (lane[i] != INVALID_BATCH) lib.getTransferStatus(engine, lane[i], 0, &status);
        if (lane[i] != INVALID_BATCH && status.status >= STATUS_CANCELED) {
            if (finish(lane[i]) == STATUS_COMPLETED) *finished += size;
            lane[i] = INVALID_BATCH;
        } else {
            under_way += status.transferred_bytes;
        }
        if (lane[i] == INVALID_BATCH && more) lane[i] = submit(op, i * size, size);
        if (lane[i] != INVALID_BATCH) *idle = false;
    }
    return *finished + under_way;
}

void stream(void) {
    int op = opcode_of();
    uint64_t size = number_of("size", 64 << 20), depth = number_of("depth", 2), finished = 0;
    bool with_mice = number_of("mice", 0), idle = true;
    pthread_t threads[MICE_THREADS];
    if (depth > MAX_DEPTH || depth * size > bytes) die("too much memory");
    for (uint64_t i = 0; i < depth; i++) lane[i] = INVALID_BATCH;
    series_begin(number_of("rails_ms", 0));
    failures_begin();
    uint64_t begin = now_us(), length = number_of("ms", 2000) * 1000, end = begin + length;
    /* the mice come when the stream has found its pace, and go before it ends */
    if (with_mice) mice_begin(threads, op, depth * size, begin + length / 4, end - length / 16);
    printf("{\"begin\":%llu}\n", (unsigned long long)begin);
    fflush(stdout);
    uint64_t drain_at = number_of("drain_ms", 0) * 1000 + begin;
    int drained = -2;
    for (uint64_t tick = begin;; tick += 1000) {
        bool more = tick < end && failures < MAX_FAILURES;
        if (drain_at > begin && tick >= drain_at) {
            drained = drain();
            drain_at = 0;
        }
        uint64_t done = stream_turn(op, size, depth, more, &finished, &idle);
        series_add(now_us(), done);
        if (!more && idle) break;
        sleep_until(tick + 1000);
    }
    printf("{\"done\":\"stream\",\"begin\":%llu,\"end\":%llu,\"drained\":%d,", (unsigned long long)begin,
           (unsigned long long)end, drained);
    if (with_mice) mice_end(threads);
    failures_print();
    printf(",");
    series_print();
    printf("}\n");
}

