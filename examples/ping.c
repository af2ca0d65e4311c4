/* Two processes say hello through each other's memory, by the C API of Mooncake's Transfer Engine plus
 * four calls of tent.h.
 *
 *   ping                 starts both by itself
 *   ping server          prints its name and waits for one client
 *   ping client NAME     reads the server's greeting, writes an answer, says so
 *
 *   gcc -std=c11 -D_GNU_SOURCE ping.c $(pkg-config --cflags --libs tent) -o ping
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <tent.h>
#include <transfer_engine_c.h>

#define LINE 4096 /* bytes of the greeting, and of the answer behind it */
#define WAIT_MS 30000

static int fail(const char *what) {
    fprintf(stderr, "ping: %s: %s\n", what, tent_last_error());
    return 1;
}

/* An engine on the loopback address that needs no metadata server. */
static transfer_engine_t start(void) {
    transfer_engine_t engine = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 0);
    if (engine && installTransport(engine, "tcp", NULL)) return engine;
    destroyTransferEngine(engine);
    return NULL;
}

static int server(void) {
    char name[128];
    void *memory = NULL;
    notify_msg_t *inbox = NULL;
    int count = 0;
    transfer_engine_t engine = start();
    if (!engine) return fail("no engine");
    /* Memory that the engine allocates can be mapped by peers on this host; any other memory would do,
     * after registerLocalMemory. */
    if (tent_allocate_memory(engine, &memory, 2 * LINE, "*") != 0) return fail("no memory");
    snprintf(memory, LINE, "hello, this is process %d", (int)getpid());
    getLocalIpAndPort(engine, name, sizeof name);
    printf("%s\n", name); /* what a client has to know */
    fflush(stdout);

    /* The message that follows a transfer arrives after its bytes. */
    for (int ms = 0; ms < WAIT_MS && !inbox; ms++) {
        inbox = getNotifsFromEngine(engine, &count);
        if (!inbox) poll(NULL, 0, 1);
    }
    if (inbox) printf("server: \"%s\" says %s; my memory now holds \"%s\"\n", inbox[0].name, inbox[0].msg, (char *)memory + LINE);
    int rc = inbox ? 0 : fail("nobody came");
    freeNotifsMsgBuf(inbox, count);
    tent_free_memory(engine, memory);
    destroyTransferEngine(engine);
    return rc;
}

/* Moves one line, and tells the peer when `message` is given. */
static bool move(transfer_engine_t engine, int opcode, char *here, segment_id_t peer, uint64_t there,
                 notify_msg_t *message) {
    transfer_request_t request = {opcode, here, peer, there, LINE};
    transfer_status_t status = {STATUS_FAILED, 0};
    batch_id_t batch = allocateBatchID(engine, 1);
    int rc = message ? submitTransferWithNotify(engine, batch, &request, 1, *message)
                     : submitTransfer(engine, batch, &request, 1);
    if (rc == 0 && tent_wait(engine, batch, WAIT_MS) == 0) getTransferStatus(engine, batch, 0, &status);
    freeBatchID(engine, batch);
    return status.status == STATUS_COMPLETED;
}

static int client(const char *server_name) {
    static char lines[2 * LINE];
    static char rails[16384];
    char self[128], text[] = "the answer is written";
    tent_segment_info_t info;
    transfer_engine_t engine = start();
    if (!engine) return fail("no engine");
    segment_id_t peer = openSegment(engine, server_name);
    if (peer < 0) return fail("cannot open the server's segment");
    if (registerLocalMemory(engine, lines, sizeof lines, "*", 1) != 0) return fail("cannot register memory");
    if (tent_get_segment_info(engine, (uint64_t)peer, &info) != 0 || info.num_buffers < 1) return fail("no buffers");
    uint64_t there = info.buffers[0].base; /* remote addresses are absolute */
    tent_free_segment_info(&info);

    if (!move(engine, OPCODE_READ, lines, peer, there, NULL)) return fail("READ failed");
    printf("client: read \"%s\"\n", lines);
    snprintf(lines + LINE, LINE, "hello back from process %d", (int)getpid());
    snprintf(self, sizeof self, "client %d", (int)getpid());
    notify_msg_t message = {self, text};
    if (!move(engine, OPCODE_WRITE, lines + LINE, peer, there + LINE, &message)) return fail("WRITE failed");
    if (tent_rails_json(engine, rails, sizeof rails) < 0) return fail("no rails");
    printf("client: moved over %s\n", rails);
    unregisterLocalMemory(engine, lines);
    destroyTransferEngine(engine);
    return 0;
}

/* Starts a server as another process, and is its client. */
static int both(void) {
    char name[256] = "", text[4096], self[4096];
    int out[2], status = 1;
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0 || pipe(out) != 0) return fail("cannot start a server");
    self[length] = 0;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execl(self, self, "server", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *from = fdopen(out[0], "r");
    if (!from || !fgets(name, sizeof name, from)) return fail("the server does not start");
    name[strcspn(name, "\n")] = 0;
    printf("the server is %s, process %d\n", name, (int)pid);
    int rc = client(name);
    while (fgets(text, sizeof text, from)) fputs(text, stdout);
    fclose(from);
    waitpid(pid, &status, 0);
    return rc != 0 ? rc : WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv) {
    if (argc == 1) return both();
    if (argc == 2 && !strcmp(argv[1], "server")) return server();
    if (argc == 3 && !strcmp(argv[1], "client")) return client(argv[2]);
    fprintf(stderr, "usage: ping | ping server | ping client NAME\n");
    return 2;
}
