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
 * TENT's C API: its functions, structs and macros by name, argument order and layout, and what tent offers
 * beyond them. An engine, a batch and a segment are the same as those of the Mooncake Transfer Engine C API
 * (transfer_engine_c.h); both headers may be included together, in any order.
 *
 * Functions return 0, or -1 with the reason in tent_last_error(), unless they say otherwise. Handles and ids
 * are checked: a freed or invented one is an error. Every function may be called from any thread.
 *
 * Made by cbindgen from compat/src/tent.rs and compat/src/tent/; do not edit.
 */

#ifndef TENT_H
#define TENT_H

#include <stddef.h>
#include <stdint.h>

// Ids. Macros, as in TENT.
#define tent_batch_id_t uint64_t
#define tent_segment_id_t uint64_t
#define TENT_LOCAL_SEGMENT_ID 0ull
#if !defined(__cplusplus) && !defined(LOCAL_SEGMENT_ID)
#define LOCAL_SEGMENT_ID (0) // the engine's own memory; a constant of that name exists in C++
#endif

// tent_request.opcode, seen from the engine that submits.
#ifndef OPCODE_READ
#define OPCODE_READ (0)
#endif
#ifndef OPCODE_WRITE
#define OPCODE_WRITE (1)
#endif

// tent_status.status; INVALID is never given.
#ifndef STATUS_WAITING
#define STATUS_WAITING (0)
#define STATUS_PENDING (1)
#define STATUS_INVALID (2)
#define STATUS_CANCELED (3)
#define STATUS_COMPLETED (4)
#define STATUS_TIMEOUT (5)
#define STATUS_FAILED (6)
#endif

// tent_segment_info.type; there are no files yet.
#ifndef TYPE_MEMORY
#define TYPE_MEMORY (0)
#define TYPE_FILE (1)
#endif

// What peers may do with memory.
#ifndef PERM_LOCAL_READ_WRITE
#define PERM_LOCAL_READ_WRITE (0)  // nothing
#define PERM_GLOBAL_READ_ONLY (1)  // read it
#define PERM_GLOBAL_READ_WRITE (2) // read and write it
#endif

// tent_request.transport_hint and tent_memory_options.transport_type. SHM and TCP are here.
#ifndef TRANSPORT_UNSPEC
#define TRANSPORT_UNSPEC (0)
#define TRANSPORT_RDMA (1)
#define TRANSPORT_MNNVL (2)
#define TRANSPORT_SHM (3)
#define TRANSPORT_NVLINK (4)
#define TRANSPORT_GDS (5)
#define TRANSPORT_IOURING (6)
#define TRANSPORT_TCP (7)
#define TRANSPORT_ASCEND_DIRECT (8)
#define TRANSPORT_SUNRISE_LINK (9)
#define TRANSPORT_TPU (10)
#define TRANSPORT_UB (11)
#define TRANSPORT_MPCOMM (12)
#endif


// Nothing has moved yet.
#define TENT_STATUS_WAITING 0

// Bytes are under way.
#define TENT_STATUS_PENDING 1

// The application gave it up.
#define TENT_STATUS_CANCELED 3

// Every byte has landed.
#define TENT_STATUS_COMPLETED 4

// The deadline came first.
#define TENT_STATUS_TIMEOUT 5

// No path could bring all bytes.
#define TENT_STATUS_FAILED 6

// `tent_segment_info.type` of memory.
#define TENT_TYPE_MEMORY 0

// `tent_submit_options.flags`: the priority of the options counts, and not the requests' or the intent's.
#define TENT_SUBMIT_PRIORITY 1

// `tent_submit_options.flags`: the requests are urgent, whatever their size.
#define TENT_SUBMIT_URGENT 2

// `tent_submit_options.flags`: keep times, reasons and the shares of rails for `tent_batch_report_json`.
#define TENT_SUBMIT_REPORT 4

// `tent_submit_options.transports`: a copy within the process.
#define TENT_ALLOW_LOCAL 1

// `tent_submit_options.transports`: a mapping of the peer's memory, on one host.
#define TENT_ALLOW_SHM 2

// `tent_submit_options.transports`: a copy across processes by the kernel, on one host.
#define TENT_ALLOW_CMA 4

