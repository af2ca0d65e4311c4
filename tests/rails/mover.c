/* One end of the transfers that the rails are tested and measured with, by the C API alone.
 *
 *   mover LIBRARY target    HOST CONTROL BYTES
 *   mover LIBRARY initiator HOST CONTROL BYTES TARGET
 *
 * LIBRARY is a libtransfer_engine.so, HOST the address of this end, CONTROL the path of a unix socket on which the
 * target lets the initiator fill and check its memory, BYTES the memory that each end registers, TARGET the name that
 * the target printed. mover.py writes commands of the form `NAME key=value ...` to stdin; each is answered with lines
 * of JSON, the last of which has "done". Times are CLOCK_MONOTONIC in microseconds, the clock of the driver and of the
 * library.
 *
 *   one     op size count gap_ms series rails_ms           transfers one by one
 *   stream  op size depth ms mice mice_size rails_ms       `depth` transfers at any time, mice beside them if asked;
 *           drain_ms rail on                               and a rail drained meanwhile
 *   mice    op mice mice_size ms                           small transfers alone: `mice` per second, whoever is late
 *   churn   count seed max workers cancel                  random transfers, all checked; `cancel` of 100 are given up
 *   settle                                                 the memory of the churn once more: did anything land late?
 *   spoil                                                  changes one byte of it, so that settle has something to find
 *   rails | events since | facts | drain rail on | quit
 *
 * The library is opened by its path, and asked by name for what an older one may lack.
 */
#include "mover.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_JSON = 1 << 20 };

/* ---- the library ---- */

struct library lib;

_Noreturn void die(const char *what) {
    fprintf(stderr, "mover: %s: %s; %s\n", what, strerror(errno), lib.tent_last_error ? lib.tent_last_error() : "");
    exit(1);
}

static void open_library(const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        fprintf(stderr, "mover: %s\n", dlerror());
        exit(1);
    }
#define LOAD(name)                                                                                                    \
    *(void **)&lib.name = dlsym(handle, #name);                                                                       \
    if (!lib.name) die(#name);
    FUNCTIONS(LOAD)
    *(void **)&lib.tent_events_json = dlsym(handle, "tent_events_json");
    *(void **)&lib.tent_rail_drain = dlsym(handle, "tent_rail_drain");
}

/* ---- this end ---- */

transfer_engine_t engine;
uint8_t *memory;
uint64_t bytes;
segment_id_t peer;
uint64_t peer_base;
const char *control_path;

uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void sleep_until(uint64_t us) {
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

pthread_t start(void *(*run)(void *), void *arg) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, arg) != 0) die("thread");
    return thread;
}

/* ---- commands and answers ---- */

static char line[4096];

const char *text_of(const char *key, const char *fallback) {
    static char value[256];
    size_t length = strlen(key);
    for (const char *at = line; (at = strchr(at, ' ')); at++) {
        if (strncmp(at + 1, key, length) != 0 || at[1 + length] != '=') continue;
        const char *text = at + length + 2;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(text, " \n"), text);
        return value;
    }
    return fallback;
}

uint64_t number_of(const char *key, uint64_t fallback) {
    const char *text = text_of(key, NULL);
    return text ? strtoull(text, NULL, 0) : fallback;
}

int opcode_of(void) { return strcmp(text_of("op", "write"), "read") == 0 ? OPCODE_READ : OPCODE_WRITE; }

static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text >= ' ') putchar(*text);
    }
    putchar('"');
}

