/* The state of the fake driver: a file of lines "GPU KEY VALUE" beside the library, read again whenever it changed. */
#define _GNU_SOURCE
#include "state.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct { const char *key, *value; } entry_t;
typedef struct { entry_t *entries; int count, room, misbehaves; } section_t;

device_t state_devices[MOST_GPUS] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static section_t sections[MOST_GPUS + 1];
static char *content;
static struct stat seen;
static kept_t *kept;
static char folder[PATH_MAX];

/* ---- files */

static const char *path_of(const char *name, char *out) {
    if (!folder[0]) {
        Dl_info found;
        if (!dladdr((void *)state_enter, &found)) abort();
        snprintf(folder, sizeof folder, "%s", found.dli_fname);
        char *slash = strrchr(folder, '/');
        if (!slash) abort();
        *slash = 0;
    }
    snprintf(out, PATH_MAX, "%.*s/%s", PATH_MAX - 16, folder, name);
    return out;
}

static char *read_whole(const char *path, struct stat *about) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    char *data = NULL;
    if (!fstat(file, about) && (data = malloc((size_t)about->st_size + 1))) {
        ssize_t size = read(file, data, (size_t)about->st_size);
        data[size > 0 ? size : 0] = 0;
    }
    close(file);
    return data;
}

static void add(section_t *section, const char *key, const char *value) {
    if (section->count == section->room) {
        section->room = section->room ? 2 * section->room : 128;
        section->entries = realloc(section->entries, (size_t)section->room * sizeof *section->entries);
        if (!section->entries) abort();
    }
    section->entries[section->count++] = (entry_t){key, value};
    section->misbehaves |= !strncmp(key, "fail.", 5) || !strncmp(key, "hang.", 5) || !strncmp(key, "crash.", 6);
}

static void parse_line(char *line) {
    char *key = strchr(line, ' ');
    if (!key) return;
    *key++ = 0;
    char *value = strchr(key, ' ');
    if (value) *value++ = 0;
    int gpu = *line == '-' ? SYSTEM : atoi(line);
    if (gpu >= 0 && gpu <= SYSTEM) add(&sections[gpu], key, value ? value : "");
}

static void reload(void) {
    char path[PATH_MAX];
    struct stat now;
    path_of("state", path);
    if (stat(path, &now)) return; /* as long as it is away, all stays as it was */
    if (content && now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    char *fresh = read_whole(path, &seen);
    if (!fresh) return;
    free(content);
    content = fresh;
    for (int gpu = 0; gpu <= SYSTEM; gpu++) sections[gpu].count = sections[gpu].misbehaves = 0;
    for (char *place = content, *line; (line = strsep(&place, "\n"));) parse_line(line);
}

kept_t *state_kept(void) {
    if (!kept) {
        char path[PATH_MAX];
        int file = open(path_of("driver", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || ftruncate(file, sizeof(kept_t))) abort();
        kept = mmap(NULL, sizeof(kept_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (kept == MAP_FAILED) abort();
        close(file);
    }
    return kept;
}

void state_note_set(int gpu, const char *what, long long value) {
    char path[PATH_MAX], line[128];
    int file = open(path_of("sets", path), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int size = snprintf(line, sizeof line, "%d %s %lld\n", gpu, what, value);
    if (file < 0 || write(file, line, (size_t)size) != size) abort();
    close(file);
}

/* ---- keys */

void state_enter(void) {
    pthread_mutex_lock(&lock);
    reload();
}

int state_leave(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

const char *state_text(int gpu, const char *key) {
    for (int at = 0; at < sections[gpu].count; at++)
        if (!strcmp(sections[gpu].entries[at].key, key)) return sections[gpu].entries[at].value;
    return NULL;
}

int state_number(int gpu, const char *key, long long *out) {
    const char *value = state_text(gpu, key);
    if (!value) return NOT_SUPPORTED;
    *out = *value == '-' ? strtoll(value, NULL, 0) : (long long)strtoull(value, NULL, 0);
    return SUCCESS;
}

const char *state_next(int gpu, const char *prefix, int *at, const char **rest) {
    size_t length = strlen(prefix);
    while (*at < sections[gpu].count) {
        entry_t *entry = &sections[gpu].entries[(*at)++];
        if (strncmp(entry->key, prefix, length)) continue;
        *rest = entry->key + length;
        return entry->value;
    }
    return NULL;
}

int state_listed(int gpu) {
    long long listed = 0;
    return gpu < MOST_GPUS && !state_number(gpu, "listed", &listed) && listed;
}

/* ---- time */

long long state_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int state_watch(void) {
    char path[PATH_MAX];
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch >= 0) inotify_add_watch(watch, path_of("", path), IN_MOVED_TO);
    return watch;
}

void state_wait(int watch, int milliseconds) {
    char events[4096];
    struct pollfd asked = {watch, POLLIN, 0};
    poll(&asked, 1, milliseconds);
    while (watch >= 0 && read(watch, events, sizeof events) > 0) continue;
}

/* ---- misbehaviour */

static counted_t *counter(const char *call, int *slot) {
    kept_t *all = state_kept();
    if (*slot >= 0) return &all->counted[*slot];
    char path[PATH_MAX];
    int file = open(path_of("driver", path), O_RDONLY | O_CLOEXEC);
    flock(file, LOCK_EX); /* another process may be adding a name too */
    uint64_t at = 0;
    while (at < all->names && strcmp(all->counted[at].name, call)) at++;
    if (at == 256) abort();
    if (at == all->names) {
        snprintf(all->counted[at].name, sizeof all->counted[at].name, "%s", call);
        all->names++;
    }
    close(file);
    *slot = (int)at;
    return &all->counted[at];
}

/* Look for MODE.CALL, MODE.lookup or MODE.reads, and MODE.*, in this order. */
static int wanted(int gpu, const char *mode, const char *call, long long *out) {
    if (!sections[gpu].misbehaves) return 0;
    char key[128];
    int lookup = !strncmp(call, "nvmlDeviceGetHandleBy", 21);
    const char *names[] = {call, lookup ? "lookup" : "reads", "*"};
    for (int at = 0; at < 3; at++) {
        snprintf(key, sizeof key, "%s.%s", mode, names[at]);
        if (!state_number(gpu, key, out)) return 1;
    }
    return 0;
}

int state_failure(int gpu, const char *call) {
    long long code = SUCCESS;
    wanted(gpu, "fail", call, &code);
    return (int)code;
}

static void hang(int gpu, const char *call, counted_t *counted) {
    long long for_ms, start = state_now_ms(), together;
    if (!wanted(gpu, "hang", call, &for_ms)) return;
    __atomic_add_fetch(&counted->hangs[gpu], 1, __ATOMIC_RELAXED);
    while (wanted(gpu, "hang", call, &for_ms) && (for_ms == 0 || state_now_ms() - start < for_ms)) {
        int keeps_lock = !state_number(SYSTEM, "one_lock", &together) && together;
        if (!keeps_lock) pthread_mutex_unlock(&lock);
        usleep(10000);
        if (!keeps_lock) pthread_mutex_lock(&lock);
        reload();
    }
}

int state_check(int gpu, const char *call, int *slot) {
    long long ignored;
    counted_t *counted = counter(call, slot);
    __atomic_add_fetch(&counted->calls[gpu], 1, __ATOMIC_RELAXED);
    if (wanted(gpu, "crash", call, &ignored)) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    hang(gpu, call, counted);
    return state_failure(gpu, call);
}
