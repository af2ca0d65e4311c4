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
 * What the C++ class mooncake::TransferEngine (transfer_engine.h) is made of besides
 * transfer_engine_c.h and tent.h. Programs use the class; nothing here is a replacement of those two.
 *
 * Functions that fill a buffer work as snprintf: they return the length that is needed without the
 * terminator and cut to len; buf may be NULL if len is 0. They return -1 on error, the others 0 or a
 * negative ERR_* number. What went wrong: tent_last_error() of tent.h.
 */

#ifndef TENT_CXX_H
#define TENT_CXX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* createTransferEngine for the interfaces named in a comma list; NULL or "": all. */
void *tent_cxx_create(const char *metadata, const char *local_name,
                      int auto_discover, const char *devices);

/* From now on the address object is taken where an engine is wanted. engine NULL: it has none yet. */
int tent_cxx_bind(const void *object, void *engine);

/* The end of that; before the object dies or moves. */
void tent_cxx_unbind(const void *object);

/* key: name, protocol, tcp_data_host, tcp_data_port, tcp_proto_version. */
int tent_cxx_segment(void *engine, uint64_t segment, const char *key, char *buf,
                     size_t len);

/* 0: the engine of that segment answers. */
int tent_cxx_probe(void *engine, uint64_t segment);

/* Asks for the description of that segment again. */
int tent_cxx_refresh(void *engine, uint64_t segment);

/* The priority matrix of an engine; with engine NULL of this machine, for the devices listed. */
int tent_cxx_topology(void *engine, const char *devices, char *buf, size_t len);

/* Replaces the priority matrix of an engine. */
int tent_cxx_set_topology(void *engine, const char *json);

/* A matrix line by line: location, 0 preferred or 1 others, devices, with tabs between. */
int tent_cxx_matrix_lines(const char *json, char *buf, size_t len);

/* showLinks of any length; engine may be NULL, matrix (if not NULL) replaces the engine's. */
int tent_cxx_links(void *engine, const char *matrix, int json, char *buf,
                   size_t len);

/* Installs the handlers of enableGracefulShutdown before there is an engine. */
int tent_cxx_arm_shutdown(void);

#ifdef __cplusplus
}
#endif

#endif /* TENT_CXX_H */
