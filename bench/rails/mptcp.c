/* Transfers over one socket, MPTCP or plain TCP, that answers the commands of tests/rails/mover.c with the same lines:
 * so that the kernel is driven and timed as the library is.
 *
 *   mptcp serve PORT PROTOCOL [OPTION...]
 *   mptcp move ADDRESS PORT PROTOCOL [OPTION...]      commands on stdin, lines of JSON on stdout
 *
 * PROTOCOL is mptcp or tcp. OPTION: sndbuf=BYTES rcvbuf=BYTES (else the kernel adapts them), cc=NAME, lowat=BYTES
 * (unsent bytes that the socket takes).
 *
 *   reconnect                      a new connection, as it will be made again after a fault
 *   one    op size count gap_ms    transfers one by one
 *   stream op size ms              one after the other without a pause
 *   paths                          how many subflows the connection has
 *   facts | quit
 *
 * On the wire: an order {op, size}; for a write its bytes follow and a word answers, for a read the bytes answer. The
 * receiver notes what has come and when; the initiator asks for the other's notes by an order of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/mptcp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef SOL_MPTCP
#define SOL_MPTCP 284
#endif

enum { CHUNK = 1 << 20, MAX_SAMPLES = 1 << 17 };
enum op { READ, WRITE, NOTES };

struct order {
    uint64_t op, size;
};

static int protocol, sndbuf, rcvbuf, lowat;
static const char *congestion;
static uint8_t chunk[CHUNK];

/* What had come when. */
static struct notes {
    uint64_t count, total;
    struct {
        uint64_t us, bytes;
    } at[MAX_SAMPLES];
} notes;

static _Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void note(uint64_t more) {
    uint64_t us = now_us(), last = notes.count - 1;
    notes.total += more;
    /* within half a millisecond the last one is brought up to date */
    if (notes.count > 1 && us - notes.at[last - 1].us < 500) {
        notes.at[last].us = us;
        notes.at[last].bytes = notes.total;
    } else if (notes.count < MAX_SAMPLES) {
        notes.at[notes.count].us = us;
        notes.at[notes.count++].bytes = notes.total;
    }
}

/* ---- sockets ---- */

static void set(int fd, int level, int name, const void *value, socklen_t size, const char *what) {
    if (setsockopt(fd, level, name, value, size) != 0) die(what);
}

static int new_socket(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol);
    if (fd < 0) die("socket");
    set(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one, "SO_REUSEADDR");
    set(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one, "TCP_NODELAY");
    if (sndbuf) set(fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof sndbuf, "SO_SNDBUF");
    if (rcvbuf) set(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcvbuf, sizeof rcvbuf, "SO_RCVBUF");
    if (congestion) set(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion), "TCP_CONGESTION");
    if (lowat) set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat, "TCP_NOTSENT_LOWAT");
    return fd;
}

/* False if the other end is gone. */
static bool send_all(int fd, const void *data, uint64_t size) {
    const uint8_t *at = data;
    while (size) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        at += sent;
        size -= (uint64_t)sent;
    }
    return true;
}

static bool receive_all(int fd, void *data, uint64_t size) {
    return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size;
}

static bool send_payload(int fd, uint64_t size) {
    for (uint64_t part; size; size -= part) {
        part = size < CHUNK ? size : CHUNK;
        if (!send_all(fd, chunk, part)) return false;
    }
    return true;
}

static bool receive_payload(int fd, uint64_t size) {
    static uint8_t sink[CHUNK];
    while (size) {
        ssize_t got = recv(fd, sink, size < CHUNK ? size : CHUNK, 0);
        if (got <= 0) return false;
        size -= (uint64_t)got;
        note((uint64_t)got);
    }
    return true;
}

/* ---- the server: one connection at a time ---- */

static void serve_one(int fd) {
    struct order order;
    uint64_t done = 1;
    notes.count = notes.total = 0;
    while (receive_all(fd, &order, sizeof order)) {
        bool ok;
        if (order.op == READ) {
            ok = send_payload(fd, order.size);
        } else if (order.op == WRITE) {
            ok = receive_payload(fd, order.size) && send_all(fd, &done, sizeof done);
        } else {
            ok = send_all(fd, &notes, offsetof(struct notes, at) + notes.count * sizeof *notes.at);
            notes.count = notes.total = 0;
        }
        if (!ok) break;
    }
    close(fd);
}

static void *serve(void *arg) {
    int listener = (int)(intptr_t)arg;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) die("accept");
        serve_one(fd);
    }
}

static void start_server(const char *port) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    pthread_t thread;
    int listener = new_socket();
    /* every address: a subflow comes to one that was announced */
    if (bind(listener, (void *)&any, sizeof any) != 0 || listen(listener, 16) != 0) die("listen");
    if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)listener) != 0) die("thread");
}

/* ---- the initiator ---- */

static struct sockaddr_in server;
static int link_fd = -1;
static char line[512];

static const char *text_of(const char *key, const char *fallback) {
    static char value[64];
    size_t length = strlen(key);
    for (const char *at = line; (at = strchr(at, ' ')); at++) {
        if (strncmp(at + 1, key, length) != 0 || at[1 + length] != '=') continue;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(at + length + 2, " \n"), at + length + 2);
        return value;
    }
    return fallback;
}

