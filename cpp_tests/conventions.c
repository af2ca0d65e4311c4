/* What every call returns in every case that a client may meet: upstream's two error spaces
 * (negative ERR_*, positive Status), printed as facts so that two libraries can be compared. */
#include "peer.h"

#define RC(call, want)                                                                                  \
    do {                                                                                                \
        long long rc_got = (long long)(call);                                                           \
        FACT("%s = %lld", #call, rc_got);                                                               \
        CHECK_INT(rc_got, want);                                                                        \
    } while (0)
/* A refusal whose exact number is nobody's contract. */
#define RC_BAD(call)                                                                                    \
    do {                                                                                                \
        long long rc_got = (long long)(call);                                                           \
        FACT("%s = refused", #call);                                                                    \
        if (rc_got == 0) FAIL("%s is accepted", #call);                                                 \
    } while (0)
#define IS_NULL(call)                                                                                   \
    do {                                                                                                \
        void *rc_got = (void *)(call);                                                                  \
        FACT("%s = %s", #call, rc_got ? "a handle" : "NULL");                                           \
        CHECK(rc_got == NULL);                                                                          \
    } while (0)

static uint8_t page[8 * 4096] __attribute__((aligned(4096)));

static void creating(void) {
    int64_t begin = now_ms();
    IS_NULL(createTransferEngine("foo://x", "127.0.0.1", "", 0, 0));
    CHECK(tent_last_error() != NULL && tent_last_error()[0] != 0);
    IS_NULL(createTransferEngine("P2PHANDSHAKEX://", "127.0.0.1", "", 0, 0));
    IS_NULL(createTransferEngine("http://127.0.0.1:1/metadata", "127.0.0.1", "", 0, 0));
    IS_NULL(createTransferEngine("etcd://127.0.0.1:1", "127.0.0.1", "", 0, 0));
    IS_NULL(createTransferEngine("redis://127.0.0.1:1", "127.0.0.1", "", 0, 0));
    IS_NULL(createTransferEngine(NULL, "127.0.0.1", "", 0, 0));
    IS_NULL(createTransferEngine("P2PHANDSHAKE", NULL, "", 0, 0));
    CHECK(now_ms() - begin < 20000);
    transfer_engine_t e = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", NULL, UINT64_MAX, 0);
    CHECK(e != NULL); /* the third and fourth argument are ignored, as upstream does */
    destroyTransferEngine(e);
}

static void naming(transfer_engine_t e) {
    char name[NAME_LEN], small[5] = "####";
    RC(getLocalIpAndPort(e, name, sizeof name), 0);
    CHECK(!strncmp(name, "127.0.0.1:", 10));
    RC(getLocalIpAndPort(e, small, 4), 0);
    CHECK(!strcmp(small, "127"));
    RC_BAD(getLocalIpAndPort(e, NULL, 64));
    RC_BAD(getLocalIpAndPort(NULL, name, sizeof name));
}

static void transports(transfer_engine_t e) {
    transport_t tcp = installTransport(e, "tcp", NULL);
    CHECK(tcp != NULL);
    CHECK(installTransport(e, "tcp", NULL) == tcp);
    void *none[] = {NULL};
    CHECK(installTransport(e, "tcp", none) == tcp);
    IS_NULL(installTransport(e, "no such transport", NULL));
    IS_NULL(installTransport(e, "", NULL));
    IS_NULL(installTransport(e, NULL, NULL));
    IS_NULL(installTransport(NULL, "tcp", NULL));
    RC(uninstallTransport(e, "tcp"), 0);
    RC(discoverTopology(e), 0);
}

static void segments(transfer_engine_t e, const char *peer) {
    char own[NAME_LEN], slashed[NAME_LEN + 3], endless[5001];
    te_name(e, own);
    snprintf(slashed, sizeof slashed, "//%s", own);
    RC(openSegment(e, own), 0);
    RC(openSegment(e, slashed), 0);
    RC(openSegment(e, ""), -1);
    RC(openSegment(e, "///"), -1);
    RC(openSegment(e, NULL), -1);
    RC(openSegment(NULL, peer), -1);
    RC(openSegment(e, "127.0.0.1:1"), -1); /* nobody listens there */
    RC(openSegment(e, "127.0.0.1:99999"), -1);
    RC(openSegment(e, "127.0.0.1:"), -1);
    RC(openSegment(e, ":::::"), -1);
    memset(endless, 'a', sizeof endless);
    endless[5000] = 0;
    RC(openSegment(e, endless), -1);
    RC(openSegment(e, peer), 1);
    RC(openSegment(e, peer), 1);
    RC(openSegmentNoCache(e, peer), 1);
    RC(closeSegment(e, 1), 0);
    RC(openSegment(e, peer), 1);
    RC(removeLocalSegment(e, peer), 0);
    RC(openSegment(e, peer), 2);
    RC(removeLocalSegment(e, ""), -1);
    RC_BAD(removeLocalSegment(e, NULL));
    RC(syncSegmentCache(e), 0);
    RC(warmupEfaSegment(e, peer), 0);
}

static void registering(transfer_engine_t e) {
    RC(registerLocalMemory(e, page, 0, "*", 1), -1);
    RC(registerLocalMemory(e, NULL, 4096, "*", 1), -1);
    RC(registerLocalMemory(e, page, SIZE_MAX, "*", 1), -1); /* wraps */
    RC(registerLocalMemory(e, page, 4096, "*", 1), 0);
    RC(registerLocalMemory(e, page, 4096, "*", 1), -7);
    RC(registerLocalMemory(e, page + 4095, 2, "*", 1), -7);
    RC(registerLocalMemory(e, page + 100, 50, "cpu:0", 1), -7);
    RC(registerLocalMemory(e, page + 4096, 4096, "cpu:0", 1), 0); /* adjacent */
    RC(unregisterLocalMemory(e, page + 1), -3);
    RC(unregisterLocalMemory(e, page + 8192), -3);
    RC_BAD(unregisterLocalMemory(e, NULL));
    RC(unregisterLocalMemory(e, page), 0);
    RC(unregisterLocalMemory(e, page), -3);
    RC(unregisterLocalMemory(e, page + 4096), 0);
    buffer_entry_t good[] = {{page, 4096}, {page + 4096, 100}};
    buffer_entry_t twice[] = {{page, 4096}, {page + 4000, 200}};
    buffer_entry_t zero[] = {{page, 4096}, {page + 8192, 0}};
    void *addrs[] = {page, page + 4096};
    RC(registerLocalMemoryBatch(e, twice, 2, "*"), -7);
    RC(registerLocalMemoryBatch(e, zero, 2, "*"), -1);
    RC_BAD(registerLocalMemoryBatch(e, NULL, 2, "*"));
    RC(registerLocalMemoryBatch(e, good, 2, "*"), 0); /* so the refused ones left nothing */
    RC(unregisterLocalMemoryBatch(e, addrs, 2), 0);
    RC(unregisterLocalMemoryBatch(e, addrs, 2), -3);
    RC_BAD(unregisterLocalMemoryBatch(e, NULL, 2));
}

/* A submit that must be refused with `want`, and must leave no task behind. */
static void refuse(transfer_engine_t e, batch_id_t b, transfer_request_t *r, size_t count, int want) {
    transfer_status_t s = {-1, 7};
    CHECK_INT(submitTransfer(e, b, r, count), want);
    CHECK_INT(getTransferStatus(e, b, 0, &s), 1);
    CHECK_INT(s.status, STATUS_FAILED);
}

static void submitting(transfer_engine_t e, segment_id_t peer, uint64_t remote) {
    te_register(e, page, sizeof page);
    uint8_t foreign[64];
    batch_id_t b = allocateBatchID(e, 2);
    CHECK(b != INVALID_BATCH && b != 0);
    transfer_request_t ok = te_request(OPCODE_READ, page, peer, remote, 100), r = ok;
    transfer_request_t many[3] = {ok, ok, ok};
    RC(submitTransfer(e, b, NULL, 0), 0);
    refuse(e, b, many, 3, 2);
    FACT("more tasks than the batch has room for = 2");
    refuse(e, b, many, SIZE_MAX, 2);
    refuse(e, b, NULL, 1, 1);
    r.target_id = 12345;
    refuse(e, b, &r, 1, 1);
    r.target_id = -1;
    refuse(e, b, &r, 1, 1);
    FACT("unknown target = 1");
    r = ok, r.opcode = 7;
    refuse(e, b, &r, 1, 1);
    r.opcode = -1;
    refuse(e, b, &r, 1, 1);
    FACT("wrong opcode = 1");
    r = ok, r.source = foreign, r.length = sizeof foreign;
    refuse(e, b, &r, 1, 3);
    r = ok, r.source = page + 1, r.length = sizeof page;
    refuse(e, b, &r, 1, 3);
    r = ok, r.length = UINT64_MAX;
    CHECK(submitTransfer(e, b, &r, 1) > 0);
    r = ok, r.source = NULL;
    CHECK(submitTransfer(e, b, &r, 1) > 0);
    FACT("local range that is not registered = 3");
    transfer_request_t mixed[2] = {ok, ok};
    mixed[1].source = foreign;
    refuse(e, b, mixed, 2, 3); /* all or none */
    RC(freeBatchID(e, b), 0);
}

static void ending(transfer_engine_t e, segment_id_t peer, uint64_t remote) {
    transfer_status_t s = {-1, 7};
    batch_id_t b = allocateBatchID(e, 2);
    transfer_request_t r = te_request(OPCODE_WRITE, page, peer, remote, 100);
    RC(submitTransfer(e, b, &r, 1), 0);
    te_wait(e, b, 1, 10000, &s);
    FACT("write of 100 bytes: status %d, %" PRIu64 " bytes", s.status, s.transferred_bytes);
    CHECK_INT(s.status, STATUS_COMPLETED);
    CHECK_INT(s.transferred_bytes, 100);
    RC(getTransferStatus(e, b, 1, &s), 1);
    CHECK_INT(s.status, STATUS_FAILED);
    RC(getTransferStatus(e, b, SIZE_MAX, &s), 1);
    RC_BAD(getTransferStatus(e, b, 0, NULL));
    RC(submitTransfer(e, b, &r, 1), 0); /* a second submit into the same batch */
    te_wait(e, b, 2, 10000, NULL);
    RC(submitTransfer(e, b, &r, 1), 2); /* finished tasks are not recycled */
    RC(freeBatchID(e, b), 0);
    RC_BAD(freeBatchID(e, b));
    r.length = 0;
    s = te_try(e, r, 10000);
    FACT("write of 0 bytes: status %d, %" PRIu64 " bytes", s.status, s.transferred_bytes);
    CHECK_INT(s.status, STATUS_COMPLETED);
    CHECK_INT(s.transferred_bytes, 0);
}

static void remote_ranges(transfer_engine_t e, segment_id_t peer, uint64_t remote, size_t len) {
    const struct {
        const char *what;
        uint64_t offset, length;
    } cases[] = {{"before", remote - 1, 2},      {"behind", remote + len - 1, 2}, {"far", 4096, 16},
                 {"zero address", 0, 16},        {"wrapping", UINT64_MAX - 7, 16}, {"top", UINT64_MAX, 1},
                 {"beyond by length", remote, len + 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int op = OPCODE_READ; op <= OPCODE_WRITE; op++) {
            transfer_request_t r = te_request(op, page, peer, cases[i].offset, cases[i].length);
            transfer_status_t s = te_try(e, r, 20000);
            FACT("remote range %s, opcode %d: status %d", cases[i].what, op, s.status);
            CHECK_INT(s.status, STATUS_FAILED);
        }
}

static void notifying(transfer_engine_t e, segment_id_t peer, uint64_t remote) {
    int size = 7;
    char name[] = "0 0", text[] = "0 0 0 0 0";
    notify_msg_t message = {name, text}, none = {NULL, NULL};
    CHECK(getNotifsFromEngine(e, &size) == NULL);
    RC(size, 0);
    CHECK(getNotifsFromEngine(e, NULL) == NULL);
    RC(freeNotifsMsgBuf(NULL, 0), 0);
    RC(genNotifyInEngine(e, 4711, message), -200);
    RC_BAD(genNotifyInEngine(e, (uint64_t)peer, none));
    RC(genNotifyInEngine(e, (uint64_t)peer, message), 0);
    batch_id_t b = allocateBatchID(e, 1);
    transfer_request_t r = te_request(OPCODE_WRITE, page, peer, remote, 10);
    RC(submitTransferWithNotify(e, b, &r, 0, message), 1);
    RC_BAD(submitTransferWithNotify(e, b, &r, 1, none));
    RC_BAD(submitTransferWithNotify(e, b, NULL, 1, message));
    RC(freeBatchID(e, b), 0);
}

static void reporting(transfer_engine_t e) {
    static char text[65536];
    char small[8];
    size_t count = 0;
    nic_load_stat_t stats[4];
    RC(getNicLoadStats(e, NULL, &count), -1);
    RC(getNicLoadStats(e, stats, NULL), -1);
    RC(getNicLoadStats(NULL, stats, &count), -1);
    RC(getNicLoadStats(e, stats, &count), 0);
    RC(showLinks(e, NULL, 10, 0), -1);
    RC(showLinks(e, text, 0, 0), -1);
    RC(showLinks(NULL, text, sizeof text, 0), -1);
    RC(showLinks(e, text, sizeof text, 0), 0);
    CHECK(!strncmp(text, "=== Local NICs ===", 18));
    RC(showLinks(e, text, sizeof text, 1), 0);
    CHECK(text[0] == '{' && strstr(text, "\"local_nics\"") && strstr(text, "\"topology\""));
    RC(showLinks(e, small, sizeof small, 1), 0);
    CHECK(memchr(small, 0, sizeof small) != NULL);
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(100);
    STEP("creating");
    creating();
    peer_t peer;
    peer_start(&peer);
    const size_t len = 16384;
    uint64_t remote = peer_region(&peer, "map", len, 1);
    transfer_engine_t e = te_create();
    STEP("naming");
    naming(e);
    transports(e);
    STEP("segments");
    segments(e, peer.name);
    STEP("registering");
    registering(e);
    segment_id_t id = te_open(e, peer.name);
    STEP("submitting");
    submitting(e, id, remote);
    ending(e, id, remote);
    STEP("remote ranges");
    remote_ranges(e, id, remote, len);
    STEP("notifying");
    notifying(e, id, remote);
    reporting(e);
    RC(unregisterLocalMemory(e, page), 0);
    destroyTransferEngine(e);
    peer_stop(&peer);
    return pass("conventions");
}