static int count_entries(const char *path) {
    int count = -2; /* . and .. */
    DIR *dir = opendir(path);
    if (!dir) die(path);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static void print_facts(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    long cpu_us = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    int fds = count_entries("/proc/self/fd") - 1; /* one of them reads the directory */
    printf("{\"done\":\"facts\",\"fds\":%d,\"threads\":%d,\"cpu_us\":%ld}\n", fds, count_entries("/proc/self/task"), cpu_us);
}

static char json[MAX_JSON];

const char *rails_text(void) {
    int length = lib.tent_rails_json(engine, json, sizeof json);
    return length > 0 && length < MAX_JSON ? json : "null";
}

static const char *events_text(uint64_t since) {
    int length = lib.tent_events_json ? lib.tent_events_json(engine, since, json, sizeof json) : -1;
    return length > 0 && length < MAX_JSON ? json : "null";
}

int drain(void) {
    char rail[256];
    snprintf(rail, sizeof rail, "%s", text_of("rail", ""));
    for (char *at = rail; *at; at++)
        if (*at == '+') *at = ' ';
    return lib.tent_rail_drain ? lib.tent_rail_drain(engine, rail, (int)number_of("on", 1)) : -2;
}

/* ---- transfers ---- */

atomic_int failures;
static char first_failure[512];
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;

static void note_failure(const char *why) {
    pthread_mutex_lock(&failure_lock);
    if (failures++ == 0) snprintf(first_failure, sizeof first_failure, "%s", why);
    pthread_mutex_unlock(&failure_lock);
}

void failures_begin(void) {
    failures = 0;
    first_failure[0] = 0;
}

void failures_print(void) {
    printf("\"failures\":%d,\"failure\":", failures);
    print_quoted(first_failure);
}

batch_id_t submit(int op, uint64_t offset, uint64_t length) {
    transfer_request_t request = {op, memory + offset, peer, peer_base + offset, length};
    batch_id_t batch = lib.allocateBatchID(engine, 1);
    if (batch == INVALID_BATCH) die("allocateBatchID");
    if (lib.submitTransfer(engine, batch, &request, 1) == 0) return batch;
    note_failure(lib.tent_last_error());
    lib.freeBatchID(engine, batch);
    return INVALID_BATCH;
}

int finish(batch_id_t batch) {
    transfer_status_t status = {STATUS_FAILED, 0};
    if (lib.tent_wait(engine, batch, LONGEST_MS) != 0) die("a task without an end");
    lib.getTransferStatus(engine, batch, 0, &status);
    if (status.status != STATUS_COMPLETED && status.status != STATUS_CANCELED) note_failure(lib.tent_last_error());
    if (lib.freeBatchID(engine, batch) != 0) die("freeBatchID");
    return status.status;
}

/* ---- the program ---- */

static void obey(void) {
    char name[32] = "";
    sscanf(line, "%31s", name);
    if (!strcmp(name, "one")) one();
    else if (!strcmp(name, "stream")) stream();
    else if (!strcmp(name, "mice")) mice_alone();
    else if (!strcmp(name, "churn")) churn();
    else if (!strcmp(name, "settle")) settle();
    else if (!strcmp(name, "spoil")) spoil();
    else if (!strcmp(name, "facts")) print_facts();
    else if (!strcmp(name, "rails")) printf("{\"done\":\"rails\",\"rails\":%s}\n", rails_text());
    else if (!strcmp(name, "events")) printf("{\"done\":\"events\",\"events\":%s}\n", events_text(number_of("since", 0)));
    else if (!strcmp(name, "drain")) printf("{\"done\":\"drain\",\"rc\":%d}\n", drain());
    else printf("{\"done\":\"none\",\"error\":\"no such command\"}\n");
    fflush(stdout);
}

static void open_peer(const char *name) {
    tent_segment_info_t info;
    peer = lib.openSegment(engine, name);
    if (peer < 0 || lib.tent_get_segment_info(engine, (uint64_t)peer, &info) != 0 || info.num_buffers < 1) die(name);
    peer_base = info.buffers[0].base;
    lib.tent_free_segment_info(&info);
}

int main(int argc, char **argv) {
    char name[128] = "";
    bool is_target = argc == 6 && !strcmp(argv[2], "target");
    if (!is_target && (argc != 7 || strcmp(argv[2], "initiator") != 0)) {
        fprintf(stderr, "usage: mover LIBRARY target|initiator HOST CONTROL BYTES [TARGET]\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no transfer goes on without its driver */
    prctl(PR_SET_TIMERSLACK, 1);      /* samples and mice are due to the microsecond */
    open_library(argv[1]);
    control_path = argv[4];
    bytes = strtoull(argv[5], NULL, 0);
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    engine = lib.createTransferEngine("P2PHANDSHAKE", argv[3], "", 0, 0);
    if (!engine || !lib.installTransport(engine, "tcp", NULL)) die("engine");
    if (lib.registerLocalMemory(engine, memory, bytes, "*", 1) != 0) die("registerLocalMemory");
    if (lib.getLocalIpAndPort(engine, name, sizeof name) != 0) die("getLocalIpAndPort");
    if (is_target) {
        take_orders();
    } else {
        open_peer(argv[6]);
    }
    printf("{\"ready\":\"%s\",\"pid\":%d}\n", name, (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n") != 0) obey();
    lib.unregisterLocalMemory(engine, memory);
    lib.destroyTransferEngine(engine);
    printf("{\"done\":\"quit\"}\n");
    return 0;
}