static uint64_t number_of(const char *key, uint64_t fallback) {
    const char *text = text_of(key, NULL);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static enum op op_of(void) { return strcmp(text_of("op", "write"), "read") == 0 ? READ : WRITE; }

static void reconnect(void) {
    if (link_fd >= 0) close(link_fd);
    link_fd = new_socket();
    if (connect(link_fd, (void *)&server, sizeof server) != 0) die("connect");
}

static void order(enum op op, uint64_t size) {
    struct order order = {op, size};
    if (!send_all(link_fd, &order, sizeof order)) die("the connection broke");
}

static void finish(enum op op, uint64_t size) {
    uint64_t done;
    if (op == READ ? !receive_payload(link_fd, size) : !receive_all(link_fd, &done, sizeof done)) die("the connection broke");
}

/* The notes of whoever received, and clean sheets at both ends. */
static void print_series(enum op op) {
    if (op == WRITE) {
        order(NOTES, 0);
        if (!receive_all(link_fd, &notes, offsetof(struct notes, at))) die("the connection broke");
        if (!receive_all(link_fd, notes.at, notes.count * sizeof *notes.at)) die("the connection broke");
    }
    printf("\"series\":[");
    for (uint64_t i = 0; i < notes.count; i++)
        printf("%s[%llu,%llu]", i ? "," : "", (unsigned long long)notes.at[i].us, (unsigned long long)notes.at[i].bytes);
    printf("],\"failures\":0,\"failure\":\"\"");
    notes.count = notes.total = 0;
}

static void one(void) {
    enum op op = op_of();
    uint64_t size = number_of("size", 64 << 20), count = number_of("count", 1), gap_us = number_of("gap_ms", 20) * 1000;
    for (uint64_t i = 0; i < count; i++) {
        if (i) usleep((useconds_t)gap_us);
        uint64_t begin = now_us();
        printf("{\"begin\":%llu}\n", (unsigned long long)begin);
        fflush(stdout);
        order(op, size);
        if (op == WRITE && !send_payload(link_fd, size)) die("the connection broke");
        finish(op, size);
        printf("{\"begin\":%llu,\"end\":%llu,\"ok\":true}\n", (unsigned long long)begin, (unsigned long long)now_us());
    }
    printf("{\"done\":\"one\",");
    print_series(op);
    printf("}\n");
}

static void stream(void) {
    enum op op = op_of();
    uint64_t size = number_of("size", 64 << 20), begin = now_us(), end = begin + number_of("ms", 2000) * 1000, open = 0;
    printf("{\"begin\":%llu}\n", (unsigned long long)begin);
    fflush(stdout);
    /* two at any time, so that the path never waits for an order */
    for (bool more = true; more || open;) {
        more = now_us() < end;
        while (more && open < 2) {
            order(op, size);
            if (op == WRITE && !send_payload(link_fd, size)) die("the connection broke");
            open++;
            more = now_us() < end;
        }
        finish(op, size);
        open--;
    }
    printf("{\"done\":\"stream\",\"begin\":%llu,\"end\":%llu,", (unsigned long long)begin, (unsigned long long)end);
    print_series(op);
    printf("}\n");
}

static void print_paths(void) {
    struct mptcp_info info = {0};
    socklen_t size = sizeof info;
    int more = 0;
    if (protocol == IPPROTO_MPTCP && getsockopt(link_fd, SOL_MPTCP, MPTCP_INFO, &info, &size) == 0) more = info.mptcpi_subflows;
    printf("{\"done\":\"paths\",\"paths\":%d}\n", more + 1); /* the first is not counted */
}

static void print_facts(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    long cpu_us = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    printf("{\"done\":\"facts\",\"cpu_us\":%ld}\n", cpu_us);
}

static void obey(void) {
    char name[32] = "";
    sscanf(line, "%31s", name);
    if (!strcmp(name, "one")) one();
    else if (!strcmp(name, "stream")) stream();
    else if (!strcmp(name, "paths")) print_paths();
    else if (!strcmp(name, "facts")) print_facts();
    else if (!strcmp(name, "reconnect")) {
        reconnect();
        printf("{\"done\":\"reconnect\"}\n");
    } else printf("{\"done\":\"none\",\"error\":\"no such command\"}\n");
    fflush(stdout);
}

static void take_option(char *option) {
    char *value = strchr(option, '=');
    if (value && !strncmp(option, "sndbuf", 6)) sndbuf = atoi(value + 1) / 2; /* the kernel doubles it */
    else if (value && !strncmp(option, "rcvbuf", 6)) rcvbuf = atoi(value + 1) / 2;
    else if (value && !strncmp(option, "lowat", 5)) lowat = atoi(value + 1);
    else if (value && !strncmp(option, "cc", 2)) congestion = value + 1;
    else {
        fprintf(stderr, "mptcp: no such option: %s\n", option);
        exit(2);
    }
}

int main(int argc, char **argv) {
    bool serves = argc >= 4 && !strcmp(argv[1], "serve"), moves = argc >= 5 && !strcmp(argv[1], "move");
    if (!serves && !moves) {
        fprintf(stderr, "usage: mptcp serve PORT mptcp|tcp [OPTION...] | mptcp move ADDRESS PORT mptcp|tcp [OPTION...]\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1);
    protocol = strcmp(argv[serves ? 3 : 4], "mptcp") == 0 ? IPPROTO_MPTCP : IPPROTO_TCP;
    for (int i = serves ? 4 : 5; i < argc; i++) take_option(argv[i]);
    memset(chunk, 0x5a, sizeof chunk);
    if (serves) {
        start_server(argv[2]);
    } else {
        server.sin_family = AF_INET;
        server.sin_port = htons((uint16_t)atoi(argv[3]));
        if (inet_pton(AF_INET, argv[2], &server.sin_addr) != 1) die("address");
        reconnect();
    }
    printf("{\"ready\":\"\"}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n") != 0) obey();
    return 0;
}
