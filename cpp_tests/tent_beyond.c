/* What tent offers beyond TENT's C API, between two engines of one process over each transport: options,
 * deadlines, intents, policies, strides, reports, topology, export and import; and what misuse gets. */
#include "check.h"
#include <tent.h>

#define LEN (4 * MIB)
#define SEED UINT64_C(0x4245594f4e44)

static tent_engine_t here, there;
static uint8_t *local, *remote;
static uint64_t target;
static char json[1 << 20];

static tent_engine_t create(void) {
    tent_set_config("rpc_server_hostname", "127.0.0.1");
    tent_engine_t engine = tent_create_engine();
    if (!tent_available(engine)) FAIL("tent_create_engine: %s", tent_last_error());
    return engine;
}

static tent_request_t request(int opcode, uint64_t at, uint64_t len) {
    tent_request_t r;
    memset(&r, 0, sizeof r);
    r.opcode = opcode;
    r.source = local + at;
    r.target_id = target;
    r.target_offset = (uintptr_t)remote + at;
    r.length = len;
    return r;
}

static tent_submit_options_t options(void) {
    tent_submit_options_t o;
    memset(&o, 0, sizeof o);
    o.size = sizeof o;
    return o;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Submits one READ of everything and waits; the report is left in `json`. Gives the final state. */
static int run(const tent_submit_options_t *o) {
    tent_status_t s;
    tent_request_t r = request(OPCODE_READ, 0, LEN);
    uint64_t batch = tent_allocate_batch(here, 1);
    if (tent_submit_ex(here, batch, &r, 1, o) != 0) FAIL("tent_submit_ex: %s", tent_last_error());
    CHECK_INT(tent_wait(here, batch, 20000), 0);
    CHECK_INT(tent_overall_status(here, batch, &s), 0);
    int len = tent_batch_report_json(here, batch, json, sizeof json);
    CHECK(len > 0 && (size_t)len == strlen(json));
    CHECK_INT(tent_free_batch(here, batch), 0);
    CHECK_INT(tent_batch_report_json(here, batch, json, sizeof json), -1);
    return s.status;
}

static void has(const char *what) {
    if (!strstr(json, what)) FAIL("no %s in %.600s", what, json);
}

/* The sum of what the report says that rails have carried; several may have shared it. */
static long shared_out(void) {
    long sum = 0;
    const char *end = strstr(json, "],\"tasks\"");
    if (!end) FAIL("no rails in %.600s", json);
    for (const char *at = json; (at = strstr(at, "{\"bytes\":")) && at < end; at++) sum += atol(at + 9);
    return sum;
}

static void wishes(void) {
    tent_submit_options_t o = options();
    pattern_fill(remote, SEED, 0, LEN);
    CHECK_INT(run(NULL), STATUS_COMPLETED);
    has("\"queue_us\":null");
    has("\"rails\":[]");
    o.flags = TENT_SUBMIT_REPORT;
    CHECK_INT(run(&o), STATUS_COMPLETED);
    CHECK_PATTERN(local, SEED, 0, LEN);
    has("\"state\":\"completed\"");
    has("\"transport\":\"local\"");
    CHECK_INT(shared_out(), LEN);
    CHECK(strstr(json, "\"queue_us\":null") == NULL && strstr(json, "\"transfer_us\":null") == NULL);
    FACT("report: %.400s", json);
    o.transports = TENT_ALLOW_TCP;
    for (int intent = TENT_INTENT_UNSPEC; intent <= TENT_INTENT_STAGING_INTERNAL; intent++) {
        memset(local, 0, LEN);
        o.intent = intent;
        CHECK_INT(run(&o), STATUS_COMPLETED);
        has("\"transport\":\"tcp\"");
        CHECK_PATTERN(local, SEED, 0, LEN);
    }
    o.intent = 0;
    o.flags |= TENT_SUBMIT_PRIORITY | TENT_SUBMIT_URGENT;
    o.priority = 2;
    o.timeout_ns = 20000000000u;
    CHECK_INT(run(&o), STATUS_COMPLETED);
    o.transports = TENT_ALLOW_SHM; /* does not lead there: refused, not widened */
    tent_request_t r = request(OPCODE_READ, 0, LEN);
    uint64_t batch = tent_allocate_batch(here, 1);
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    CHECK_INT(tent_free_batch(here, batch), 0);
}

static void deadlines(void) {
    tent_submit_options_t o = options();
    o.flags = TENT_SUBMIT_REPORT;
    o.transports = TENT_ALLOW_TCP;
    o.deadline_ns = 1; /* long ago */
    CHECK_INT(run(&o), STATUS_TIMEOUT);
    has("\"state\":\"timed_out\"");
    CHECK(strstr(json, "\"reason\":\"\"") == NULL);
    FACT("past deadline: %.400s", json);
    o.deadline_ns = now_ns() + 20000000000u;
    CHECK_INT(run(&o), STATUS_COMPLETED);
    o.timeout_ns = 1; /* what comes first counts */
    CHECK_INT(run(&o), STATUS_TIMEOUT);
    has("\"state\":\"timed_out\"");
}

static void policies(void) {
    tent_submit_options_t o = options();
    static const char rules[] =
        "[{\"name\": \"late\", \"intent_type\": \"background_prefetch\", \"transports\": [\"tcp\"]},"
        " {\"name\": \"big\", \"min_size\": 4194304, \"same_machine\": true, \"transports\": [\"tcp\", \"shm\"]},"
        " {\"name\": \"gpu\", \"local_memory\": \"cuda\", \"transports\": [\"nvlink\"], \"devices\": [\"mlx5_0\"]},"
        " {\"name\": \"near\", \"transports\": [\"local\"]}]";
    if (tent_set_policy(here, rules) != 0) FAIL("%s", tent_last_error());
    CHECK_INT(run(NULL), STATUS_COMPLETED); /* by rule big */
    has("\"transport\":\"tcp\"");
    o.policy = "near";
    CHECK_INT(run(&o), STATUS_COMPLETED);
    has("\"transport\":\"local\"");
    o.policy = "gpu"; /* nothing of it is here: anything goes */
    CHECK_INT(run(&o), STATUS_COMPLETED);
    has("\"transport\":\"local\"");
    o.policy = NULL;
    o.intent = TENT_INTENT_BACKGROUND_PREFETCH;
    CHECK_INT(run(&o), STATUS_COMPLETED);
    has("\"transport\":\"tcp\"");
    o.intent = 0;
    o.policy = "far";
    tent_request_t r = request(OPCODE_READ, 0, 16);
    uint64_t batch = tent_allocate_batch(here, 1);
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    CHECK(strstr(tent_last_error(), "late, big, gpu, near") != NULL);
    /* a request's own hint goes before the rule */
    r = request(OPCODE_READ, 0, 4096); /* rule near */
    r.transport_hint = TRANSPORT_TCP;
    CHECK_INT(tent_submit(here, batch, &r, 1), 0);
    CHECK_INT(tent_wait(here, batch, 20000), 0);
    CHECK(tent_batch_report_json(here, batch, json, sizeof json) > 0);
    has("\"transport\":\"tcp\"");
    CHECK_INT(tent_free_batch(here, batch), 0);
    CHECK_INT(tent_set_policy(here, "[{\"min_sise\": 1}]"), -1);
    CHECK(strstr(tent_last_error(), "min_sise") != NULL);
    CHECK_INT(run(NULL), STATUS_COMPLETED); /* the old ones stay */
    has("\"transport\":\"tcp\"");
    CHECK_INT(tent_set_policy(here, NULL), 0);
    CHECK_INT(run(NULL), STATUS_COMPLETED);
    has("\"transport\":\"local\"");
}

/* A matrix of rows there is gathered into dense rows here, and scattered back elsewhere. */
static void strides(void) {
    enum { ROWS = 64, ROW = 1000, PITCH = 4096 };
    tent_submit_options_t o = options();
    tent_strided_t s;
    pattern_fill(remote, SEED, 0, LEN);
    memset(local, 0, LEN);
    memset(&s, 0, sizeof s);
    s.opcode = OPCODE_READ;
    s.source = local + 7;
    s.source_stride = ROW;
    s.target_id = target;
    s.target_offset = (uintptr_t)remote + 13;
    s.target_stride = PITCH;
    s.length = ROW;
    s.count = ROWS;
    for (int round = 0; round < 2; round++) {
        uint64_t batch = tent_allocate_batch(here, ROWS);
        o.transports = round ? TENT_ALLOW_TCP : 0;
        CHECK_INT(tent_submit_strided(here, batch, &s, 1, &o), ROWS);
        CHECK_INT(tent_submit_strided(here, batch, &s, 1, &o), -1); /* no room: none is made */
        CHECK_INT(tent_wait(here, batch, 20000), 0);
        tent_status_t all;
        CHECK_INT(tent_overall_status(here, batch, &all), 0);
        CHECK_INT(all.status, STATUS_COMPLETED);
        CHECK_INT(all.transferred_bytes, ROWS * ROW);
        CHECK_INT(tent_free_batch(here, batch), 0);
        for (int row = 0; row < ROWS; row++)
            CHECK_PATTERN(local + 7 + row * ROW, SEED, 13 + (uint64_t)row * PITCH, ROW);
        for (int i = 0; i < 7; i++) CHECK(local[i] == 0 && local[7 + ROWS * ROW + i] == 0);
        memset(local, 0, LEN);
    }
    s.source_stride = s.target_stride = ROW; /* no gaps: one task */
    uint64_t batch = tent_allocate_batch(here, 1);
    CHECK_INT(tent_submit_strided(here, batch, &s, 1, NULL), 1);
    CHECK_INT(tent_wait(here, batch, 20000), 0);
    CHECK_PATTERN(local + 7, SEED, 13, ROWS * ROW);
    CHECK_INT(tent_free_batch(here, batch), 0);

    batch = tent_allocate_batch(here, 8);
    s.source_stride = ROW - 1; /* rows would overwrite each other */
    CHECK_INT(tent_submit_strided(here, batch, &s, 1, NULL), -1);
    CHECK(strstr(tent_last_error(), "overlap") != NULL);
    s.source_stride = PITCH;
    s.count = UINT64_MAX;
    CHECK_INT(tent_submit_strided(here, batch, &s, 1, NULL), -1);
    s.count = 3;
    s.target_stride = UINT64_MAX;
    CHECK_INT(tent_submit_strided(here, batch, &s, 1, NULL), -1);
    CHECK_INT(tent_submit_strided(here, batch, NULL, 1, NULL), -1);
    CHECK_INT(tent_submit_strided(NULL, batch, &s, 1, NULL), -1);
    s.count = 0;
    CHECK_INT(tent_submit_strided(here, batch, &s, 1, NULL), 0);
    CHECK_INT(tent_free_batch(here, batch), 0);
}

static void bad_options(void) {
    uint64_t batch = tent_allocate_batch(here, 8);
    tent_request_t r = request(OPCODE_READ, 0, 16);
    tent_submit_options_t o = options();
    struct {
        tent_submit_options_t o;
        uint64_t newer;
    } big;
    memset(&big, 0, sizeof big);
    big.o.size = sizeof big;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &big.o), 0);
    big.newer = 1;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &big.o), -1);
    CHECK(strstr(tent_last_error(), "does not know") != NULL);
    o.size = 0;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    CHECK(strstr(tent_last_error(), "sizeof") != NULL);
    o.size = SIZE_MAX;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    size_t only = sizeof only; /* the shortest options there are */
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, (tent_submit_options_t *)(void *)&only), 0);
    o = options();
    o.flags = UINT64_C(1) << 40;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    o = options();
    o.transports = 16;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    o = options();
    o.intent = 7;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    o.intent = -1;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    o = options();
    o.priority = 9; /* not looked at */
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), 0);
    o.flags = TENT_SUBMIT_PRIORITY;
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    o = options();
    o.notify_name = "alone";
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), -1);
    o.notify_message = "both";
    CHECK_INT(tent_submit_ex(here, batch, &r, 0, &o), -1);
    CHECK_INT(tent_submit_ex(here, batch, &r, 1, &o), 0);
    CHECK_INT(tent_wait(here, batch, 20000), 0);
    CHECK_INT(tent_free_batch(here, batch), 0);
    tent_notifi_info info = {0, NULL};
    for (int64_t end = now_ms() + 20000; info.num_records == 0;) {
        CHECK(now_ms() < end);
        tent_free_notifs(&info);
        CHECK_INT(tent_recv_notifs(there, &info), 0);
    }
    CHECK(!strcmp(info.records[0].name, "alone") && !strcmp(info.records[0].msg, "both"));
    tent_free_notifs(&info);
}