// `tent_submit_options.transports`: TCP.
#define TENT_ALLOW_TCP 8

// `tent_submit_options.intent`: nothing is said.
#define TENT_INTENT_UNSPEC 0

// Somebody waits for it now: high priority, urgent up to 1 MiB.
#define TENT_INTENT_FOREGROUND_GET 1

// It may be wanted later: low priority, ten times the usual time limit.
#define TENT_INTENT_BACKGROUND_PREFETCH 2

// Data that moves to another place: as a prefetch.
#define TENT_INTENT_MIGRATION 3

// State that is put away: as a prefetch.
#define TENT_INTENT_CHECKPOINT 4

// The weights of a model: medium priority, ten times the usual time limit.
#define TENT_INTENT_WEIGHT_LOADING 5

// One hop of a longer way: as a foreground get.
#define TENT_INTENT_STAGING_INTERNAL 6

// An engine; the same value as `transfer_engine_t`.
typedef void *tent_engine_t;

// Load of one rail.
typedef struct tent_nic_load_stat {
  // The rail, as `tent_rails_json` names it; terminated, cut if longer.
  char device_name[64];
  // Bytes posted and not yet completed.
  uint64_t inflight_bytes;
  // Smoothed delivery rate, in bytes per second.
  double ewma_bandwidth_bps;
} tent_nic_load_stat;

// As TENT names it.
typedef struct tent_nic_load_stat tent_nic_load_stat_t;

// A registered range of a segment.
typedef struct tent_buffer_info {
  // First byte, an address in the owner: the `target_offset` of a request.
  uint64_t base;
  // Bytes.
  uint64_t length;
  // Where the memory is, terminated, cut if longer.
  char location[64];
} tent_buffer_info;

// What is known of a segment.
typedef struct tent_segment_info {
  // `TYPE_MEMORY`.
  int type;
  // Entries of `buffers`.
  int num_buffers;
  // Free with `tent_free_segment_info`.
  struct tent_buffer_info *buffers;
} tent_segment_info;

// As TENT names it.
typedef struct tent_segment_info tent_segment_info_t;

// How memory is to be allocated or registered. Must be zeroed before it is filled.
typedef struct tent_memory_options {
  // `*`, `cpu:0` …; empty means `*`.
  char location[64];
  // What peers may do: a `PERM_*`. Zeroed options keep them out.
  int permission;
  // `TRANSPORT_UNSPEC`, `TRANSPORT_SHM` or `TRANSPORT_TCP`: memory of this library serves both. Others
  // are refused.
  int transport_type;
  // Must be empty: memory is shared by descriptor, not by a path that outlives its owner.
  char shm_path[256];
  // Must be 0.
  size_t shm_offset;
  // Must be 0.
  int internal;
} tent_memory_options;

// As TENT names it.
typedef struct tent_memory_options tent_memory_options_t;

// One range to move. Must be zeroed before it is filled.
typedef struct tent_request {
  // `OPCODE_READ`: the segment's memory to `source`; `OPCODE_WRITE`: the other way.
  int opcode;
  // First byte of the local range; must lie inside one registered range.
  void *source;
  // Whose memory, from `tent_open_segment`; 0 is the engine's own.
  uint64_t target_id;
  // First byte of the range in the segment, an absolute address there.
  uint64_t target_offset;
  // Bytes; 0 completes at once.
  uint64_t length;
  // 0 high, 1 medium, 2 low.
  int priority;
  // A `TRANSPORT_*` to try first, where it reaches the segment; `TRANSPORT_UNSPEC` leaves the choice
  // to the engine. One that is not here is ignored.
  int transport_hint;
} tent_request;

// As TENT names it.
typedef struct tent_request tent_request_t;

// State and progress.
typedef struct tent_status {
  // One of `STATUS_*`, never blurred as in the Mooncake API.
  int status;
  // Bytes that have landed.
  uint64_t transferred_bytes;
} tent_status;

// As TENT names it.
typedef struct tent_status tent_status_t;

// A message from a peer.
typedef struct tent_notifi_record {
  // Always 0: a message does not say from which segment it comes.
  uint64_t handle;
  // By convention the sender's name; terminated, cut if longer.
  char name[256];
  // The message; terminated, cut if longer.
  char msg[4096];
} tent_notifi_record;

