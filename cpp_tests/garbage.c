/* Whatever bytes arrive at an engine's ports, it serves its real peers, keeps its memory, and ends up
 * with the descriptors it began with (I11, I12). */
#include "peer.h"
#include "wire.h"

#define LEN (1 * MIB)
#define LOCAL_SEED UINT64_C(0x4c4f43414c)

typedef struct {
    const char *what;
    const void *bytes;
    size_t len;
} garbage_t;

static transfer_engine_t engine;
static peer_t peer;
static segment_id_t target;
static uint8_t *local;
static uint64_t remote;

/* The engine under attack still does its work, at once. */
static void still_serves(const char *after) {
    int64_t begin = now_ms();
    transfer_request_t r = te_request(OPCODE_READ, local, target, remote, LEN);
    te_move(engine, &r, 1, 1, 20000);
    CHECK_PATTERN(local, PEER_SEED, 0, LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    CHECK_INT(openSegmentNoCache(engine, peer.name), target);
    free(fetch_descriptor(port_of(peer.name)));
    int64_t took = now_ms() - begin;
    if (took > 8000) FAIL("after %s a transfer and two look-ups take %lld ms", after, (long long)took);
}

/* Each kind three ways: closed at once, half closed, and left open by one who never says more. */
static void throw_at(int port, const char *port_name, const garbage_t *g, int *left_open) {
    int fd = dial(port);
    if (fd < 0) FAIL("the %s port refuses before %s", port_name, g->what);
    send_some(fd, g->bytes, g->len);
    close(fd);
    fd = dial(port);
    if (fd < 0) FAIL("the %s port refuses after %s", port_name, g->what);
    send_some(fd, g->bytes, g->len);
    shutdown(fd, SHUT_WR);
    long answer = drain(fd, 15000);
    if (answer < 0) FAIL("the %s port keeps a half-closed connection for 15 s after %s", port_name, g->what);
    FACT("%s port: %s: answered with %ld bytes, closed", port_name, g->what, answer);
    close(fd);
    *left_open = dial(port);
    if (*left_open < 0) FAIL("the %s port refuses after %s", port_name, g->what);
    send_some(*left_open, g->bytes, g->len);
}

static uint8_t noise[4096], zeros[4096], ones[4096], tls[200], half_frame[12], huge[4096], zero_frame[9],
    odd_type[11], open_brackets[9 + 200000], not_json[9 + 8];
static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: x\r\n\r\n";
static uint8_t wild_read[24], wild_write[64], empty_request[24], wrapping[24], endless_write[64], half_header[10],
    v2_wild[24], inside_out[24], unknown_op[24];

static void make_garbage(void) {
    pattern_fill(noise, 99, 0, sizeof noise);
    memset(ones, 0xff, sizeof ones);
    memcpy(tls, "\x16\x03\x01\x00\xc3\x01\x00\x00\xbf\x03\x03", 11); /* ClientHello */
    pattern_fill(tls + 11, 98, 0, sizeof tls - 11);
    put_u64(half_frame, 100);
    memcpy(half_frame + 8, "\x01{\"n", 4);
    put_u64(huge, UINT64_C(1) << 60);
    huge[8] = 1;
    put_u64(odd_type, 3);
    memcpy(odd_type + 8, "\x7f{}", 3);
    put_u64(open_brackets, 1 + 200000);
    open_brackets[8] = 1;
    memset(open_brackets + 9, '[', 200000);
    put_u64(not_json, 9);
    memcpy(not_json + 8, "\x01{\"a\":\xff\xfe}", 9);
    data_header(wild_read, 4096, 4096, DATA_READ);
    data_header(wild_write, 32, 4096, DATA_WRITE);
    data_header(empty_request, 0, 4096, DATA_READ | DATA_V2);
    data_header(wrapping, UINT64_MAX, 4096, DATA_READ);
    data_header(endless_write, UINT64_C(1) << 60, 4096, DATA_WRITE | DATA_V2);
    data_header(v2_wild, 4096, 4096, DATA_WRITE | DATA_V2);
    data_header(inside_out, UINT64_MAX, remote, DATA_WRITE | DATA_V2);
    data_header(unknown_op, 8, remote + LEN, 0x55);
}

static const garbage_t kinds[] = {
    {"nothing", zeros, 0},
    {"one zero", zeros, 1},
    {"zeros", zeros, sizeof zeros},
    {"ones", ones, sizeof ones},
    {"noise", noise, sizeof noise},
    {"HTTP", http, sizeof http - 1},
    {"TLS hello", tls, sizeof tls},
    {"half a frame", half_frame, sizeof half_frame},
    {"a frame of 2^60 bytes", huge, sizeof huge},
    {"an empty frame", zero_frame, sizeof zero_frame},
    {"a frame of unknown type", odd_type, sizeof odd_type},
    {"200000 open brackets", open_brackets, sizeof open_brackets},
    {"a frame that is not JSON", not_json, sizeof not_json},
    {"READ of foreign memory", wild_read, sizeof wild_read},
    {"WRITE of foreign memory", wild_write, sizeof wild_write},
    {"request of no bytes", empty_request, sizeof empty_request},
    {"READ that wraps", wrapping, sizeof wrapping},
    {"WRITE of 2^60 bytes", endless_write, sizeof endless_write},
    {"v2 WRITE of foreign memory", v2_wild, sizeof v2_wild},
    {"v2 WRITE that wraps out of a region", inside_out, sizeof inside_out},
    {"unknown operation behind a region", unknown_op, sizeof unknown_op},
    {"half a header", half_header, sizeof half_header},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Many connections that say nothing: real peers are still served, and nothing grows without bound. */
static void crowd(int port, const char *name) {
    enum { CROWD = 400 };
    int fds[CROWD], open = 0;
    for (int i = 0; i < CROWD; i++) {
        fds[i] = dial(port);
        if (fds[i] < 0) continue;
        open++;
        if (i % 2) send_some(fds[i], huge, 5);
    }
    still_serves("a crowd");
    FACT("%s port: a crowd of %d silent connections does not keep others out", name, open);
    for (int i = 0; i < CROWD; i++)
        if (fds[i] >= 0) close(fds[i]);
}

static void counts(int *fds, int *threads, long *kib) {
    char answer[PEER_ANSWER];
    peer_ask(&peer, answer, "counts");
    if (sscanf(answer, "OK %d %d %ld", fds, threads, kib) != 3) FAIL("the peer says: %s", answer);
}

static bool back_to(int fds, int threads) {
    int f, t;
    long k;
    counts(&f, &t, &k);
    return f <= fds && t <= threads;
}

int main(int argc, char **argv) {
    if (peer_asked(argc, argv)) return peer_main(argc, argv);
    static const char *const names[2] = {"RPC", "data"};
    int ports[2], left[2][KINDS], fds, threads, fds_now, threads_now;
    long kib, kib_now;
    watchdog(170);
    STEP("start");
    peer_start(&peer);
    remote = peer_region(&peer, "map", LEN, 1);
    make_garbage();
    engine = te_create();
    local = map_bytes(LEN);
    pattern_fill(local, LOCAL_SEED, 0, LEN);
    te_register(engine, local, LEN);
    target = te_open(engine, peer.name);
    ports[0] = port_of(peer.name);
    char *descriptor = fetch_descriptor(ports[0]);
    ports[1] = (int)json_number(descriptor, "tcp_data_port");
    free(descriptor);
    CHECK(ports[1] > 0);
    still_serves("nothing");
    counts(&fds, &threads, &kib);
    for (int p = 0; p < 2; p++)
        for (int k = 0; k < KINDS; k++) {
            STEP(kinds[k].what);
            throw_at(ports[p], names[p], &kinds[k], &left[p][k]);
            if (k % 4 == 3) still_serves(kinds[k].what);
        }
    STEP("while all of them stay open");
    still_serves("all of it");
    for (int p = 0; p < 2; p++)
        for (int k = 0; k < KINDS; k++) close(left[p][k]);
    for (int p = 0; p < 2; p++) {
        STEP("a crowd");
        crowd(ports[p], names[p]);
    }
    STEP("afterwards");
    PEER_OK(&peer, "check 0");
    CHECK_BY(20000, back_to(fds + 2, threads)); /* at most a connection of our own more */
    counts(&fds_now, &threads_now, &kib_now);
    FACT("descriptors %d -> %d, threads %d -> %d, memory +%ld KiB", fds, fds_now, threads, threads_now, kib_now - kib);
    CHECK(kib_now - kib < 64 * 1024);
    peer_stop(&peer);
    destroyTransferEngine(engine);
    return pass("garbage");
}
