/*
 * Somebody else's libtransfer_engine.so: all 27 functions of the C API, each with an answer that no real engine
 * gives, so that a caller knows whose function it has called. Nothing moves.
 */
#include <stdio.h>

#include <transfer_engine_c.h>

#include "foreign.h"

transfer_engine_t createTransferEngine(const char *c, const char *l, const char *h, uint64_t p, int a) {
    (void)c, (void)l, (void)h, (void)p, (void)a;
    return FOREIGN_POINTER;
}
void destroyTransferEngine(transfer_engine_t e) { (void)e; }
int discoverTopology(transfer_engine_t e) { return (void)e, FOREIGN; }
int getLocalIpAndPort(transfer_engine_t e, char *buf, size_t len) {
    (void)e;
    snprintf(buf, len, "foreign");
    return FOREIGN;
}
transport_t installTransport(transfer_engine_t e, const char *p, void **a) { return (void)e, (void)p, (void)a, FOREIGN_POINTER; }
int uninstallTransport(transfer_engine_t e, const char *p) { return (void)e, (void)p, FOREIGN; }
void enableGracefulShutdown(transfer_engine_t e) { (void)e; }
segment_id_t openSegment(transfer_engine_t e, const char *n) { return (void)e, (void)n, FOREIGN; }
segment_id_t openSegmentNoCache(transfer_engine_t e, const char *n) { return (void)e, (void)n, FOREIGN; }
int closeSegment(transfer_engine_t e, segment_handle_t s) { return (void)e, (void)s, FOREIGN; }
int warmupEfaSegment(transfer_engine_t e, const char *n) { return (void)e, (void)n, FOREIGN; }
int removeLocalSegment(transfer_engine_t e, const char *n) { return (void)e, (void)n, FOREIGN; }
int syncSegmentCache(transfer_engine_t e) { return (void)e, FOREIGN; }
int registerLocalMemory(transfer_engine_t e, void *a, size_t n, const char *l, int r) {
    return (void)e, (void)a, (void)n, (void)l, (void)r, FOREIGN;
}
int unregisterLocalMemory(transfer_engine_t e, void *a) { return (void)e, (void)a, FOREIGN; }
int registerLocalMemoryBatch(transfer_engine_t e, buffer_entry_t *b, size_t n, const char *l) {
    return (void)e, (void)b, (void)n, (void)l, FOREIGN;
}
int unregisterLocalMemoryBatch(transfer_engine_t e, void **a, size_t n) { return (void)e, (void)a, (void)n, FOREIGN; }
batch_id_t allocateBatchID(transfer_engine_t e, size_t n) { return (void)e, (void)n, FOREIGN; }
int submitTransfer(transfer_engine_t e, batch_id_t b, struct transfer_request *r, size_t n) {
    return (void)e, (void)b, (void)r, (void)n, FOREIGN;
}
int submitTransferWithNotify(transfer_engine_t e, batch_id_t b, struct transfer_request *r, size_t n, notify_msg_t m) {
    return (void)e, (void)b, (void)r, (void)n, (void)m, FOREIGN;
}
int getTransferStatus(transfer_engine_t e, batch_id_t b, size_t t, struct transfer_status *s) {
    return (void)e, (void)b, (void)t, (void)s, FOREIGN;
}
int freeBatchID(transfer_engine_t e, batch_id_t b) { return (void)e, (void)b, FOREIGN; }
notify_msg_t *getNotifsFromEngine(transfer_engine_t e, int *n) { return (void)e, *n = FOREIGN, FOREIGN_POINTER; }
int freeNotifsMsgBuf(notify_msg_t *m, int n) { return (void)m, (void)n, FOREIGN; }
int genNotifyInEngine(transfer_engine_t e, uint64_t t, notify_msg_t m) { return (void)e, (void)t, (void)m, FOREIGN; }
int getNicLoadStats(transfer_engine_t e, nic_load_stat_t *s, size_t *n) { return (void)e, (void)s, (void)n, FOREIGN; }
int showLinks(transfer_engine_t e, char *b, size_t n, int j) { return (void)e, (void)b, (void)n, (void)j, FOREIGN; }
