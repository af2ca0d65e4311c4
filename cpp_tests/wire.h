/* Bare sockets for tests that speak to an engine's ports without an engine, or stand in for one. */
#ifndef CPP_TESTS_WIRE_H
#define CPP_TESTS_WIRE_H

#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static inline int port_of(const char *name) {
    const char *colon = strrchr(name, ':');
    CHECK(colon != NULL);
    return atoi(colon + 1);
}

/* A connection to a port of this host, with a receive limit; -1 if refused. */
static inline int dial(int port) {
    struct sockaddr_in to;
    struct timeval limit = {10, 0};
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_SYS(fd);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A listening socket on a free port of the loopback address. */
static inline int listen_any(int *port) {
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_SYS(fd);
    CHECK_SYS(bind(fd, (struct sockaddr *)&at, sizeof at));
    CHECK_SYS(listen(fd, 64));
    CHECK_SYS(getsockname(fd, (struct sockaddr *)&at, &len));
    *port = ntohs(at.sin_port);
    return fd;
}

/* Sends what the other side takes; it may close at any byte, that is not an error here. */
static inline void send_some(int fd, const void *bytes, size_t len) {
    const uint8_t *p = (const uint8_t *)bytes;
    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n <= 0) return;
        p += n;
        len -= (size_t)n;
    }
}

/* Reads exactly `len` bytes; false if the other side ends first. */
static inline bool recv_all(int fd, void *bytes, size_t len) {
    uint8_t *p = (uint8_t *)bytes;
    while (len > 0) {
        ssize_t n = recv(fd, p, len, 0);
        if (n <= 0) return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

/* Reads until the other side ends or `limit_ms` are over; the number of bytes, -1 if it did not end. */
static inline long drain(int fd, int limit_ms) {
    char bin[4096];
    long total = 0;
    int64_t end = now_ms() + limit_ms;
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        int64_t left = end - now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) return -1;
        ssize_t n = recv(fd, bin, sizeof bin, 0);
        if (n <= 0) return total;
        total += n;
    }
}

static inline void put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, 8); /* little endian hosts */ }

/* Upstream's RPC frame: length of the rest, type, text. */
static inline void send_frame(int fd, uint8_t type, const char *text) {
    size_t len = strlen(text);
    uint8_t head[9];
    put_u64(head, len + 1);
    head[8] = type;
    send_some(fd, head, sizeof head);
    send_some(fd, text, len);
}

/* One answer frame, its text terminated; NULL if there is none. The caller frees it. */
static inline char *recv_frame(int fd, uint8_t *type) {
    uint64_t len;
    if (!recv_all(fd, &len, 8) || len < 1 || len > 64 * MIB || !recv_all(fd, type, 1)) return NULL;
    char *text = (char *)calloc(1, len);
    CHECK(text != NULL);
    if (recv_all(fd, text, len - 1)) return text;
    free(text);
    return NULL;
}

/* The descriptor of the engine behind an RPC port, as any upstream node would ask for it. */
static inline char *fetch_descriptor(int port) {
    uint8_t type = 0;
    int fd = dial(port);
    if (fd < 0) FAIL("port %d refuses", port);
    send_frame(fd, 1, "{\"name\":\"x\"}");
    char *text = recv_frame(fd, &type);
    close(fd);
    if (!text || type != 1) FAIL("no descriptor from port %d", port);
    return text;
}

/* The whole number that follows "key": in a JSON text, or -1. */
static inline long long json_number(const char *json, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(json, quoted);
    if (!at) return -1;
    at += strlen(quoted);
    while (*at == ' ' || *at == ':' || *at == '\n') at++;
    return strtoll(at, NULL, 10);
}

/* Upstream's 24-byte request header on the data port. */
static inline void data_header(uint8_t out[24], uint64_t size, uint64_t addr, uint8_t opcode) {
    memset(out, 0, 24);
    put_u64(out, size);
    put_u64(out + 8, addr);
    out[16] = opcode;
}

#define DATA_READ 0
#define DATA_WRITE 1
#define DATA_V2 0x80

#endif