// Messages from peers.
typedef struct tent_notifi_info {
  // Entries of `records`.
  int num_records;
  // Free with `tent_free_notifs`.
  struct tent_notifi_record *records;
} tent_notifi_info;

// Wishes for all requests of a submit. Must be zeroed, and `size` set, before it is filled; a library that
// knows more fields takes those that are not there for zero.
typedef struct tent_submit_options {
  // `sizeof(tent_submit_options_t)`.
  size_t size;
  // Longest time to the end, in nanoseconds; 0 leaves the engine's rule.
  uint64_t timeout_ns;
  // When it must have ended, on `CLOCK_MONOTONIC` in nanoseconds; 0 for none. One that has passed makes
  // tasks that end as TIMEOUT. With both, what comes first counts.
  uint64_t deadline_ns;
  // Name of the policy to take, whatever its conditions; NULL for the first that matches.
  const char *policy;
  // With `notify_message`: sent to the first request's segment when the batch has completed, as by
  // `tent_submit_notif`. Both or none.
  const char *notify_name;
  // See `notify_name`.
  const char *notify_message;
  // `TENT_ALLOW_*` of the transports that may carry it; 0 for any. None other is used.
  uint64_t transports;
  // `TENT_SUBMIT_*`.
  uint64_t flags;
  // A `TENT_INTENT_*`. One other than UNSPEC goes before the requests' priorities.
  int intent;
  // 0 high, 1 medium, 2 low; only with `TENT_SUBMIT_PRIORITY`.
  int priority;
} tent_submit_options;

// For symmetry.
typedef struct tent_submit_options tent_submit_options_t;

// Blocks at even distances on both sides. Must be zeroed before it is filled.
typedef struct tent_strided {
  // `OPCODE_READ` or `OPCODE_WRITE`.
  int opcode;
  // First byte of the first local block.
  void *source;
  // From one local block to the next, in bytes.
  uint64_t source_stride;
  // Whose memory.
  uint64_t target_id;
  // First byte of the first block in the segment.
  uint64_t target_offset;
  // From one block in the segment to the next, in bytes.
  uint64_t target_stride;
  // Bytes of a block.
  uint64_t length;
  // Blocks.
  uint64_t count;
  // As in `tent_request`.
  int priority;
  // As in `tent_request`.
  int transport_hint;
} tent_strided;

// For symmetry.
typedef struct tent_strided tent_strided_t;

// For symmetry.
typedef struct tent_buffer_info tent_buffer_info_t;

// As TENT names it.
typedef struct tent_notifi_record tent_notifi_record_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Why this thread's last call failed, in one line; empty if it did not. After a status call that
// succeeded it tells why the task failed. Valid until this thread's next call. Never NULL.
const char *tent_last_error(void);

// The version of the library, such as `0.1.0`.
const char *tent_version(void);

// Names a JSON file with settings for the engines that this thread makes from now on; NULL names none. It
// is read by `tent_create_engine`; one that cannot be read, or is no JSON object, makes that fail.
// Required: `path` is NULL or terminated.
void tent_load_config_from_file(const char *path);

// Sets one key for the engines that this thread makes from now on; it goes before the file's. NULL as value
// takes it back. Keys: `metadata_type` (p2p, etcd, redis, http), `metadata_servers`, `local_segment_name`,
// `rpc_server_hostname`, `rpc_server_port`, `log_level`, `policy` (JSON). Others are logged and ignored.
// Required: `key` and `value` are NULL or terminated.
void tent_set_config(const char *key,
                     const char *value);

// Makes an engine with this thread's settings and starts it. Never NULL, as in TENT: what could not be
// started answers every call with -1 and the reason in `tent_last_error`, and `tent_available` with 0.
// Destroy it in both cases.
tent_engine_t tent_create_engine(void);

// Shuts an engine down and frees it. NULL, and an engine that is gone already, do nothing.
// Required: None: the handle is checked.
void tent_destroy_engine(tent_engine_t engine);

// 1 if the engine runs, 0 if it could not be made, is gone, or is none; then `tent_last_error` says which.
// Required: None: the handle is checked.
int tent_available(tent_engine_t engine);

