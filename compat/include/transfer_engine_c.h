/*
 * Copyright 2026 the tent authors
 *
 * Licensed under the Apache License, Version 2.0 (the "License");
 * you may not use this file except in compliance with the License.
 * You may obtain a copy of the License at
 *
 *     http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software
 * distributed under the License is distributed on an "AS IS" BASIS,
 * WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
 * See the License for the specific language governing permissions and
 * limitations under the License.
 */

/*
 * The Mooncake Transfer Engine C API, as libtransfer_engine.so of tent offers it. Sources written for
 * Mooncake's header of the same name compile against this one unchanged.
 *
 * Two families of return values:
 *   - a negative number on failure (engines, segments, memory, notifications);
 *   - a positive number on failure (submit, status, free of a batch).
 * Both use 0 for success. What went wrong, in words: tent_last_error() of tent.h.
 *
 * Strings passed in are copied: they may be freed as soon as the function returns. NULL where a string,
 * an array or a result is expected is an error, never a crash. Engines and batches are numbers that are
 * checked: a freed or invented one is an error. Every function may be called from any thread.
 */

#ifndef TRANSFER_ENGINE_C
#define TRANSFER_ENGINE_C

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ids. Macros and not typedefs, because sources in use test them with #ifdef. */
#define segment_handle_t int32_t
#define segment_id_t int32_t
#define batch_id_t uint64_t

#define LOCAL_SEGMENT (0)          /* the engine's own memory */
#define INVALID_BATCH UINT64_MAX   /* what allocateBatchID gives when it fails */

/* Values of transfer_request.opcode, seen from the engine that submits. */
#define OPCODE_READ (0)            /* peer to source */
#define OPCODE_WRITE (1)           /* source to peer */

/*
 * Values of transfer_status.status. PENDING and INVALID are never given; a task that was canceled or
 * timed out is FAILED, unless the process runs with TENT_COMPAT_STATUS=native.
 */
#define STATUS_WAITING (0)
#define STATUS_PENDING (1)
#define STATUS_INVALID (2)
#define STATUS_CANCELED (3)
#define STATUS_COMPLETED (4)
#define STATUS_TIMEOUT (5)
#define STATUS_FAILED (6)

typedef void *transfer_engine_t;
typedef void *transport_t;

struct transfer_request {
    int opcode;
    void *source;            /* local range; must lie inside one registered range */
    segment_id_t target_id;  /* whose memory */
    uint64_t target_offset;  /* address in the peer, absolute */
    uint64_t length;         /* bytes; 0 completes at once */
};
typedef struct transfer_request transfer_request_t;

struct transfer_status {
    int status;
    uint64_t transferred_bytes;
};
typedef struct transfer_status transfer_status_t;

struct notify_msg {
    char *name;              /* by convention the sender's name */
    char *msg;
};
typedef struct notify_msg notify_msg_t;

struct buffer_entry {
    void *addr;
    size_t length;
};
typedef struct buffer_entry buffer_entry_t;

struct nic_load_stat {
    char device_name[64];
    uint64_t inflight_bytes;
    double ewma_bandwidth_bps;
};
typedef struct nic_load_stat nic_load_stat_t;

/* Declared for sources that name it; no function takes or gives one. */
struct segment_desc {
    int type;
    union {
        struct {
            void *addr;
            uint64_t size;
            const char *location;
        } rdma;
        struct {
            const char *file_path;
            const char *subsystem_name;
            const char *proto;
            const char *ip;
            uint64_t port;
        } nvmeof;
    } desc_;
};
typedef struct segment_desc segment_desc_t;

/* ---- engines ---- */

/*
 * metadata_conn_string: "P2PHANDSHAKE", or a store: etcd://host:port[,host:port], redis://host[:port],
 * http://host:port/metadata. local_server_name: with a store the name of the segment, verbatim; else the
 * host name or address under which peers reach this process, with or without a port (which is not used: the
 * engine takes a free one, see getLocalIpAndPort). ip_or_host_name and rpc_port have no effect. auto_discover
 * not 0: discoverTopology.
 * NULL on failure, within 5 s of a store that is dead.
 */
transfer_engine_t createTransferEngine(const char *metadata_conn_string,
                                       const char *local_server_name,
                                       const char *ip_or_host_name,
                                       uint64_t rpc_port, int auto_discover);

/* Cancels what runs, waits for quiet, frees everything. NULL or an engine that is gone: no effect. */
void destroyTransferEngine(transfer_engine_t engine);

/* Fills the topology: memory nodes and the interfaces next to them. */
int discoverTopology(transfer_engine_t engine);

