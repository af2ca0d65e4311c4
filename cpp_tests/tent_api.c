/* TENT's own C API as a program written against it uses it, between two engines and between two processes:
 * settings, segments, memory with permissions, batches, notifications. */
#include "check.h"
#include <sys/prctl.h>
#include <sys/socket.h>
#include <tent.h>

#define LEN (2 * MIB)
#define SEED UINT64_C(0x54454e54)

static tent_engine_t create(void) {
    tent_set_config("metadata_type", "p2p");
    tent_set_config("rpc_server_hostname", "127.0.0.1");
    tent_engine_t engine = tent_create_engine();
    CHECK(engine != NULL);
    if (!tent_available(engine)) FAIL("tent_create_engine: %s", tent_last_error());
    return engine;
}

static tent_request_t request(int opcode, void *source, uint64_t target, uint64_t offset, uint64_t len) {
    tent_request_t r;
    memset(&r, 0, sizeof r);
    r.opcode = opcode;
    r.source = source;
    r.target_id = target;
    r.target_offset = offset;
    r.length = len;
    return r;
}

/* As TENT's programs do: poll the whole batch. Gives the final state. */
static tent_status_t finish(tent_engine_t engine, uint64_t batch) {
    tent_status_t s;
    int64_t end = now_ms() + 20000;
    do {
        CHECK_INT(tent_overall_status(engine, batch, &s), 0);
        if (now_ms() > end) FAIL("the batch has not ended: status %d", s.status);
    } while (s.status == STATUS_WAITING || s.status == STATUS_PENDING);
    return s;
}

static int move(tent_engine_t engine, tent_request_t r) {
    uint64_t batch = tent_allocate_batch(engine, 1);
    CHECK(batch != UINT64_MAX);
    if (tent_submit(engine, batch, &r, 1) != 0) FAIL("tent_submit: %s", tent_last_error());
    tent_status_t s = finish(engine, batch);
    CHECK_INT(s.transferred_bytes, s.status == STATUS_COMPLETED ? r.length : s.transferred_bytes);
    CHECK_INT(tent_free_batch(engine, batch), 0);
    return s.status;
}

/* ---- the other process: one region of each permission, and an echo of messages -------------------- */

static int serve(int fd) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tent_engine_t engine = create();
    char text[256];
    uint64_t addr[4];
    for (int perm = 0; perm < 3; perm++) {
        uint8_t *at = map_bytes(LEN);
        pattern_fill(at, SEED + (uint64_t)perm, 0, LEN);
        CHECK_INT(tent_register_memory_with_perm(engine, at, LEN, perm), 0);
        addr[perm] = (uintptr_t)at;
    }
    void *shared = NULL;
    tent_memory_options_t o;
    memset(&o, 0, sizeof o);
    snprintf(o.location, sizeof o.location, "cpu:0");
    o.permission = PERM_GLOBAL_READ_ONLY;
    o.transport_type = TRANSPORT_SHM;
    CHECK_INT(tent_allocate_memory_ex(engine, &shared, LEN, &o), 0);
    pattern_fill(shared, SEED + 3, 0, LEN);
    addr[3] = (uintptr_t)shared;
    CHECK_INT(tent_segment_name(engine, text, sizeof text), 0);
    CHECK(send(fd, text, sizeof text, 0) == (ssize_t)sizeof text);
    CHECK(send(fd, addr, sizeof addr, 0) == (ssize_t)sizeof addr);
    for (;;) { /* "quit", or a message to send back to the segment that its name says */
        tent_notifi_info info;
        CHECK_INT(tent_recv_notifs(engine, &info), 0);
        bool quit = false;
        for (int i = 0; i < info.num_records; i++) {
            uint64_t back;
            quit |= !strcmp(info.records[i].msg, "quit");
            if (quit) break;
            CHECK_INT(tent_open_segment(engine, &back, info.records[i].name), 0);
            if (tent_send_notifs(engine, back, "echo", info.records[i].msg) != 0) FAIL("%s", tent_last_error());
        }
        tent_free_notifs(&info);
        if (quit) break;
        poll(NULL, 0, 1);
    }
    uint8_t *open = (uint8_t *)(uintptr_t)addr[2];
    for (int perm = 0; perm < 2; perm++) CHECK_PATTERN((uint8_t *)(uintptr_t)addr[perm], SEED + (uint64_t)perm, 0, LEN);
    CHECK_PATTERN((uint8_t *)shared, SEED + 3, 0, LEN);
    CHECK_PATTERN(open + 100, SEED + 9, 0, LEN / 2); /* what the other side wrote */
    tent_destroy_engine(engine);
    return 0;
}

