/* The library as a plug-in: opened and closed again and again, under each of its names, by threads that
 * end right after. This program is not linked with it. */
#include "check.h"
#include <dlfcn.h>
#include <pthread.h>
#include <transfer_engine_c.h>

typedef struct {
    void *library;
    transfer_engine_t (*create)(const char *, const char *, const char *, uint64_t, int);
    transport_t (*install)(transfer_engine_t, const char *, void **);
    void (*destroy)(transfer_engine_t);
} api_t;

/* A function pointer out of dlsym, in the one way that ISO C allows. */
static void find(void *library, const char *name, void *pointer) {
    void *symbol = dlsym(library, name);
    if (!symbol) FAIL("%s: %s", name, dlerror());
    memcpy(pointer, &symbol, sizeof symbol);
}

static api_t open_library(const char *path) {
    api_t api;
    api.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!api.library) FAIL("%s", dlerror());
    find(api.library, "createTransferEngine", &api.create);
    find(api.library, "installTransport", &api.install);
    find(api.library, "destroyTransferEngine", &api.destroy);
    return api;
}

static void *once(void *path) {
    api_t api = open_library((const char *)path);
    transfer_engine_t e = api.create("P2PHANDSHAKE", "127.0.0.1", "", 0, 0);
    CHECK(e != NULL);
    CHECK(api.install(e, "tcp", NULL) != NULL);
    api.destroy(e);
    CHECK_INT(dlclose(api.library), 0);
    return NULL;
}

/* Leaves the engine alive when the library is closed: its threads still run. */
static void closed_under_an_engine(char *path) {
    api_t api = open_library(path);
    transfer_engine_t e = api.create("P2PHANDSHAKE", "127.0.0.1", "", 0, 0);
    CHECK(e != NULL && api.install(e, "tcp", NULL) != NULL);
    CHECK_INT(dlclose(api.library), 0);
    api = open_library(path); /* still the same library, with the same engine in it */
    api.destroy(e);
    CHECK_INT(dlclose(api.library), 0);
}

int main(int argc, char **argv) {
    if (argc < 2) FAIL("usage: dlopen_loop LIBRARY [ANOTHER NAME OF IT]...");
    watchdog(60);
    STEP("one thread");
    for (int i = 0; i < 30; i++) once(argv[1]);
    STEP("threads that end");
    for (int i = 0; i < 30; i++) {
        pthread_t id;
        CHECK_INT(pthread_create(&id, NULL, once, argv[1]), 0);
        CHECK_INT(pthread_join(id, NULL), 0);
    }
    STEP("closed under an engine");
    for (int i = 0; i < 5; i++) closed_under_an_engine(argv[1]);
    CHECK_BY(5000, count_threads() == 1);
    STEP("other names");
    for (int i = 2; i < argc; i++) {
        void *one = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL), *two = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
        if (!one || !two) FAIL("%s", dlerror());
        if (one != two) FAIL("%s and %s are two libraries: one process would have two runtimes", argv[1], argv[i]);
        FACT("%s is the same library", strrchr(argv[i], '/') + 1);
        once(argv[i]);
        dlclose(one);
        dlclose(two);
    }
    return pass("dlopen_loop");
}
