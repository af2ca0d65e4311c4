/* host PLUGIN EXPECTED: loads a plug-in that is linked with a libtransfer_engine.so, as NIXL does, and has it used. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    void *plugin = argc > 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*use)(const char *, const char *) = NULL;
    if (plugin) *(void **)&use = dlsym(plugin, "use_engine");
    if (!use) return fprintf(stderr, "host: %s\n", plugin || argc > 2 ? dlerror() : "usage: host PLUGIN EXPECTED"), 1;
    return use(argv[2], NULL);
}
