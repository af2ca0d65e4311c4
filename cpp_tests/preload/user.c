/*
 * user EXPECTED [LIBRARY]: a program of Mooncake's C API. It knows its library as EXPECTED, "foreign" or a path: each
 * function has to come from there. With foreign.c it sees answers of that; with any other, an engine in a child offers
 * memory, and bytes are written to it, read back and compared. LIBRARY: load that by dlopen instead of having been
 * linked with it (USER_DLOPEN). Compiled with USER_PLUGIN it is a shared object, `use_engine` is what it offers.
 */
#include <dlfcn.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <transfer_engine_c.h>

#include "foreign.h"

#define LENGTH (3 * 1024 * 1024 + 5)
#define WAIT_MS 30000

/* F(name): every function of the API. */
#define FUNCTIONS(F) \
    F(createTransferEngine) F(destroyTransferEngine) F(discoverTopology) F(getLocalIpAndPort) F(installTransport) \
    F(uninstallTransport) F(enableGracefulShutdown) F(openSegment) F(openSegmentNoCache) F(closeSegment) \
    F(warmupEfaSegment) F(removeLocalSegment) F(syncSegmentCache) F(registerLocalMemory) F(unregisterLocalMemory) \
    F(registerLocalMemoryBatch) F(unregisterLocalMemoryBatch) F(allocateBatchID) F(submitTransfer) \
    F(submitTransferWithNotify) F(getTransferStatus) F(freeBatchID) F(getNotifsFromEngine) F(freeNotifsMsgBuf) \
    F(genNotifyInEngine) F(getNicLoadStats) F(showLinks)

static struct {
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
} te;

static int fail(const char *what, const char *more) {
    fprintf(stderr, "user: %s %s\n", what, more);
    return 1;
}

/* Fills `te`; every function has to lie in `expected`. */
static int find(const char *expected, const char *library) {
#ifdef USER_DLOPEN
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return fail("dlopen:", dlerror());
#define FIND(name) *(void **)&te.name = dlsym(handle, #name);
#else
    (void)library;
#define FIND(name) te.name = name;
#endif
    FUNCTIONS(FIND)
    int wrong = 0;
    char is[PATH_MAX], wanted[PATH_MAX];
    if (!realpath(expected, wanted)) return fail("no library", expected);
#define CHECK(name)                                                                     \
    do {                                                                                \
        Dl_info info;                                                                   \
        void *at = *(void **)&te.name;                                                  \
        if (!at || !dladdr(at, &info) || !realpath(info.dli_fname, is)) wrong += fail("nowhere:", #name); \
        else if (strcmp(is, wanted) != 0) wrong += fail(#name " is in", is);            \
    } while (0);
    FUNCTIONS(CHECK)
    return wrong;
}

static unsigned char byte_at(size_t i) { return (unsigned char)(i * 131 + (i >> 9)); }

/* An engine that offers memory, in a child of its own; ends when `until` does. */
static void offer(int out, int until) {
    static unsigned char memory[LENGTH];
    char name[128], end;
    transfer_engine_t engine = te.createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 0);
    if (!engine || te.registerLocalMemory(engine, memory, sizeof memory, "*", 1) != 0) _exit(1);
    te.getLocalIpAndPort(engine, name, sizeof name);
    dprintf(out, "%s %llu\n", name, (unsigned long long)(uintptr_t)memory);
    while (read(until, &end, 1) > 0) {}
    te.destroyTransferEngine(engine);
    _exit(0);
}

static int move(transfer_engine_t engine, segment_id_t peer, int opcode, void *here, uint64_t there) {
    transfer_request_t request = {opcode, here, peer, there, LENGTH};
    transfer_status_t status = {STATUS_WAITING, 0};
    batch_id_t batch = te.allocateBatchID(engine, 1);
    if (te.submitTransfer(engine, batch, &request, 1) != 0) return fail("submit", "");
    for (int ms = 0; ms < WAIT_MS && status.status != STATUS_COMPLETED && status.status != STATUS_FAILED; ms++) {
        if (te.getTransferStatus(engine, batch, 0, &status) != 0) return fail("status", "");
        poll(NULL, 0, 1);
    }
    if (te.freeBatchID(engine, batch) != 0) return fail("free", "");
    return status.status == STATUS_COMPLETED && status.transferred_bytes == LENGTH ? 0 : fail("not completed", "");
}

static int transfer(void) {
    static unsigned char mine[2 * (size_t)LENGTH];
    int from[2], until[2];
    if (pipe(from) != 0 || pipe(until) != 0) return fail("pipe", "");
    pid_t child = fork();
    if (child == 0) {
        close(until[1]);
        offer(from[1], until[0]);
    }
    close(from[1]);
    close(until[0]);
    char name[128] = "";
    unsigned long long there = 0;
    FILE *said = fdopen(from[0], "r");
    int rc = fscanf(said, "%127s %llu", name, &there) == 2 ? 0 : fail("the child offers", "nothing");
    transfer_engine_t engine = rc ? NULL : te.createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 0);
    if (engine) {
        segment_id_t peer = te.openSegment(engine, name);
        if (peer <= 0 || te.registerLocalMemory(engine, mine, sizeof mine, "*", 1) != 0) rc = fail("no peer", name);
        for (size_t i = 0; i < LENGTH; i++) mine[i] = byte_at(i);
        if (!rc) rc = move(engine, peer, OPCODE_WRITE, mine, there) || move(engine, peer, OPCODE_READ, mine + LENGTH, there);
        for (size_t i = 0; !rc && i < LENGTH; i++)
            if (mine[LENGTH + i] != byte_at(i)) rc = fail("a byte is wrong", "");
        te.destroyTransferEngine(engine);
    } else if (!rc) {
        rc = fail("no engine", "");
    }
    fclose(said);
    close(until[1]);
    int status;
    return waitpid(child, &status, 0) == child && status == 0 ? rc : fail("the child", "failed");
}

int use_engine(const char *expected, const char *library);
int use_engine(const char *expected, const char *library) {
    if (find(expected, library) != 0) return 1;
    transfer_engine_t engine = te.createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 0);
    if (engine == FOREIGN_POINTER) {
        if (te.openSegment(engine, "x") != FOREIGN || te.allocateBatchID(engine, 1) != FOREIGN) return fail("half foreign", "");
        puts("27 functions are foreign");
        return 0;
    }
    te.destroyTransferEngine(engine);
    if (transfer() != 0) return 1;
    printf("27 functions are ours, %d bytes written and read back\n", LENGTH);
    return 0;
}

#ifndef USER_PLUGIN
int main(int argc, char **argv) {
    if (argc < 2) return fail("usage: user EXPECTED", "[LIBRARY]");
    return use_engine(argv[1], argc > 2 ? argv[2] : NULL);
}
#endif