static void topology(void) {
    char tiny[8];
    int len = tent_topology_json(here, json, sizeof json);
    CHECK(len > 0 && (size_t)len == strlen(json));
    FACT("topology: %.700s", json);
    has("\"interfaces\":[");
    has("\"boot_id\":\"");
    has("\"near\":\"process\"");
    has("\"why\":\"the same process\"");
    CHECK_INT(tent_topology_json(here, tiny, sizeof tiny), tent_topology_json(here, NULL, 0));
    CHECK(strlen(tiny) == 7);
    CHECK_INT(tent_topology_json(here, NULL, 9), -1);
    CHECK_INT(tent_topology_json(NULL, json, sizeof json), -1);
    CHECK_INT(tent_batch_report_json(here, 1, json, sizeof json), -1);
    CHECK_INT(tent_batch_report_json(NULL, 1, json, sizeof json), -1);
    CHECK_INT(tent_probe(here, target), 0);
    CHECK_INT(tent_probe(here, 0), 0);
    CHECK_INT(tent_probe(here, 4711), -1);
    CHECK_INT(tent_probe(here, UINT64_MAX), -1);
    CHECK_INT(tent_probe(NULL, 0), -1);
    CHECK_INT(tent_set_policy(NULL, "[]"), -1);
}

/* `there` hands its description to a third engine, which reads its memory with it. */
static void exports(void) {
    size_t need = 0, len;
    uint64_t id = 0, again = 0;
    CHECK_INT(tent_export_segment(there, 0, NULL, &need), 0);
    CHECK(need > 100);
    uint8_t *blob = (uint8_t *)malloc(need + 1);
    len = need - 1;
    CHECK_INT(tent_export_segment(there, 0, blob, &len), -1);
    CHECK_INT(len, need);
    len = need + 1;
    blob[need] = '#';
    CHECK_INT(tent_export_segment(there, 0, blob, &len), 0);
    CHECK(len <= need && blob[need] == '#');
    CHECK_INT(tent_export_segment(there, 0, NULL, NULL), -1);
    len = need;
    CHECK_INT(tent_export_segment(there, 0, NULL, &len), -1);
    len = need;
    CHECK_INT(tent_export_segment(there, 4711, blob, &len), -1);
    CHECK_INT(tent_export_segment(NULL, 0, blob, &len), -1);

    len = need;
    CHECK_INT(tent_export_segment(there, 0, blob, &len), 0);
    tent_engine_t third = create();
    uint8_t *memory = map_bytes(LEN);
    CHECK_INT(tent_register_memory(third, memory, LEN), 0);
    if (tent_import_segment(third, &id, blob, len) != 0) FAIL("%s", tent_last_error());
    CHECK(id > 0);
    CHECK_INT(tent_import_segment(third, &again, blob, len), 0);
    CHECK_INT(again, id);
    char name[128];
    CHECK_INT(tent_segment_name(there, name, sizeof name), 0);
    CHECK_INT(tent_open_segment(third, &again, name), 0);
    CHECK_INT(again, id);
    CHECK_INT(tent_import_segment(there, &again, blob, len), 0); /* its own */
    CHECK_INT(again, LOCAL_SEGMENT_ID);
    uint64_t batch = tent_allocate_batch(third, 1);
    tent_request_t r = request(OPCODE_READ, 0, LEN);
    r.source = memory;
    r.target_id = id;
    tent_submit_options_t o = options();
    o.transports = TENT_ALLOW_TCP;
    pattern_fill(remote, SEED, 0, LEN);
    CHECK_INT(tent_submit_ex(third, batch, &r, 1, &o), 0);
    CHECK_INT(tent_wait(third, batch, 20000), 0);
    CHECK_PATTERN(memory, SEED, 0, LEN);
    CHECK_INT(tent_free_batch(third, batch), 0);

    for (size_t i = 0; i < len; i += 1 + len / 64) {
        blob[i] ^= 0x20;
        CHECK_INT(tent_import_segment(third, &again, blob, len), -1);
        blob[i] ^= 0x20;
        CHECK_INT(tent_import_segment(third, &again, blob, i), -1);
    }
    CHECK_INT(tent_import_segment(third, &again, blob, SIZE_MAX), -1);
    CHECK_INT(tent_import_segment(third, &again, NULL, len), -1);
    CHECK_INT(tent_import_segment(third, NULL, blob, len), -1);
    CHECK_INT(tent_import_segment(NULL, &again, blob, len), -1);
    tent_destroy_engine(third);
    free(blob);
}

int main(void) {
    char name[128];
    watchdog(100);
    here = create();
    there = create();
    local = map_bytes(LEN);
    remote = map_bytes(LEN);
    CHECK_INT(tent_register_memory(here, local, LEN), 0);
    CHECK_INT(tent_register_memory(there, remote, LEN), 0);
    CHECK_INT(tent_segment_name(there, name, sizeof name), 0);
    if (tent_open_segment(here, &target, name) != 0) FAIL("%s", tent_last_error());
    STEP("wishes");
    wishes();
    STEP("deadlines");
    deadlines();
    STEP("policies");
    policies();
    STEP("strides");
    strides();
    STEP("bad options");
    bad_options();
    STEP("topology");
    topology();
    STEP("export and import");
    exports();
    tent_destroy_engine(there);
    tent_destroy_engine(here);
    return pass("tent_beyond");
}
