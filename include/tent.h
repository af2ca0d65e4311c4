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
 * What tent offers beyond the Mooncake Transfer Engine C API (transfer_engine_c.h). The functions take
 * the engine and the batches of that API; both headers may be included together.
 *
 * Made by cbindgen from compat/src/tent.rs; do not edit.
 */

#ifndef TENT_H
#define TENT_H

#include <stddef.h>
#include <stdint.h>

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

// `tent_segment_info_t.type` of memory.
#define TENT_TYPE_MEMORY 0

// An engine; the same value as `transfer_engine_t`.
typedef void *tent_engine_t;

// A registered range of a segment. The layout of TENT's `tent_buffer_info`.
typedef struct tent_buffer_info_t {
  // First byte, an address in the owner: the `target_offset` of a request.
  uint64_t base;
  // Bytes.
  uint64_t length;
  // Where the memory is, terminated, cut if longer.
  char location[64];
} tent_buffer_info_t;

// What is known of a segment. The layout of TENT's `tent_segment_info`.
typedef struct tent_segment_info_t {
  // `TENT_TYPE_MEMORY`.
  int type;
  // Entries of `buffers`.
  int num_buffers;
  // Free with `tent_free_segment_info`.
  struct tent_buffer_info_t *buffers;
} tent_segment_info_t;

// State and progress. The layout of TENT's `tent_status`.
typedef struct tent_status_t {
  // One of `TENT_STATUS_*`, never blurred as in the Mooncake API.
  int status;
  // Bytes that have landed.
  uint64_t transferred_bytes;
} tent_status_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Why this thread's last call failed, in one line; empty if it did not. After a status call that
// succeeded it tells why the task failed. Valid until this thread's next call. Never NULL.
const char *tent_last_error(void);

// The version of the library, such as `0.1.0`.
const char *tent_version(void);

// Allocates memory that peers on this host can map, and registers it for reading and writing.
// `location` is `*`, `cpu:0` …; NULL means `*`. Free with `tent_free_memory`.
// Required: `addr` is NULL or writable; `location` is NULL or terminated.
int tent_allocate_memory(tent_engine_t engine, void **addr, size_t size, const char *location);

// Unregisters and frees what `tent_allocate_memory` gave.
// Required: Nobody uses the memory any more.
int tent_free_memory(tent_engine_t engine, void *addr);

// What is known of an open segment. Free with `tent_free_segment_info`.
// Required: `info` is NULL or writable.
int tent_get_segment_info(tent_engine_t engine, uint64_t segment, struct tent_segment_info_t *info);

// Frees what `tent_get_segment_info` gave and empties it; NULL is fine, and so is a second time.
// Required: `info` is NULL or was filled by `tent_get_segment_info`.
void tent_free_segment_info(struct tent_segment_info_t *info);

// Gives a task up. It ends as CANCELED when nothing of it can land any more; poll or wait for that.
int tent_cancel_task(tent_engine_t engine, uint64_t batch, size_t task);

// Waits until every submitted task has ended: 0 then, 1 if `timeout_ms` came first (the tasks go on), -1
// on error. That a task ended does not say that it completed: `tent_batch_status` does.
int tent_wait(tent_engine_t engine,
              uint64_t batch,
              uint64_t timeout_ms);

// An eventfd that becomes readable when every submitted task has ended, for `poll` and its kin. It
// belongs to the batch and is closed with it: do not close it. -1 on error.
int tent_batch_event_fd(tent_engine_t engine, uint64_t batch);

// State of a whole batch: PENDING while any task is unfinished, then the worst ending; the sum of bytes.
// Required: `status` is NULL or writable.
int tent_batch_status(tent_engine_t engine,
                      uint64_t batch,
                      struct tent_status_t *status);

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

// What an engine would be made with by this thread now, as a JSON object: `values`, an array of {key, value,
// unit, source, for, live, doc}; `warnings`, `ignored` and `notes`, arrays of lines about what is not
// used. Needs no engine. As snprintf: returns the length that is needed without the terminator, and cuts to
// `len`; `buf` may be NULL if `len` is 0. -1 on error.
// Required: `buf` is writable for `len` bytes, or NULL with `len` 0.
int tent_config_json(char *buf,
                     size_t len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TENT_H */
