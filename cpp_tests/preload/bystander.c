/*
 * A program that has nothing to do with us, and may be started under our preload all the same: prints all that a
 * library could have changed of it before main.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

static int entries(const char *path) {
    int count = 0;
    DIR *dir = opendir(path);
    while (dir && readdir(dir)) count++;
    if (dir) closedir(dir);
    return count;
}

int main(void) {
    struct rlimit files;
    sigset_t blocked;
    int handled = 0, held = 0;
    getrlimit(RLIMIT_NOFILE, &files);
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    for (int n = 1; n < 65; n++) {
        struct sigaction action;
        if (sigaction(n, NULL, &action) == 0 && action.sa_handler != SIG_DFL) handled++;
        if (sigismember(&blocked, n) == 1) held++;
    }
    printf("threads %d, files %d of %llu, %d handlers, %d signals blocked\n", entries("/proc/self/task") - 2,
           entries("/proc/self/fd") - 3, (unsigned long long)files.rlim_cur, handled, held);
    return 0;
}
