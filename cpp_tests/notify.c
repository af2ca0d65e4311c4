/* Messages: one that follows a batch comes once, after the bytes are visible, in the order of its
 * sender; many senders at once; a failed batch sends none; an empty inbox is NULL and 0. */
#include "peer.h"

#define LEN (4 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)
enum { SENDERS = 6, ROUNDS = 40 };

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

/* One WRITE with its message; the message tells the peer which bytes must be there when it comes. */
static void write_and_tell(int sender, int number, uint64_t offset, uint64_t pos, uint64_t len) {
    char name[32], text[128];
    notify_msg_t message = {name, text};
    snprintf(name, sizeof name, "%d %d", sender, number);
    snprintf(text, sizeof text, "0 %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, offset, len, pos, (uint64_t)LOCAL_SEED);
    transfer_request_t r = te_request(OPCODE_WRITE, local + pos, target, remote + offset, len);
    batch_id_t b = allocateBatchID(engine, 1);
    CHECK_INT(submitTransferWithNotify(engine, b, &r, 1, message), 0);
    memset(name, '#', sizeof name); /* the caller's strings are the caller's again */
    memset(text, '#', sizeof text);
    CHECK_INT(te_wait(engine, b, 1, 20000, NULL), 1);
    CHECK_INT(freeBatchID(engine, b), 0);
}

static void *sender(void *arg) {
    int index = (int)(intptr_t)arg;
    const uint64_t window = LEN / SENDERS / ROUNDS;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t offset = ((uint64_t)index * ROUNDS + (uint64_t)i) * window;
        write_and_tell(index, i, offset, offset / 2 + (uint64_t)i, window - 1);
    }
    return NULL;
}

static void many_senders(void) {
    pthread_t ids[SENDERS];
    for (intptr_t i = 0; i < SENDERS; i++) CHECK_INT(pthread_create(&ids[i], NULL, sender, (void *)i), 0);
    PEER_OK(&peer, "inbox %d 20000", SENDERS * ROUNDS);
    for (int i = 0; i < SENDERS; i++) CHECK_INT(pthread_join(ids[i], NULL), 0);
}

static void bare_messages(void) {
    char name[32], text[] = "0 0 0 0 0";
    notify_msg_t message = {name, text};
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "7 %d", i);
        CHECK_INT(genNotifyInEngine(engine, (uint64_t)target, message), 0);
    }
    PEER_OK(&peer, "inbox 100 20000");
}

/* A batch of which one task fails: its message must never come. */
static void failed_batch(void) {
    char name[] = "9 0", text[] = "never";
    notify_msg_t message = {name, text};
    transfer_status_t states[2];
    transfer_request_t r[2] = {te_request(OPCODE_WRITE, local, target, remote, 4096),
                               te_request(OPCODE_WRITE, local, target, 4096, 4096)};
    batch_id_t b = allocateBatchID(engine, 2);
    CHECK_INT(submitTransferWithNotify(engine, b, r, 2, message), 0);
    te_wait(engine, b, 2, 20000, states);
    CHECK_INT(states[1].status, STATUS_FAILED);
    CHECK_INT(freeBatchID(engine, b), 0);
    bare_messages(); /* a message of the failed batch would come among these, and be wrong there */
}

/* A sender that ends its engine as soon as its task is COMPLETED: the message was promised with it. */
static void goodbye(void) {
    for (int i = 0; i < 20; i++) {
        transfer_engine_t sender = te_create();
        char name[] = "3 0", text[] = "0 0 0 0 0";
        notify_msg_t message = {name, text};
        te_register(sender, local, 4096);
        transfer_request_t r = te_request(OPCODE_READ, local, te_open(sender, peer.name), remote, 4096);
        batch_id_t b = allocateBatchID(sender, 1);
        CHECK_INT(submitTransferWithNotify(sender, b, &r, 1, message), 0);
        CHECK_INT(te_wait(sender, b, 1, 20000, NULL), 1);
        CHECK_INT(freeBatchID(sender, b), 0);
        destroyTransferEngine(sender);
        PEER_OK(&peer, "inbox 1 5000");
    }
    pattern_fill(local, LOCAL_SEED, 0, 4096);
}

/* To ourselves: text that JSON must quote, and long text, byte for byte. */
static void to_self(void) {
    static char longest[30001];
    for (size_t i = 0; i < sizeof longest - 1; i++) longest[i] = (char)(1 + i % 255); /* not even UTF-8 */
    char plain[] = "name \"quoted\" \\ \n\t \x01 \xc3\xa9", none[] = "", ascii[] = "x";
    notify_msg_t messages[] = {{plain, ascii}, {ascii, plain}, {none, ascii}, {plain, longest}};
    const size_t count = sizeof messages / sizeof *messages;
    for (size_t i = 0; i < count; i++) {
        int size = 0;
        notify_msg_t *got = NULL;
        int rc = genNotifyInEngine(engine, LOCAL_SEGMENT, messages[i]);
        if (rc != 0) FAIL("message %zu to ourselves gives %d: %s", i, rc, tent_last_error());
        CHECK_BY(10000, (got = getNotifsFromEngine(engine, &size)) != NULL);
        CHECK_INT(size, 1);
        if (i + 1 < count) {
            CHECK(!strcmp(got[0].name, messages[i].name));
            CHECK(!strcmp(got[0].msg, messages[i].msg));
        } else {
            FACT("30000 bytes of every value: %zu come back", strlen(got[0].msg));
        }
        CHECK_INT(freeNotifsMsgBuf(got, size), 0);
        CHECK(getNotifsFromEngine(engine, &size) == NULL);
        CHECK_INT(size, 0);
    }
}

/* Upstream's clients may free the array by hand: it must come from malloc. */
static void freed_by_hand(void) {
    char words[] = "w";
    int size = 0;
    notify_msg_t message = {words, words}, *got = NULL;
    CHECK_INT(genNotifyInEngine(engine, LOCAL_SEGMENT, message), 0);
    CHECK_BY(10000, (got = getNotifsFromEngine(engine, &size)) != NULL);
    for (int i = 0; i < size; i++) {
        free(got[i].name);
        free(got[i].msg);
    }
    free(got);
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    watchdog(100);
    peer_start(&peer);
    engine = te_create();
    remote = peer_region(&peer, "map", LEN, 1);
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    target = te_open(engine, peer.name);
    STEP("one by one");
    for (int i = 0; i < 20; i++) {
        write_and_tell(0, 0, (uint64_t)i * 100000, (uint64_t)i * 777, 100000);
        PEER_OK(&peer, "inbox 1 20000");
    }
    STEP("bare messages");
    bare_messages();
    STEP("many senders");
    many_senders();
    STEP("a failed batch");
    failed_batch();
    STEP("a sender that goes");
    goodbye();
    STEP("to ourselves");
    to_self();
    freed_by_hand();
    char answer[PEER_ANSWER]; /* each came once: nothing is left */
    peer_ask(&peer, answer, "inbox 1 200");
    if (strncmp(answer, "ERR only 0", 10) != 0) FAIL("a message too many: %s", answer);
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("notify");
}