// Writes the name under which peers open this engine's segment. -1 if it does not fit with its terminator;
// then it is cut, and terminated all the same.
// Required: `buf` is NULL or has room for `buf_len` bytes.
int tent_segment_name(tent_engine_t engine,
                      char *buf,
                      size_t buf_len);

// Writes the host of the RPC listener, as `tent_segment_name` writes the name, and its port.
// Required: `addr_buf` is NULL or has room for `buf_len` bytes; `port` is NULL or writable.
int tent_rpc_server_addr_port(tent_engine_t engine, char *addr_buf, size_t buf_len, uint16_t *port);

// Load of each rail. In `*count` comes the capacity of `stats`; out of it the number of rails, which may
// be larger.
// Required: `stats` has room for `*count` entries, or is NULL with `*count` 0; `count` is NULL or valid.
int tent_get_nic_load_stats(tent_engine_t engine,
                            tent_nic_load_stat_t *stats,
                            size_t *count);

// Opens a peer's segment by name. The same name gives the same id, the own name `LOCAL_SEGMENT_ID`.
// Required: `handle` is NULL or writable; `segment_name` is NULL or terminated.
int tent_open_segment(tent_engine_t engine, uint64_t *handle, const char *segment_name);

// An id stays valid for the engine's life; this only checks it.
int tent_close_segment(tent_engine_t engine, uint64_t handle);

// What is known of an open segment. Free with `tent_free_segment_info`.
// Required: `info` is NULL or writable.
int tent_get_segment_info(tent_engine_t engine, uint64_t handle, tent_segment_info_t *info);

// Frees what `tent_get_segment_info` gave and empties it; NULL is fine, and so is a second time.
// Required: `info` is NULL or was filled by `tent_get_segment_info`.
void tent_free_segment_info(tent_segment_info_t *info);

// Asks the engine behind a segment whether it is alive: 0 if it answers, within the time of a connection
// and an answer.
int tent_probe(tent_engine_t engine,
               uint64_t handle);

// Writes the description of a segment, `LOCAL_SEGMENT_ID` for the engine's own, as bytes that
// `tent_import_segment` of another engine takes. In `*len` comes the room in `blob`; out of it the bytes that
// are needed. -1 if they do not fit; NULL with `*len` 0 asks for the number, and is no error.
// Required: `blob` has room for `*len` bytes, or is NULL with `*len` 0; `len` is NULL or valid.
int tent_export_segment(tent_engine_t engine,
                        uint64_t handle,
                        void *blob,
                        size_t *len);

// Opens the segment that a blob describes, without asking its RPC port first. The same name gives the same id
// as `tent_open_segment`; what is known of a segment that is open stays.
// Required: `handle` is NULL or writable; `blob` is NULL or has `len` bytes.
int tent_import_segment(tent_engine_t engine,
                        uint64_t *handle,
                        const void *blob,
                        size_t len);

// Allocates memory that peers on this host can map, and registers it for reading and writing.
// `location` is `*`, `cpu:0` …; NULL means `*`. Free with `tent_free_memory`.
// Required: `addr` is NULL or writable; `location` is NULL or terminated.
int tent_allocate_memory(tent_engine_t engine, void **addr, size_t size, const char *location);

// As `tent_allocate_memory`, with the location and permission of `opts`.
// Required: `addr` is NULL or writable; `opts` is NULL or valid.
int tent_allocate_memory_ex(tent_engine_t engine,
                            void **addr,
                            size_t size,
                            tent_memory_options_t *opts);

// Unregisters and frees what `tent_allocate_memory` gave.
// Required: Nobody uses the memory any more.
int tent_free_memory(tent_engine_t engine, void *addr);

// Registers one range; peers may read and write it.
// Required: The range stays mapped until it is unregistered.
int tent_register_memory(tent_engine_t engine, void *addr, size_t size);

// As `tent_register_memory`; peers may do what `permission`, a `PERM_*`, says.
// Required: The range stays mapped until it is unregistered.
int tent_register_memory_with_perm(tent_engine_t engine, void *addr, size_t size, int permission);

// As `tent_register_memory`, with the location and permission of `opts`.
// Required: `opts` is NULL or valid; the range stays mapped until it is unregistered.
int tent_register_memory_ex(tent_engine_t engine,
                            void *addr,
                            size_t size,
                            tent_memory_options_t *opts);

