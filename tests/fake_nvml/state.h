/* The state that a test writes, as the calls of the fake driver see it. */
#ifndef FAKE_NVML_STATE_H
#define FAKE_NVML_STATE_H

#include <stdint.h>

#define MOST_GPUS 16
#define SYSTEM MOST_GPUS /* calls and keys that belong to no GPU */

/* Return codes, as in NVIDIA's nvml.h. */
enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999,
};

/* What stands behind an nvmlDevice_t. */
typedef struct device { volatile int number; } device_t;
extern device_t state_devices[MOST_GPUS];

/* Counters and settings that outlive a process, in the file `driver` that tests read too: room.py knows this layout. */
typedef struct { char name[64]; uint64_t calls[MOST_GPUS + 1], hangs[MOST_GPUS + 1]; } counted_t;
typedef struct {
    uint64_t names;
    uint64_t power_limit_mw[MOST_GPUS]; /* 0: never set */
    uint64_t persistence[MOST_GPUS];    /* 0: never set, else 1 + mode */
    counted_t counted[256];
} kept_t;

/* Take the lock and bring the state up to date. Everything below is called with the lock held. */
void state_enter(void);
/* Give the lock back; returns its argument. */
int state_leave(int code);
/* Count a call about a GPU (or SYSTEM), then crash, hang or fail as the state wants. Returns the code to fail with. */
int state_check(int gpu, const char *call, int *slot);
/* The code that this call fails with now; nothing is counted. */
int state_failure(int gpu, const char *call);
/* The value of a key; NULL if there is none. Valid until the lock is given back. */
const char *state_text(int gpu, const char *key);
/* The same as a number: NOT_SUPPORTED if there is no such key. */
int state_number(int gpu, const char *key, long long *out);
/* The entries whose key begins with `prefix`, one for each call, from *at = 0 on; NULL at the end. `rest`: of the key. */
const char *state_next(int gpu, const char *prefix, int *at, const char **rest);
int state_listed(int gpu);
kept_t *state_kept(void);
/* Append a line to the file `sets`. */
void state_note_set(int gpu, const char *what, long long value);
/* A descriptor that is readable after the state changed. */
int state_watch(void);
/* Wait, without the lock, until the state changed since the last such wait, or these milliseconds passed. */
void state_wait(int watch, int milliseconds);
long long state_now_ms(void);

#endif