static int status_of(tent_engine_t engine, int opcode, uint8_t *local, uint64_t target, uint64_t remote) {
    return move(engine, request(opcode, local, target, remote, 4096));
}

static void processes(void) {
    int fds[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(serve(fds[1]));
    char name[256], self[256];
    uint64_t addr[4], target = 77;
    CHECK(recv(fds[0], name, sizeof name, 0) == (ssize_t)sizeof name);
    CHECK(recv(fds[0], addr, sizeof addr, 0) == (ssize_t)sizeof addr);
    tent_engine_t engine = create();
    CHECK_INT(tent_segment_name(engine, self, sizeof self), 0);
    if (tent_open_segment(engine, &target, name) != 0) FAIL("%s", tent_last_error());
    uint8_t *local = map_bytes(LEN);
    CHECK_INT(tent_register_memory(engine, local, LEN), 0);

    STEP("permissions");
    CHECK_INT(status_of(engine, OPCODE_READ, local, target, addr[0]), STATUS_FAILED);
    CHECK_INT(status_of(engine, OPCODE_WRITE, local, target, addr[0]), STATUS_FAILED);
    CHECK_INT(status_of(engine, OPCODE_READ, local, target, addr[1]), STATUS_COMPLETED);
    CHECK_PATTERN(local, SEED + 1, 0, 4096);
    CHECK_INT(status_of(engine, OPCODE_WRITE, local, target, addr[1]), STATUS_FAILED);
    CHECK_INT(status_of(engine, OPCODE_WRITE, local, target, addr[3]), STATUS_FAILED);
    CHECK_INT(status_of(engine, OPCODE_READ, local, target, addr[3]), STATUS_COMPLETED);

    STEP("transport hints");
    static const int hints[] = {TRANSPORT_UNSPEC, TRANSPORT_TCP, TRANSPORT_SHM, TRANSPORT_RDMA};
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        memset(local, 0, LEN);
        tent_request_t r = request(OPCODE_READ, local, target, addr[3], LEN);
        r.transport_hint = hints[i];
        r.priority = (int)(i % 3);
        CHECK_INT(move(engine, r), STATUS_COMPLETED);
        CHECK_PATTERN(local, SEED + 3, 0, LEN);
    }

    STEP("a batch and its statuses");
    enum { TASKS = 16 };
    tent_request_t r[TASKS];
    tent_status_t states[TASKS + 1];
    uint64_t batch = tent_allocate_batch(engine, TASKS);
    pattern_fill(local, SEED + 9, 0, LEN);
    for (size_t i = 0; i < TASKS; i++) {
        size_t at = i * (LEN / 2 / TASKS);
        r[i] = request(OPCODE_WRITE, local + at, target, addr[2] + 100 + at, LEN / 2 / TASKS);
    }
    CHECK_INT(tent_submit(engine, batch, r, TASKS), 0);
    CHECK_INT(tent_submit(engine, batch, r, 1), -1); /* it is full */
    CHECK_INT(tent_wait(engine, batch, 20000), 0);
    memset(states, 0x5a, sizeof states);
    size_t count = TASKS + 1;
    CHECK_INT(tent_task_status_list(engine, batch, states, &count), 0);
    CHECK_INT(count, TASKS);
    for (size_t i = 0; i < TASKS; i++) {
        CHECK_INT(states[i].status, STATUS_COMPLETED);
        CHECK_INT(states[i].transferred_bytes, LEN / 2 / TASKS);
    }
    CHECK_INT(states[TASKS].status, 0x5a5a5a5a);
    count = 3;
    states[3].status = 7;
    CHECK_INT(tent_task_status_list(engine, batch, states, &count), 0);
    CHECK_INT(count, TASKS);
    CHECK_INT(states[3].status, 7);
    CHECK_INT(tent_task_status(engine, batch, TASKS - 1, &states[0]), 0);
    CHECK_INT(states[0].status, STATUS_COMPLETED);
    CHECK_INT(tent_free_batch(engine, batch), 0);
    CHECK_INT(tent_free_batch(engine, batch), -1);

    STEP("notifications");
    tent_notifi_info info;
    memset(&info, 0xff, sizeof info);
    CHECK_INT(tent_recv_notifs(engine, &info), 0);
    CHECK(info.num_records == 0 && info.records == NULL); /* TENT leaves them unset */
    tent_free_notifs(&info);
    tent_free_notifs(&info);
    char *big = (char *)malloc(10000);
    memset(big, 'm', 9999);
    big[9999] = 0;
    batch = tent_allocate_batch(engine, 1);
    CHECK_INT(tent_submit_notif(engine, batch, r, 1, self, "first"), 0);
    CHECK_INT(finish(engine, batch).status, STATUS_COMPLETED);
    CHECK_INT(tent_free_batch(engine, batch), 0);
    int seen = 0;
    int64_t end = now_ms() + 20000;
    while (seen < 2) {
        CHECK(now_ms() < end);
        CHECK_INT(tent_recv_notifs(engine, &info), 0);
        for (int i = 0; i < info.num_records; i++, seen++) {
            CHECK(!strcmp(info.records[i].name, "echo"));
            if (seen == 0) CHECK(!strcmp(info.records[i].msg, "first"));
            else CHECK_INT(strlen(info.records[i].msg), 4095); /* cut and terminated */
        }
        if (seen == 1 && info.num_records > 0) CHECK_INT(tent_send_notifs(engine, target, self, big), 0);
        tent_free_notifs(&info);
    }
    free(big);

    STEP("the end");
    CHECK_INT(tent_probe(engine, target), 0);
    CHECK_INT(tent_close_segment(engine, target), 0);
    CHECK_INT(tent_send_notifs(engine, target, "test", "quit"), 0);
    CHECK_INT(wait_child(child, 20000), 0);
    CHECK_INT(tent_probe(engine, target), -1);
    CHECK_INT(tent_unregister_memory(engine, local, LEN), 0);
    CHECK_INT(tent_unregister_memory(engine, local, LEN), -1);
    tent_destroy_engine(engine);
    close(fds[0]);
    close(fds[1]);
}

