/* Memory that is registered but not there any more, or not writable: the owner's mistake costs the
 * transfer, never the process, neither ours nor the peer's (I12). A copy within one process is left out:
 * that is the owner's own memcpy. */
#include "peer.h"

#define LEN (4 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

static void must_fail(int op, uint8_t *here, segment_id_t to, uint64_t there, const char *what) {
    transfer_status_t s = te_try(engine, te_request(op, here, to, there, LEN), 30000);
    FACT("%s: status %d", what, s.status);
    CHECK_INT(s.status, STATUS_FAILED);
}

static void still_works(void) {
    transfer_request_t r = te_request(OPCODE_READ, local, target, remote, LEN);
    te_move(engine, &r, 1, 1, 20000);
    CHECK_PATTERN(local, PEER_SEED, 0, LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
}

static void here(void) {
    uint8_t *gone = map_bytes(LEN);
    te_register(engine, gone, LEN);
    CHECK_SYS(mprotect(gone, LEN, PROT_NONE));
    must_fail(OPCODE_READ, gone, target, remote, "READ into memory that is gone");
    must_fail(OPCODE_WRITE, gone, target, remote, "WRITE from memory that is gone");
    CHECK_SYS(mprotect(gone, LEN, PROT_READ));
    must_fail(OPCODE_READ, gone, target, remote, "READ into memory that cannot be written");
    transfer_request_t r = te_request(OPCODE_WRITE, gone, target, remote, LEN);
    te_move(engine, &r, 1, 1, 20000); /* from there WRITE is fine */
    CHECK_INT(unregisterLocalMemory(engine, gone), 0);
    munmap(gone, LEN);
}

static void at_the_peer(void) {
    uint64_t there = peer_region(&peer, "map", LEN, 1);
    PEER_OK(&peer, "protect 2");
    must_fail(OPCODE_READ, local, target, there, "READ from memory gone at the peer");
    must_fail(OPCODE_WRITE, local, target, there, "WRITE into memory gone at the peer");
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(150);
    peer_start(&peer);
    engine = te_create();
    uint64_t kept = peer_region(&peer, "map", LEN, 1); /* nobody writes to it */
    remote = peer_region(&peer, "map", LEN, 1);
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    target = te_open(engine, peer.name);
    STEP("here");
    here();
    remote = kept;
    still_works();
    STEP("at the peer");
    at_the_peer();
    still_works();
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("unmapped");
}