// Registers all ranges or none; peers may do what `permission`, a `PERM_*`, says.
// Required: Both arrays are NULL or hold `count` entries; the ranges stay mapped until they are unregistered.
int tent_register_memory_batch(tent_engine_t engine,
                               void **addrs,
                               size_t *sizes,
                               size_t count,
                               int permission);

// As `tent_register_memory_batch`, with the location and permission of `opts`.
// Required: As for `tent_register_memory_batch`; `opts` is NULL or valid.
int tent_register_memory_batch_ex(tent_engine_t engine,
                                  void **addrs,
                                  size_t *sizes,
                                  size_t count,
                                  tent_memory_options_t *opts);

// Withdraws the range that begins at `addr`. Waits for transfers that use it, for a while. `size` is not
// looked at.
// Required: None: the address is only compared.
int tent_unregister_memory(tent_engine_t engine,
                           void *addr,
                           size_t size);

// Withdraws ranges; goes on after an error and returns -1 for the first. `sizes` may be NULL.
// Required: `addrs` is NULL or holds `count` addresses.
int tent_unregister_memory_batch(tent_engine_t engine, void **addrs, size_t *sizes, size_t count);

// A batch with room for `batch_size` tasks over its life. `UINT64_MAX` on error; such an id is refused
// wherever it is used. Free with `tent_free_batch`.
// Required: None: the handle is checked.
uint64_t tent_allocate_batch(tent_engine_t engine,
                             size_t batch_size);

// Frees a batch; -1 while a task is unfinished.
int tent_free_batch(tent_engine_t engine, uint64_t batch_id);

// Submits requests as the batch's next tasks: all or none. Never waits for the data (I8).
// Required: `entries` is NULL or holds `count` requests; the ranges stay mapped until their tasks have ended.
int tent_submit(tent_engine_t engine, uint64_t batch_id, tent_request_t *entries, size_t count);

// As `tent_submit`; when the whole batch has completed, the message goes once to the segment of the first
// request, after the bytes are visible there. A later call replaces the message.
// Required: As for `tent_submit`; `name` and `message` are NULL or terminated.
int tent_submit_notif(tent_engine_t engine,
                      uint64_t batch_id,
                      tent_request_t *entries,
                      size_t count,
                      const char *name,
                      const char *message);

// State of one task. `*status` is always filled: `STATUS_FAILED` without bytes if the call itself fails.
// Required: `status` is NULL or writable.
int tent_task_status(tent_engine_t engine,
                     uint64_t batch_id,
                     size_t task_id,
                     tent_status_t *status);

// State of a whole batch: PENDING while any task is unfinished, then the worst ending; the sum of bytes.
// Required: `status` is NULL or writable.
int tent_overall_status(tent_engine_t engine,
                        uint64_t batch_id,
                        tent_status_t *status);

// The same as `tent_overall_status`, under the name that this library had first.
// Required: `status` is NULL or writable.
int tent_batch_status(tent_engine_t engine, uint64_t batch, tent_status_t *status);

// States of the first tasks. In `*count` comes the capacity of `statuses`; out of it the number of tasks,
// which may be larger.
// Required: `statuses` has room for `*count` entries, or is NULL with `*count` 0; `count` is NULL or valid.
int tent_task_status_list(tent_engine_t engine,
                          uint64_t batch_id,
                          tent_status_t *statuses,
                          size_t *count);

// Gives a task up. It ends as CANCELED when nothing of it can land any more; poll or wait for that.
int tent_cancel_task(tent_engine_t engine, uint64_t batch_id, size_t task_id);

// Waits until every submitted task has ended: 0 then, 1 if `timeout_ms` came first (the tasks go on), -1
// on error. That a task ended does not say that it completed: `tent_overall_status` does.
int tent_wait(tent_engine_t engine,
              uint64_t batch,
              uint64_t timeout_ms);

// An eventfd that becomes readable when every submitted task has ended, for `poll` and its kin. It
// belongs to the batch and is closed with it: do not close it. -1 on error.
int tent_batch_event_fd(tent_engine_t engine, uint64_t batch);