/* "host:port" of this engine, cut to buf_len; the name that peers give to openSegment. */
int getLocalIpAndPort(transfer_engine_t engine, char *buf_out, size_t buf_len);

/*
 * "tcp" is always available; the same name gives the same handle. args is NULL or {priority matrix as
 * JSON, NULL}. Which transports carry the data between two engines of this library is the runtime's
 * choice. NULL for a transport that is not available.
 */
transport_t installTransport(transfer_engine_t engine, const char *proto,
                             void **args);

/* No effect; 0. */
int uninstallTransport(transfer_engine_t engine, const char *proto);

/* On SIGTERM or SIGINT shuts this engine down, then ends the process with status 128 + signal. */
void enableGracefulShutdown(transfer_engine_t engine);

/* ---- segments ---- */

/* An id, or -1. The same name gives the same id; the own name gives LOCAL_SEGMENT. May wait. */
segment_id_t openSegment(transfer_engine_t engine, const char *segment_name);

/* The same, and asks the peer for its description again. */
segment_id_t openSegmentNoCache(transfer_engine_t engine,
                                const char *segment_name);

/* No effect; 0. The id stays valid. */
int closeSegment(transfer_engine_t engine, segment_handle_t segment_id);

/* No effect; 0. */
int warmupEfaSegment(transfer_engine_t engine, const char *segment_name);

/* Forgets a name: the next openSegment asks the peer and gives a new id. */
int removeLocalSegment(transfer_engine_t engine, const char *segment_name);

/* Asks all open peers for their descriptions again. */
int syncSegmentCache(transfer_engine_t engine);

/* ---- memory ---- */

/*
 * location: "*" or "cpu:N" and so on. remote_accessible 0: no peer may touch it. -1 for length 0, -7 for
 * a range that overlaps a registered one.
 */
int registerLocalMemory(transfer_engine_t engine, void *addr, size_t length,
                        const char *location, int remote_accessible);

/* addr is the first byte of a registered range; -3 if there is none. */
int unregisterLocalMemory(transfer_engine_t engine, void *addr);

/* All or none. */
int registerLocalMemoryBatch(transfer_engine_t engine,
                             buffer_entry_t *buffer_list, size_t buffer_len,
                             const char *location);

/* Goes on after an error and returns the first. */
int unregisterLocalMemoryBatch(transfer_engine_t engine, void **addr_list,
                               size_t addr_len);

/* ---- transfers ---- */

/* batch_size: how many tasks the batch may ever hold. */
batch_id_t allocateBatchID(transfer_engine_t engine, size_t batch_size);

/*
 * Appends count tasks, all or none, and returns without waiting for the data. 1: a bad argument, a batch
 * that is none, an unknown target, an opcode other than READ and WRITE; 2: more than the batch holds;
 * 3: source is not registered; 8: no transport reaches the target.
 */
int submitTransfer(transfer_engine_t engine, batch_id_t batch_id,
                   struct transfer_request *entries, size_t count);

/* The same; when the whole batch has completed, notify_msg goes to the target of entries[0]. */
int submitTransferWithNotify(transfer_engine_t engine, batch_id_t batch_id,
                             struct transfer_request *entries, size_t count,
                             notify_msg_t notify_msg);

/* task_id counts the batch's tasks from 0. *status is filled in any case: FAILED if the call fails. */
int getTransferStatus(transfer_engine_t engine, batch_id_t batch_id,
                      size_t task_id, struct transfer_status *status);

/* 4 while a task is unfinished. */
int freeBatchID(transfer_engine_t engine, batch_id_t batch_id);

/* ---- notifications ---- */

/* Takes all that have come. NULL and *size 0 if there are none. */
notify_msg_t *getNotifsFromEngine(transfer_engine_t engine, int *size);

/* Frees what getNotifsFromEngine gave; (NULL, 0) is fine. */
int freeNotifsMsgBuf(notify_msg_t *msg, int size);

/* Sends a message and waits for the answer. -200: no such segment. */
int genNotifyInEngine(transfer_engine_t engine, uint64_t target_id,
                      notify_msg_t notify_msg);

/* ---- reports ---- */

/* One entry per local interface. *count: in, room in stats; out, how many there are. */
int getNicLoadStats(transfer_engine_t engine, nic_load_stat_t *stats,
                    size_t *count);

/* The links of this host as text or, if json is not 0, as JSON; cut to buf_len. */
int showLinks(transfer_engine_t engine, char *buf_out, size_t buf_len,
              int json);

#ifdef __cplusplus
}
#endif

#endif /* TRANSFER_ENGINE_C */