/* ---- settings ------------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void refused(const char *why) {
    tent_engine_t engine = tent_create_engine();
    CHECK(engine != NULL); /* as in TENT, and then: */
    if (!strstr(tent_last_error(), why)) FAIL("no %s in: %s", why, tent_last_error());
    CHECK_INT(tent_available(engine), 0);
    CHECK(strstr(tent_last_error(), why) != NULL);
    char text[64];
    uint64_t id;
    CHECK_INT(tent_segment_name(engine, text, sizeof text), -1);
    CHECK_INT(tent_open_segment(engine, &id, "127.0.0.1:1"), -1);
    CHECK(tent_allocate_batch(engine, 1) == UINT64_MAX);
    tent_destroy_engine(engine);
    tent_destroy_engine(engine);
}

static void settings(void) {
    char path[] = "tent_api_XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    char text[512], small[4];
    uint16_t port = 0;
    /* G32: TENT parses the path as if it were the text, and so never reads a file */
    write_file(path, "{\"metadata_type\": \"p2p\", \"rpc_server_hostname\": \"localhost\", \"policy\": []}");
    tent_set_config("metadata_type", NULL);
    tent_set_config("rpc_server_hostname", NULL);
    tent_load_config_from_file(path);
    tent_engine_t engine = tent_create_engine();
    if (!tent_available(engine)) FAIL("%s", tent_last_error());
    CHECK_INT(tent_rpc_server_addr_port(engine, text, sizeof text, &port), 0);
    CHECK(!strcmp(text, "localhost") && port != 0);
    memset(small, '#', sizeof small);
    CHECK_INT(tent_rpc_server_addr_port(engine, small, sizeof small, &port), -1); /* G33: and terminated */
    CHECK(!strcmp(small, "loc"));
    CHECK_INT(tent_segment_name(engine, small, sizeof small), -1);
    CHECK_INT(tent_segment_name(engine, NULL, 10), -1);
    CHECK_INT(tent_segment_name(engine, text, sizeof text), 0);
    uint64_t own = 1;
    CHECK_INT(tent_open_segment(engine, &own, text), 0);
    CHECK_INT(own, LOCAL_SEGMENT_ID);
    tent_destroy_engine(engine);
    CHECK_INT(tent_available(engine), 0);
    tent_set_config("rpc_server_hostname", "127.0.0.1"); /* a call goes before the file */
    engine = tent_create_engine();
    CHECK_INT(tent_rpc_server_addr_port(engine, text, sizeof text, &port), 0);
    CHECK(!strcmp(text, "127.0.0.1"));
    tent_destroy_engine(engine);
    write_file(path, "{\"metadata_type\": ");
    refused(path);
    write_file(path, "{\"policy\": [{\"transports\": [\"pigeon\"]}]}");
    refused("pigeon");
    unlink(path);
    refused(path);
    tent_load_config_from_file(NULL);
    tent_set_config("metadata_type", "stone");
    refused("stone");
    tent_set_config("metadata_type", "p2p");
    tent_set_config("rpc_server_port", "port");
    refused("rpc_server_port");
    tent_set_config("rpc_server_port", NULL);
    tent_set_config(NULL, "x");
    tent_set_config("some_other/key", "is ignored");
    engine = create();
    tent_destroy_engine(engine);
}