// Sends a message to a segment's engine and waits for its answer. Any bytes but NUL; up to 255 of the name
// and 4095 of the message come through `tent_recv_notifs`.
// Required: `name` and `message` are NULL or terminated.
int tent_send_notifs(tent_engine_t engine,
                     uint64_t handle,
                     const char *name,
                     const char *message);

// Takes the oldest messages, in the order of arrival, at most 1024: call again until none come. Free with
// `tent_free_notifs`, also when there are none. A longer message is cut, and `tent_last_error` says so.
// Required: `info` is NULL or writable.
int tent_recv_notifs(tent_engine_t engine,
                     struct tent_notifi_info *info);

// Frees what `tent_recv_notifs` gave and empties it; NULL is fine, and so is a second time.
// Required: `info` is NULL or was filled by `tent_recv_notifs`.
void tent_free_notifs(struct tent_notifi_info *info);

// As `tent_submit`, with wishes; NULL for none.
// Required: As for `tent_submit`; `options` is NULL or has `size` readable bytes, its strings NULL or terminated.
int tent_submit_ex(tent_engine_t engine,
                   uint64_t batch_id,
                   tent_request_t *entries,
                   size_t count,
                   const tent_submit_options_t *options);

// Submits blocks at even distances, each as a task of its own; entries whose blocks join without a gap on
// both sides are one task. Returns how many tasks it has made, or -1 and none is made. NULL for no options.
// Required: `entries` is NULL or holds `count` entries; all blocks stay mapped until their tasks have ended; `options`
// as for `tent_submit_ex`.
int tent_submit_strided(tent_engine_t engine,
                        uint64_t batch_id,
                        tent_strided_t *entries,
                        size_t count,
                        const tent_submit_options_t *options);

// Replaces the policies: a JSON list of rules as TENT's setting `policy` holds it, first match first. NULL
// for none. What is wrong with it is in `tent_last_error`, and the old ones stay.
// Required: `json` is NULL or terminated.
int tent_set_policy(tent_engine_t engine,
                    const char *json);

// What each rail has done, as a JSON array of objects with the keys `peer`, `rail`, `transport`, `up`,
// `in_flight_bytes`, `read_bytes`, `write_bytes`, `retried_slices` and `rate_bps`. As snprintf: returns
// the length that is needed without the terminator, and cuts to `len`; `buf` may be NULL if `len` is 0.
// -1 on error.
// Required: `buf` has room for `len` bytes.
int tent_rails_json(tent_engine_t engine,
                    char *buf,
                    size_t len);

// What happened to rails after event number `since` (0: all that is kept), as a JSON array of {seq, us,
// peer, rail, event, why}; `us` is on `CLOCK_MONOTONIC`. Returns as `tent_rails_json`.
// Required: `buf` is writable for `len` bytes, or NULL with `len` 0.
int tent_events_json(tent_engine_t engine,
                     uint64_t since,
                     char *buf,
                     size_t len);

// Takes the net rails of that name (as `tent_rails_json` says it) out of use (`on` not 0), or back. What a
// drained rail has in flight ends on it. 0, or -1 with a reason in `tent_last_error`.
// Required: `rail` is NULL or terminated.
int tent_rail_drain(tent_engine_t engine,
                    const char *rail,
                    int on);

// What became of a batch so far, as a JSON object. `tasks`: for each {op, peer, transport, bytes, landed,
// state, attempts, retried, hedged, queue_us, transfer_us, reason}; `rails`: for each {rail, transport, bytes,
// pieces}. Times (else null), rails (else none) and a reason for each task are kept only from a submit with
// `TENT_SUBMIT_REPORT`. Returns as `tent_rails_json`.
// Required: `buf` is writable for `len` bytes, or NULL with `len` 0.
int tent_batch_report_json(tent_engine_t engine,
                           uint64_t batch_id,
                           char *buf,
                           size_t len);

// Where the engine is and how it reaches what it has opened, as a JSON object: `name`, `host`, `interfaces`,
// `addresses`, and `segments` with every transport, whether it reaches the segment, why, and its rails.
// Returns as `tent_rails_json`.
// Required: `buf` is writable for `len` bytes, or NULL with `len` 0.
int tent_topology_json(tent_engine_t engine,
                       char *buf,
                       size_t len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TENT_H */
