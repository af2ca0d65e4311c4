/* What every test program here is made of: checks that name what broke, bytes that know their own
 * position, a watchdog, and time limits without sleeping. C11 and C++17.
 *
 * A test prints facts ("fact: ...") on stdout and ends with "PASS <name>". The first check that does
 * not hold prints file, line and values, and ends the process with 1. Exit status 77 means: this
 * machine cannot run the test, and the last line says why. */
#ifndef CPP_TESTS_CHECK_H
#define CPP_TESTS_CHECK_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const char *check_step = "start"; /* for the watchdog: where the test hung */

/* ---- facts and checks ------------------------------------------------------------------------ */

#define FACT(...) (printf("fact: " __VA_ARGS__), putchar('\n'), (void)fflush(stdout))

__attribute__((format(printf, 3, 4), noreturn)) static inline void check_fail(const char *file, int line,
                                                                              const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fprintf(stderr, "FAIL %s:%d (step: %s): ", file, line, check_step);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(1); /* not exit(): other threads may hold the library's locks */
}

#define FAIL(...) check_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)                                                                                \
    do {                                                                                                \
        if (!(condition)) FAIL("%s", #condition);                                                       \
    } while (0)
#define CHECK_INT(got, want)                                                                            \
    do {                                                                                                \
        long long check_got = (long long)(got), check_want = (long long)(want);                         \
        if (check_got != check_want)                                                                    \
            FAIL("%s is %lld, must be %lld (%s)", #got, check_got, check_want, #want);                  \
    } while (0)
#define CHECK_SYS(call)                                                                                 \
    do {                                                                                                \
        if ((call) < 0) FAIL("%s: %s", #call, strerror(errno));                                         \
    } while (0)
#define STEP(text) (check_step = (text))

__attribute__((format(printf, 1, 2), noreturn)) static inline void skip(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("SKIPPED: ");
    vprintf(format, args);
    putchar('\n');
    fflush(stdout);
    va_end(args);
    _exit(77);
}

static inline int pass(const char *name) {
    printf("PASS %s\n", name);
    fflush(stdout);
    return 0;
}

/* ---- time ------------------------------------------------------------------------------------ */

static inline int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline void check_alarm(int number) {
    (void)number;
    static const char text[] = "FAIL: watchdog: the test hangs at step: ";
    ssize_t ignored = write(2, text, sizeof text - 1);
    ignored = write(2, check_step, strlen(check_step));
    ignored = write(2, "\n", 1);
    (void)ignored;
    _exit(99);
}

/* Ends the process after `seconds`, naming the step at which it hung. */
static inline void watchdog(unsigned seconds) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = check_alarm;
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
}

/* Waits for `condition` to hold, at most so long. */
#define CHECK_BY(limit_ms, condition)                                                                   \
    do {                                                                                                \
        int64_t check_end = now_ms() + (limit_ms);                                                      \
        while (!(condition)) {                                                                          \
            if (now_ms() > check_end) FAIL("%s does not come true in %d ms", #condition, (int)(limit_ms)); \
            poll(NULL, 0, 1);                                                                           \
        }                                                                                               \
    } while (0)

/* ---- bytes that know their position ------------------------------------------------------------
 * Byte `pos` of the pattern `seed`. No two positions are alike in a way that a shifted, dropped or
 * repeated piece could hide behind. */

static inline uint64_t mix64(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t pattern_word(uint64_t seed, uint64_t index) {
    return mix64(seed * UINT64_C(0xd1342543de82ef95) + index);
}

static inline uint8_t pattern_byte(uint64_t seed, uint64_t pos) {
    return (uint8_t)(pattern_word(seed, pos >> 3) >> (8 * (pos & 7)));
}

static inline void pattern_fill(void *at, uint64_t seed, uint64_t pos, size_t len) {
    uint8_t *p = (uint8_t *)at;
    for (; len > 0 && (pos & 7) != 0; len--) *p++ = pattern_byte(seed, pos++);
    for (; len >= 8; len -= 8, p += 8, pos += 8) {
        uint64_t word = pattern_word(seed, pos >> 3);
        memcpy(p, &word, 8);
    }
    for (; len > 0; len--) *p++ = pattern_byte(seed, pos++);
}

/* Index of the first byte that differs from the pattern, or -1. */
static inline int64_t pattern_diff(const void *at, uint64_t seed, uint64_t pos, size_t len) {
    const uint8_t *p = (const uint8_t *)at;
    size_t i = 0;
    for (; i < len && ((pos + i) & 7) != 0; i++)
        if (p[i] != pattern_byte(seed, pos + i)) return (int64_t)i;
    for (; i + 8 <= len; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        if (word != pattern_word(seed, (pos + i) >> 3)) break;
    }
    for (; i < len; i++)
        if (p[i] != pattern_byte(seed, pos + i)) return (int64_t)i;
    return -1;
}

#define CHECK_PATTERN(at, seed, pos, len)                                                               \
    do {                                                                                                \
        int64_t check_at = pattern_diff((at), (seed), (pos), (len));                                    \
        if (check_at >= 0)                                                                              \
            FAIL("%s: byte %lld of %zu is 0x%02x, not that of pattern %s", #at, (long long)check_at,    \
                 (size_t)(len), ((const uint8_t *)(at))[check_at], #seed);                              \
    } while (0)

/* ---- memory and the process ------------------------------------------------------------------ */

static inline uint8_t *map_bytes(size_t len) {
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) FAIL("mmap of %zu bytes: %s", len, strerror(errno));
    return (uint8_t *)p;
}

static inline int count_entries(const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir) FAIL("%s: %s", folder, strerror(errno));
    int n = 0;
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

static inline int count_fds(void) { return count_entries("/proc/self/fd") - 1; /* the folder's own */ }
static inline int count_threads(void) { return count_entries("/proc/self/task"); }

static inline long resident_kib(void) {
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld kB", &kib) == 1) break;
    fclose(f);
    return kib;
}

/* The path of this program; valgrind allows no exec of /proc/self/exe itself. */
static inline char *own_path(void) {
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0) FAIL("/proc/self/exe: %s", strerror(errno));
    path[n] = 0;
    return path;
}

/* Waits for a child to end, at most so long; returns its wait status. */
static inline int wait_child(pid_t pid, int limit_ms) {
    int status = 0;
    int64_t end = now_ms() + limit_ms;
    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid) return status;
        if (got < 0) FAIL("waitpid(%d): %s", (int)pid, strerror(errno));
        if (now_ms() > end) {
            kill(pid, SIGKILL);
            FAIL("child %d has not ended after %d ms", (int)pid, limit_ms);
        }
        poll(NULL, 0, 1);
    }
}

#define CHECK_EXIT(status, code)                                                                        \
    do {                                                                                                \
        int check_status = (status);                                                                    \
        if (WIFSIGNALED(check_status)) FAIL("child killed by signal %d", WTERMSIG(check_status));       \
        CHECK_INT(WEXITSTATUS(check_status), (code));                                                   \
    } while (0)

#endif
