/* The everyday use of tent.h: two engines, memory, a batch with a deadline, and what became of it.
 *
 *   gcc -std=c11 tent.c $(pkg-config --cflags --libs tent) -o tent_example && ./tent_example
 *
 * Both engines are in one process only to keep it short: in two, the name travels by whatever you have. */
#include <stdio.h>
#include <string.h>

#include <tent.h>

#define LEN ((size_t)1 << 20)

static int fail(const char *what) {
    fprintf(stderr, "tent: %s: %s\n", what, tent_last_error());
    return 1;
}

int main(void) {
    static char local[1 << 20], json[1 << 16];
    char name[256];
    void *memory = NULL;
    uint64_t peer;

    /* Settings are this thread's, for the engines that it makes from now on. */
    tent_set_config("rpc_server_hostname", "127.0.0.1");
    tent_engine_t server = tent_create_engine(), client = tent_create_engine();
    if (!tent_available(server) || !tent_available(client)) return fail("no engine");

    /* Memory that the engine allocates can be mapped by peers on this host; other memory is registered. */
    if (tent_allocate_memory(server, &memory, LEN, "*") != 0) return fail("no memory");
    memset(memory, 'x', LEN);
    if (tent_register_memory_with_perm(client, local, LEN, PERM_LOCAL_READ_WRITE) != 0) return fail("cannot register");

    if (tent_segment_name(server, name, sizeof name) != 0) return fail("no name");
    if (tent_open_segment(client, &peer, name) != 0) return fail("cannot open the segment");

    /* Zero the structs: fields that are 0 mean "as usual". */
    tent_request_t read;
    memset(&read, 0, sizeof read);
    read.opcode = OPCODE_READ;
    read.source = local;
    read.target_id = peer;
    read.target_offset = (uint64_t)(uintptr_t)memory; /* or from tent_get_segment_info */
    read.length = LEN;
    tent_submit_options_t options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.timeout_ns = 5000000000u;
    options.intent = TENT_INTENT_FOREGROUND_GET;
    options.flags = TENT_SUBMIT_REPORT;

    tent_status_t status = {STATUS_FAILED, 0};
    uint64_t batch = tent_allocate_batch(client, 1);
    if (tent_submit_ex(client, batch, &read, 1, &options) != 0) return fail("cannot submit");
    if (tent_wait(client, batch, 10000) != 0 || tent_overall_status(client, batch, &status) != 0) return fail("cannot wait");
    if (status.status != STATUS_COMPLETED) return fail("the READ did not complete");
    printf("read %llu bytes, the last is '%c'\n", (unsigned long long)status.transferred_bytes, local[LEN - 1]);
    if (tent_batch_report_json(client, batch, json, sizeof json) < 0) return fail("no report");
    printf("%s\n", json);

    tent_free_batch(client, batch);
    tent_unregister_memory(client, local, LEN);
    tent_free_memory(server, memory);
    tent_destroy_engine(client);
    tent_destroy_engine(server);
    return 0;
}
