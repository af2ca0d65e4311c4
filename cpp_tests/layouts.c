/* The numbers that old binaries carry inside: sizes, offsets and constants of both C APIs, which live
 * side by side in one translation unit. Compiled as C and as C++. */
#include <transfer_engine_c.h>
#include <tent.h>

#ifdef __cplusplus
#define SAME(a, b) static_assert((a) == (b), #a " must be " #b)
#else
#define SAME(a, b) _Static_assert((a) == (b), #a " must be " #b)
#endif
#define AT(type, field, offset) SAME(offsetof(type, field), offset)

SAME(sizeof(transfer_request_t), 40);
AT(transfer_request_t, opcode, 0);
AT(transfer_request_t, source, 8);
AT(transfer_request_t, target_id, 16);
AT(transfer_request_t, target_offset, 24);
AT(transfer_request_t, length, 32);
SAME(sizeof(transfer_status_t), 16);
AT(transfer_status_t, status, 0);
AT(transfer_status_t, transferred_bytes, 8);
SAME(sizeof(notify_msg_t), 16);
AT(notify_msg_t, name, 0);
AT(notify_msg_t, msg, 8);
SAME(sizeof(buffer_entry_t), 16);
AT(buffer_entry_t, addr, 0);
AT(buffer_entry_t, length, 8);
SAME(sizeof(nic_load_stat_t), 80);
AT(nic_load_stat_t, device_name, 0);
AT(nic_load_stat_t, inflight_bytes, 64);
AT(nic_load_stat_t, ewma_bandwidth_bps, 72);
SAME(sizeof(segment_id_t), 4);
SAME(sizeof(batch_id_t), 8);
SAME(LOCAL_SEGMENT, 0);
SAME(INVALID_BATCH, UINT64_MAX);
SAME(OPCODE_READ, 0);
SAME(OPCODE_WRITE, 1);
SAME(STATUS_WAITING, 0);
SAME(STATUS_PENDING, 1);
SAME(STATUS_INVALID, 2);
SAME(STATUS_CANCELED, 3);
SAME(STATUS_COMPLETED, 4);
SAME(STATUS_TIMEOUT, 5);
SAME(STATUS_FAILED, 6);

SAME(sizeof(tent_request_t), 48);
AT(struct tent_request, opcode, 0);
AT(struct tent_request, source, 8);
AT(struct tent_request, target_id, 16);
AT(struct tent_request, target_offset, 24);
AT(struct tent_request, length, 32);
AT(struct tent_request, priority, 40);
AT(struct tent_request, transport_hint, 44);
SAME(sizeof(tent_notifi_record_t), 4360);
AT(struct tent_notifi_record, handle, 0);
AT(struct tent_notifi_record, name, 8);
AT(struct tent_notifi_record, msg, 264);
SAME(sizeof(tent_notifi_info), 16);
AT(struct tent_notifi_info, num_records, 0);
AT(struct tent_notifi_info, records, 8);
SAME(sizeof(tent_memory_options_t), 344);
AT(struct tent_memory_options, location, 0);
AT(struct tent_memory_options, permission, 64);
AT(struct tent_memory_options, transport_type, 68);
AT(struct tent_memory_options, shm_path, 72);
AT(struct tent_memory_options, shm_offset, 328);
AT(struct tent_memory_options, internal, 336);
SAME(sizeof(tent_nic_load_stat_t), 80);
AT(struct tent_nic_load_stat, inflight_bytes, 64);
AT(struct tent_nic_load_stat, ewma_bandwidth_bps, 72);
SAME(sizeof(tent_submit_options_t), 72);
SAME(sizeof(tent_strided_t), 72);
SAME(sizeof(tent_segment_id_t), 8);
SAME(sizeof(tent_batch_id_t), 8);
SAME(PERM_LOCAL_READ_WRITE, 0);
SAME(PERM_GLOBAL_READ_ONLY, 1);
SAME(PERM_GLOBAL_READ_WRITE, 2);
SAME(TYPE_MEMORY, 0);
SAME(TYPE_FILE, 1);
SAME(TRANSPORT_UNSPEC, 0);
SAME(TRANSPORT_RDMA, 1);
SAME(TRANSPORT_SHM, 3);
SAME(TRANSPORT_TCP, 7);
SAME(TRANSPORT_MPCOMM, 12);
SAME(TENT_LOCAL_SEGMENT_ID, 0);
SAME(sizeof(tent_status_t), 16);
AT(tent_status_t, status, 0);
AT(tent_status_t, transferred_bytes, 8);
SAME(sizeof(tent_buffer_info_t), 80);
AT(tent_buffer_info_t, base, 0);
AT(tent_buffer_info_t, length, 8);
AT(tent_buffer_info_t, location, 16);
SAME(sizeof(tent_segment_info_t), 16);
AT(tent_segment_info_t, type, 0);
AT(tent_segment_info_t, num_buffers, 4);
AT(tent_segment_info_t, buffers, 8);

int main(void) { return 0; }