/* ---- misuse --------------------------------------------------------------------------------------- */

static void misuse(void) {
    tent_engine_t engine = create();
    tent_engine_t bad[] = {NULL, (tent_engine_t)(uintptr_t)0x1234, (tent_engine_t)(uintptr_t)&engine};
    tent_status_t s;
    tent_request_t r;
    tent_notifi_info notes;
    tent_segment_info_t info;
    tent_nic_load_stat_t load[2];
    tent_memory_options_t o;
    uint64_t id;
    uint16_t port;
    size_t n;
    void *at = NULL;
    char text[64];
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tent_engine_t e = bad[i];
        size_t one = 1;
        CHECK_INT(tent_available(e), 0);
        CHECK_INT(tent_segment_name(e, text, sizeof text), -1);
        CHECK_INT(tent_rpc_server_addr_port(e, text, sizeof text, &port), -1);
        CHECK_INT(tent_open_segment(e, &id, "127.0.0.1:1"), -1);
        CHECK_INT(tent_close_segment(e, 0), -1);
        CHECK_INT(tent_get_segment_info(e, 0, &info), -1);
        tent_free_segment_info(&info);
        CHECK_INT(tent_allocate_memory(e, &at, 1, "*"), -1);
        CHECK_INT(tent_allocate_memory_ex(e, &at, 1, &o), -1);
        CHECK_INT(tent_free_memory(e, text), -1);
        CHECK_INT(tent_register_memory(e, text, 1), -1);
        CHECK_INT(tent_register_memory_with_perm(e, text, 1, 0), -1);
        CHECK_INT(tent_register_memory_ex(e, text, 1, &o), -1);
        CHECK_INT(tent_register_memory_batch(e, &at, &one, 1, 0), -1);
        CHECK_INT(tent_register_memory_batch_ex(e, &at, &one, 1, &o), -1);
        CHECK_INT(tent_unregister_memory(e, text, 1), -1);
        CHECK_INT(tent_unregister_memory_batch(e, &at, NULL, 1), -1);
        CHECK(tent_allocate_batch(e, 1) == UINT64_MAX);
        CHECK_INT(tent_free_batch(e, 1), -1);
        CHECK_INT(tent_submit(e, 1, &r, 1), -1);
        CHECK_INT(tent_submit_notif(e, 1, &r, 1, "a", "b"), -1);
        CHECK_INT(tent_send_notifs(e, 0, "a", "b"), -1);
        CHECK_INT(tent_recv_notifs(e, &notes), -1);
        CHECK(notes.num_records == 0 && notes.records == NULL);
        CHECK_INT(tent_task_status(e, 1, 0, &s), -1);
        CHECK_INT(s.status, STATUS_FAILED);
        CHECK_INT(tent_overall_status(e, 1, &s), -1);
        CHECK_INT(tent_cancel_task(e, 1, 0), -1);
        CHECK_INT(tent_task_status_list(e, 1, &s, &one), -1);
        CHECK_INT(tent_get_nic_load_stats(e, load, &one), -1);
        CHECK(tent_last_error()[0] != 0);
        tent_destroy_engine(e);
    }
    uint8_t *mine = map_bytes(LEN);
    uint64_t batch = tent_allocate_batch(engine, 4);
    CHECK_INT(tent_open_segment(engine, NULL, "127.0.0.1:1"), -1);
    CHECK_INT(tent_open_segment(engine, &id, NULL), -1);
    CHECK_INT(tent_close_segment(engine, UINT64_MAX), -1);
    CHECK_INT(tent_close_segment(engine, 4711), -1);
    CHECK_INT(tent_rpc_server_addr_port(engine, text, sizeof text, NULL), -1);
    CHECK_INT(tent_register_memory(engine, NULL, 10), -1);
    CHECK_INT(tent_register_memory(engine, mine, 0), -1);
    CHECK_INT(tent_register_memory(engine, mine, SIZE_MAX), -1);
    CHECK_INT(tent_register_memory_with_perm(engine, mine, 10, 3), -1);
    CHECK_INT(tent_register_memory_with_perm(engine, mine, 10, -1), -1);
    CHECK_INT(tent_register_memory_ex(engine, mine, 10, NULL), -1);
    o.transport_type = TRANSPORT_RDMA;
    CHECK_INT(tent_register_memory_ex(engine, mine, 10, &o), -1);
    o.transport_type = 99;
    CHECK_INT(tent_allocate_memory_ex(engine, &at, 10, &o), -1);
    o.transport_type = 0;
    strcpy(o.shm_path, "/dev/shm/x");
    CHECK_INT(tent_allocate_memory_ex(engine, &at, 10, &o), -1);
    CHECK(strstr(tent_last_error(), "shm_path") != NULL);
    memset(&o, 0, sizeof o);
    o.internal = 1;
    CHECK_INT(tent_allocate_memory_ex(engine, &at, 10, &o), -1);
    memset(&o, 0, sizeof o);
    memset(o.location, 'x', sizeof o.location); /* not terminated */
    CHECK_INT(tent_allocate_memory_ex(engine, &at, 10, &o), -1);
    CHECK_INT(tent_allocate_memory_ex(engine, &at, 10, NULL), -1);
    /* all or none */
    void *addrs[2] = {mine, mine + 8192};
    size_t sizes[2] = {4096, 0};
    CHECK_INT(tent_register_memory_batch(engine, addrs, sizes, 2, PERM_GLOBAL_READ_WRITE), -1);
    CHECK_INT(tent_register_memory_batch(engine, NULL, sizes, 2, PERM_GLOBAL_READ_WRITE), -1);
    CHECK_INT(tent_register_memory_batch(engine, addrs, NULL, 2, PERM_GLOBAL_READ_WRITE), -1);
    sizes[1] = 4096;
    CHECK_INT(tent_register_memory_batch(engine, addrs, sizes, 2, PERM_GLOBAL_READ_WRITE), 0);
    CHECK_INT(tent_unregister_memory_batch(engine, addrs, sizes, 2), 0);
    memset(&o, 0, sizeof o);
    o.permission = PERM_GLOBAL_READ_WRITE;
    CHECK_INT(tent_register_memory_batch_ex(engine, addrs, sizes, 2, &o), 0);
    CHECK_INT(tent_submit(engine, batch, NULL, 1), -1);
    CHECK_INT(tent_submit(engine, batch, &r, SIZE_MAX), -1);
    CHECK_INT(tent_submit(engine, batch + 1, &r, 1), -1);
    r = request(2, mine, 0, (uintptr_t)mine, 16);
    CHECK_INT(tent_submit(engine, batch, &r, 1), -1);
    r = request(OPCODE_READ, mine, UINT64_MAX, (uintptr_t)mine, 16);
    CHECK_INT(tent_submit(engine, batch, &r, 1), -1);
    r = request(OPCODE_READ, mine, 0, (uintptr_t)mine, 16);
    r.priority = 0x5a5a5a5a;
    CHECK_INT(tent_submit(engine, batch, &r, 1), -1);
    r.priority = 0;
    r.transport_hint = -1;
    CHECK_INT(tent_submit(engine, batch, &r, 1), -1);
    CHECK_INT(tent_submit_notif(engine, batch, &r, 0, "a", "b"), -1);
    r.transport_hint = 0;
    CHECK_INT(tent_submit_notif(engine, batch, &r, 1, NULL, "b"), -1);
    CHECK_INT(tent_submit_notif(engine, batch, &r, 1, "a", NULL), -1);
    CHECK_INT(tent_send_notifs(engine, 99, "a", "b"), -1);
    CHECK_INT(tent_send_notifs(engine, 0, NULL, "b"), -1);
    CHECK_INT(tent_recv_notifs(engine, NULL), -1);
    tent_free_notifs(NULL);
    CHECK_INT(tent_task_status(engine, batch, 0, NULL), -1);
    CHECK_INT(tent_task_status(engine, batch, 0, &s), -1); /* nothing was submitted */
    CHECK_INT(tent_overall_status(engine, batch, NULL), -1);
    CHECK_INT(tent_task_status_list(engine, batch, NULL, NULL), -1);
    n = 1;
    CHECK_INT(tent_task_status_list(engine, batch, NULL, &n), -1);
    n = 0;
    CHECK_INT(tent_task_status_list(engine, batch, NULL, &n), 0);
    CHECK_INT(n, 0);
    CHECK_INT(tent_get_nic_load_stats(engine, load, NULL), -1);
    n = 2;
    CHECK_INT(tent_get_nic_load_stats(engine, load, &n), 0);
    tent_destroy_engine(engine);
    CHECK_INT(tent_submit(engine, batch, &r, 1), -1);
    CHECK_INT(tent_free_batch(engine, batch), -1);
}

int main(void) {
    watchdog(100);
    STEP("two processes"); /* first, for it forks before there are threads */
    processes();
    STEP("settings");
    settings();
    STEP("misuse");
    misuse();
    return pass("tent_api");
}
