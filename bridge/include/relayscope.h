/* relayscope.h - read a relayscope segment from C, and write one shard of it.
 *
 * A segment is a file in memory (tmpfs) in which the shards of a relay keep their rings, counters and gauges.
 * A process that links the Rust crate relayscope-bridge makes it and says which series there are. Any number
 * of processes read it; a reader never slows a shard. A shard that the maker does not write itself is one
 * process's to claim and write through this header: the maker interns the shard's series, drops the handles
 * it gets for them, and drops the shard's Publisher.
 *
 * What holds:
 * - Recording, counting and setting gauges are wait-free: no lock, no allocation, no system call, no load of
 *   anything a reader writes. A full ring overwrites its oldest sample.
 * - For every reader, to the unit: delivered + lost + unread = recorded. No sample is delivered torn.
 * - A segment is treated as hostile: sizes are checked once, offsets computed, every index bounded. Texts are
 *   octets, UTF-8 unless the segment is damaged; that they are is not checked here.
 * - A file that is cut short while mapped raises SIGBUS in whoever touches what is gone. Only the maker's
 *   user can do that; a header installs no signal handler. A reader that must survive it handles SIGBUS,
 *   and in any case looks at relayscope_is_whole() after reading, before it believes what it read.
 * - One writer at a time per shard, by the WRITER word. Claims are told from dead ones by process id, so
 *   all writers of a segment share a pid namespace. A process that forks leaves its writers to one side.
 * - One thread at a time uses a reader or a writer. Different threads may use different ones.
 * - The maker keeps its SeriesRegistry as long as others write: when its last handle is gone the segment is
 *   closed, and readers take what is in it for all there will be. A writer looks at relayscope_state() now
 *   and then, off its fast path: if that is not RELAYSCOPE_RUNNING it closes, and opens what comes next.
 *
 * C11 with POSIX 2008, Linux, 64-bit; one file, nothing to link. Include it before system headers, or compile
 * with -D_POSIX_C_SOURCE=200809L. It is not C++ (atomics of C11 are not its own): compile a C file beside.
 *
 * Attach, find a series, count, record an observation, read both back:
 *
 * ~~~c
 * #include "relayscope.h"
 * #include <stdio.h>
 *
 * static void print(void *context, uint64_t position, const struct relayscope_sample *sample) {
 *     (void)context;
 *     printf("sample %ju: series %u, %g\n", (uintmax_t)position, sample->metric_id, sample->number);
 * }
 *
 * int main(int argc, char **argv) {
 *     struct relayscope_segment segment;
 *     struct relayscope_writer writer;
 *     struct relayscope_reader reader;
 *     struct relayscope_series sent, rtt;
 *     struct relayscope_counter counter;
 *     const char *labels[] = {"relay-b"};
 *     uint64_t count = 0;
 *     int code = relayscope_open(&segment, argc > 1 ? argv[1] : "", RELAYSCOPE_WRITE);
 *     if (code != RELAYSCOPE_OK) return fprintf(stderr, "%s\n", relayscope_error(code)), 1;
 *     if ((code = relayscope_find(&segment, "probe_sent_total", labels, 1, 0, &sent)) == RELAYSCOPE_OK &&
 *         (code = relayscope_find(&segment, "probe_rtt_seconds", labels, 1, 0, &rtt)) == RELAYSCOPE_OK &&
 *         (code = relayscope_attach(&reader, &segment, 0, RELAYSCOPE_NOW)) == RELAYSCOPE_OK &&
 *         (code = relayscope_claim(&writer, &segment, 0)) == RELAYSCOPE_OK) {
 *         if ((code = relayscope_counter(&counter, &writer, &sent)) == RELAYSCOPE_OK) {
 *             relayscope_add(counter, 1);
 *             relayscope_record(&writer, relayscope_observation(rtt.id, relayscope_now_ns(), 0.00025));
 *             relayscope_beat(&writer, relayscope_now_ns());
 *             code = relayscope_read_counter(&segment, &sent, &count);
 *             struct relayscope_drained drained = relayscope_drain(&reader, print, NULL);
 *             printf("%ju sent, %ju samples lost\n", (uintmax_t)count, (uintmax_t)drained.lost);
 *         }
 *         relayscope_release(&writer);
 *     }
 *     if (code != RELAYSCOPE_OK) fprintf(stderr, "%s\n", relayscope_error(code));
 *     relayscope_close(&segment);
 *     return code != RELAYSCOPE_OK;
 * }
 * ~~~
 */
#ifndef RELAYSCOPE_H
#define RELAYSCOPE_H

#ifdef __cplusplus
#error "relayscope.h is C11, whose atomics are not C++: include it in a C file and call that from C++"
#elif !defined __STDC_VERSION__ || __STDC_VERSION__ < 201112L || defined __STDC_NO_ATOMICS__
#error "relayscope.h needs C11 with atomics: compile with -std=c11 or later"
#endif

/* A strict -std=c11 hides POSIX unless asked. Elsewhere this would hide what is shown already. */
#if defined __STRICT_ANSI__ && !defined _POSIX_C_SOURCE && !defined _XOPEN_SOURCE && !defined _GNU_SOURCE && \
    !defined _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#if !defined O_CLOEXEC || !defined CLOCK_MONOTONIC
#error "relayscope.h needs POSIX 2008: include it before system headers, or -D_POSIX_C_SOURCE=200809L"
#endif

/* ---- The layout, in words of 64 bits. Frozen with the version; tested against the Rust side's. ---- */

/* "RELAYSCP" as a number, in the byte order of the machine that made the segment. */
#define RELAYSCOPE_MAGIC UINT64_C(0x52454c4159534350)
#define RELAYSCOPE_VERSION UINT64_C(1)

/* Words that no two cores may share. */
#define RELAYSCOPE_LINE_WORDS UINT64_C(16)
#define RELAYSCOPE_HEADER_WORDS UINT64_C(512)
#define RELAYSCOPE_SHARD_ALIGN UINT64_C(512)

/* The header. What precedes STATE is written once, VERSION last. */
#define RELAYSCOPE_HEADER_MAGIC 0
#define RELAYSCOPE_HEADER_VERSION 1
#define RELAYSCOPE_HEADER_LENGTH 2
#define RELAYSCOPE_HEADER_GENERATION 3
#define RELAYSCOPE_HEADER_PID 4
#define RELAYSCOPE_HEADER_START_UNIX_NS 5
#define RELAYSCOPE_HEADER_START_MONOTONIC_NS 6
#define RELAYSCOPE_HEADER_BOOT_ID 7
#define RELAYSCOPE_HEADER_SHARDS 9
#define RELAYSCOPE_HEADER_RING_SLOTS 10
#define RELAYSCOPE_HEADER_CELLS_PER_SHARD 11
#define RELAYSCOPE_HEADER_SERIES_ROWS 12
#define RELAYSCOPE_HEADER_FAMILY_ROWS 13
#define RELAYSCOPE_HEADER_STRING_WORDS 14
#define RELAYSCOPE_HEADER_STATE 16
#define RELAYSCOPE_HEADER_TABLE_GENERATION 17
#define RELAYSCOPE_HEADER_SERIES_USED 18
#define RELAYSCOPE_HEADER_FAMILIES_USED 19
#define RELAYSCOPE_HEADER_RELOAD 20

/* What the word STATE says. */
#define RELAYSCOPE_STATE_RUNNING UINT64_C(1)
#define RELAYSCOPE_STATE_CLOSED UINT64_C(2)

/* A row of the table of families or of series. */
#define RELAYSCOPE_ROW_WORDS UINT64_C(8)
#define RELAYSCOPE_ROW_SEQUENCE 0
#define RELAYSCOPE_ROW_WHAT 1
#define RELAYSCOPE_ROW_WHERE 2
#define RELAYSCOPE_ROW_SINCE 3
#define RELAYSCOPE_ROW_LABELS 4
#define RELAYSCOPE_ROW_LIVE 1
#define RELAYSCOPE_NO_CELL UINT32_C(0xffffffff)
#define RELAYSCOPE_LABELS_MAX 8
/* Octets of one text at most; a buffer of one more holds any. */
#define RELAYSCOPE_STRING_MAX 1024
/* Units are numbered from 0 to this: none, seconds, milliseconds, ratio, percent, bytes, samples. */
#define RELAYSCOPE_UNIT_MAX 6

/* A shard, before its cells and its ring. */
#define RELAYSCOPE_SHARD_WRITER 0
#define RELAYSCOPE_SHARD_HEARTBEAT_NS 1
#define RELAYSCOPE_SHARD_ACKNOWLEDGED 2
#define RELAYSCOPE_SHARD_RELEASED_AT 3
#define RELAYSCOPE_SHARD_RING UINT64_C(16)
#define RELAYSCOPE_SHARD_CELLS UINT64_C(32)

/* The ring: two words, and slots of three. */
#define RELAYSCOPE_RING_HEAD 0
#define RELAYSCOPE_RING_CLAIMED 1
#define RELAYSCOPE_SAMPLE_WORDS UINT64_C(3)
/* Records published with one head store: bounds how much of the ring a batch makes unreadable. */
#define RELAYSCOPE_BATCH_MAX UINT64_C(64)
/* Records copied between two looks at the head: bounds the stack buffer at 1.5 KiB. A reader's own choice. */
#define RELAYSCOPE_CHUNK UINT64_C(64)
/* A reader that was lapped resumes this fraction of the ring ahead of what is clobbered next. */
#define RELAYSCOPE_SLACK_DIVISOR UINT64_C(8)

/* The bits of a gauge without a value; whoever reads takes every NaN for absent. */
#define RELAYSCOPE_ABSENT UINT64_C(0x7ff8000000000a85)

#define RELAYSCOPE_SHARDS_MAX UINT64_C(1024)
#define RELAYSCOPE_RING_CAPACITY_MIN UINT64_C(2)
#define RELAYSCOPE_RING_CAPACITY_MAX UINT64_C(16777216)
#define RELAYSCOPE_SERIES_MAX UINT64_C(268435456)
#define RELAYSCOPE_FAMILIES_MAX UINT64_C(4096)
#define RELAYSCOPE_STRING_WORDS_MAX UINT64_C(268435456)

/* Looks at a row that changes under us, before it is called busy. */
#define RELAYSCOPE_LOOKS_MAX 64

_Static_assert(sizeof(size_t) == 8, "offsets are 64 bits wide");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && _Alignof(_Atomic uint64_t) == 8, "a word is its value alone");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_LONG_LOCK_FREE == 2, "no lock is shared with a process");
_Static_assert(sizeof(double) == 8, "a gauge's bits fill a word");
_Static_assert(RELAYSCOPE_HEADER_STATE == RELAYSCOPE_LINE_WORDS,
               "what is written often shares no line with what never is");
_Static_assert(RELAYSCOPE_HEADER_STRING_WORDS < RELAYSCOPE_HEADER_STATE &&
                   RELAYSCOPE_HEADER_RELOAD < RELAYSCOPE_HEADER_WORDS,
               "the header's words are in it");
_Static_assert(RELAYSCOPE_SHARD_RELEASED_AT < RELAYSCOPE_SHARD_RING &&
                   RELAYSCOPE_SHARD_RING + RELAYSCOPE_LINE_WORDS == RELAYSCOPE_SHARD_CELLS,
               "the ring's two words have a line of their own");
_Static_assert(RELAYSCOPE_LABELS_MAX * 4 == (RELAYSCOPE_ROW_WORDS - RELAYSCOPE_ROW_LABELS) * 8,
               "the rest of a row holds its labels, 32 bits each");
_Static_assert(RELAYSCOPE_SAMPLE_WORDS * 8 == 24, "a sample is 24 bytes: id and kind, time, value");

/* ---- What there is ---- */

/* What went wrong. relayscope_error() says it in words. */
enum relayscope_code {
    RELAYSCOPE_OK = 0,
    /* The system refused: errno says why. */
    RELAYSCOPE_E_SYSTEM,
    RELAYSCOPE_E_NOT_A_FILE,
    RELAYSCOPE_E_NOT_A_SEGMENT,
    RELAYSCOPE_E_FOREIGN_ENDIAN,
    RELAYSCOPE_E_UNFINISHED,
    RELAYSCOPE_E_VERSION,
    /* A field of the header is out of range: the segment's `what` names it. */
    RELAYSCOPE_E_HEADER,
    RELAYSCOPE_E_LENGTH,
    RELAYSCOPE_E_READ_ONLY,
    RELAYSCOPE_E_ENDED,
    RELAYSCOPE_E_NO_SHARD,
    RELAYSCOPE_E_TAKEN,
    RELAYSCOPE_E_NOT_FOUND,
    RELAYSCOPE_E_BUSY,
    RELAYSCOPE_E_STALE,
    RELAYSCOPE_E_KIND,
    RELAYSCOPE_E_OTHER_SHARD,
    RELAYSCOPE_E_ABSENT,
    RELAYSCOPE_E_ROOM
};

/* What relayscope_open() opens for. */
enum relayscope_access { RELAYSCOPE_READ, RELAYSCOPE_WRITE };

/* What became of a segment. */
enum relayscope_state {
    /* Its maker lives. */
    RELAYSCOPE_RUNNING,
    /* Its maker ended in good order: what is in it is all there will be. */
    RELAYSCOPE_CLOSED,
    /* Its maker died. What was recorded to the last can still be read. */
    RELAYSCOPE_DEAD,
    /* Its file changed its length, or lost its header, while mapped: nothing read from it can be trusted. */
    RELAYSCOPE_DAMAGED
};

/* Where a reader begins. */
enum relayscope_start {
    /* With the first record ever: those overwritten already are lost to this reader. */
    RELAYSCOPE_FIRST,
    /* With the oldest record that can still be read. */
    RELAYSCOPE_OLDEST,
    /* With the next record. */
    RELAYSCOPE_NOW
};

/* What a series or a sample measures. */
enum relayscope_kind {
    /* Only grows. */
    RELAYSCOPE_COUNTER = 1,
    /* Goes up and down. */
    RELAYSCOPE_GAUGE = 2,
    /* A distribution of observations, which travel in the ring. */
    RELAYSCOPE_HISTOGRAM = 3
};

/* Which segment this is: what its maker wrote once. */
struct relayscope_info {
    /* Segments made under this name so far; from 1. */
    uint64_t generation;
    /* The maker's process. */
    uint64_t pid;
    /* When it was made: nanoseconds since the Unix epoch, and of CLOCK_MONOTONIC. */
    uint64_t start_unix_ns;
    uint64_t start_monotonic_ns;
    /* The kernel's boot id, and whether that is this machine's now. Monotonic times compare to none of another
     * boot. */
    uint64_t boot_id[2];
    bool this_boot;
    uint64_t shards;
    /* Samples in each ring; one fewer can be read at any time. */
    uint64_t ring_capacity;
    uint64_t cells_per_shard;
    uint64_t bytes;
};

/* Sizes and offsets in words, the latter from the start of the segment or, `slots`, of a shard. */
struct relayscope_layout {
    uint64_t shards, ring_slots, cells_per_shard, series_rows, family_rows, string_words;
    uint64_t families_at, series_at, strings_at, shards_at, shard_stride, slots_at, words;
};

/* An open segment. All but `info` and `what` is this header's own. */
struct relayscope_segment {
    struct relayscope_info info;
    /* After RELAYSCOPE_E_HEADER: the field that is out of range. */
    const char *what;
    struct relayscope_layout layout;
    _Atomic uint64_t *words;
    /* What is to be unmapped: where the words are. */
    void *mapping;
    int file;
    bool writable;
};

/* One measurement of one series at one moment. */
struct relayscope_sample {
    uint32_t metric_id;
    /* An enum relayscope_kind. */
    uint32_t kind;
    /* When it was measured: nanoseconds of CLOCK_MONOTONIC. */
    uint64_t timestamp_ns;
    union {
        /* Of a counter: its new total. */
        uint64_t count;
        /* Of a gauge or histogram. */
        double number;
    };
};

/* A live series as its row told. What it says is checked again whenever its cells are read. */
struct relayscope_series {
    /* The number that its samples carry. */
    uint32_t id;
    uint32_t cell;
    uint32_t shared_cell;
    uint16_t shard;
    uint16_t family;
    /* An enum relayscope_kind. */
    uint8_t kind;
    uint8_t unit;
    /* Whether exposition puts the configured prefix before the name. */
    bool prefixed;
    uint8_t labels;
    /* The first ring position that can be its own: below it, the id was another's. */
    uint64_t since;
    /* Which of those that had this id it is: never the same for two of them. */
    uint64_t incarnation;
    /* Where its texts lie. */
    uint32_t name, help;
    uint32_t label_names[RELAYSCOPE_LABELS_MAX];
    uint32_t label_values[RELAYSCOPE_LABELS_MAX];
};

/* One reader of one shard's ring, and its account. Passive: the shard does not know that it exists. */
struct relayscope_reader {
    /* Where it began, and the position it reads next. */
    uint64_t start, cursor;
    uint64_t delivered, lost;
    /* Of the lost: those whose words were whole but no sample (a damaged segment). */
    uint64_t malformed;
    _Atomic uint64_t *ring, *slots;
    uint64_t capacity;
};

/* What one drain brought. `lost` includes `malformed`. */
struct relayscope_drained {
    uint64_t delivered, lost, malformed;
};

/* A reader's account since it attached: delivered + lost + unread = recorded. */
struct relayscope_account {
    uint64_t recorded, delivered, lost, unread;
};

/* Takes a sample. `position` is the number of samples ever recorded before it. */
typedef void relayscope_deliver(void *context, uint64_t position, const struct relayscope_sample *sample);

/* The claim to one shard: its ring, its cells and its sign of life. */
struct relayscope_writer {
    struct relayscope_segment *segment;
    _Atomic uint64_t *pulse, *ring, *slots, *cells;
    uint64_t capacity;
    /* The position written next; the ring's head is its copy for readers. */
    uint64_t head;
    /* The end of the furthest batch announced, by this writer or one before it. */
    uint64_t claimed;
    uint64_t acknowledged;
    uint64_t pid;
    uint16_t shard;
};

/* A cell to count or to set in, of a series of the writer's shard. */
struct relayscope_counter {
    _Atomic uint64_t *word;
};
struct relayscope_gauge {
    _Atomic uint64_t *word;
};

/* ---- Errors ---- */

/* What a code means and what would be right. A static text. */
static inline const char *relayscope_error(int code) {
    switch (code) {
    case RELAYSCOPE_OK: return "no error";
    case RELAYSCOPE_E_SYSTEM:
        return "the system refused the segment (see errno); start its maker first, or name a file that "
               "you may use";
    case RELAYSCOPE_E_NOT_A_FILE:
        return "what was named is no regular file; name a file that holds a segment";
    case RELAYSCOPE_E_NOT_A_SEGMENT:
        return "no relayscope segment: the file does not begin as one; name another file";
    case RELAYSCOPE_E_FOREIGN_ENDIAN:
        return "the segment is of a machine with the other byte order; read it on one like that";
    case RELAYSCOPE_E_UNFINISHED:
        return "the segment is unfinished: its maker is at it, or died; start the data plane again";
    case RELAYSCOPE_E_VERSION:
        return "the segment has another layout version than 1; use the header of the release that made it";
    case RELAYSCOPE_E_HEADER:
        return "the segment is damaged: a field of its header (see what) is out of range";
    case RELAYSCOPE_E_LENGTH:
        return "the segment is damaged: its file is shorter or longer than its header says, or was cut off "
               "and grew again";
    case RELAYSCOPE_E_READ_ONLY: return "the segment was opened for reading; open it with RELAYSCOPE_WRITE";
    case RELAYSCOPE_E_ENDED:
        return "the segment's maker closed it, died, or its file is damaged; open the segment that "
               "replaces it";
    case RELAYSCOPE_E_NO_SHARD: return "the segment has no such shard; see info.shards";
    case RELAYSCOPE_E_TAKEN:
        return "a living process writes this shard; its maker must drop the shard's publisher first";
    case RELAYSCOPE_E_NOT_FOUND:
        return "no live series of that family and label values on that shard; its maker must intern it "
               "first";
    case RELAYSCOPE_E_BUSY: return "the table of series kept changing during the look; look again";
    case RELAYSCOPE_E_STALE: return "the series was retired, or its id given to another; find it again";
    case RELAYSCOPE_E_KIND: return "the series is of another kind than what was asked for; see its kind";
    case RELAYSCOPE_E_OTHER_SHARD:
        return "the series belongs to another shard than the writer; find that of the writer's";
    case RELAYSCOPE_E_ABSENT: return "the gauge has no value now: nothing was measured";
    case RELAYSCOPE_E_ROOM:
        return "no such label, no such text, or a buffer too small; 1025 octets hold any text";
    default: return "no code of relayscope";
    }
}

/* ---- Words ---- */

/* Loads are relaxed, with fences: only plain loads are sure to work on a page that is mapped read-only. */
static inline uint64_t relayscope__load(_Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline void relayscope__store(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline uint64_t relayscope__min(uint64_t one, uint64_t other) { return one < other ? one : other; }

static inline uint64_t relayscope__max(uint64_t one, uint64_t other) { return one > other ? one : other; }

/* one - other, 0 where that is below 0. */
static inline uint64_t relayscope__less(uint64_t one, uint64_t other) {
    return one > other ? one - other : 0;
}

static inline uint64_t relayscope__round_up(uint64_t value, uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static inline double relayscope__number(uint64_t bits) {
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline uint64_t relayscope__bits(double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* By its bits: -ffast-math may not take absent gauges for numbers. */
static inline bool relayscope__is_nan(uint64_t bits) {
    return (bits & UINT64_C(0x7fffffffffffffff)) > UINT64_C(0x7ff0000000000000);
}

/* Nanoseconds of CLOCK_MONOTONIC: what timestamps and heartbeats are in. 0 where there is no such clock. */
static inline uint64_t relayscope_now_ns(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        return 0;
    }
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- Opening ---- */

/* Offsets from sizes that are in range: products of such sizes do not overflow 64 bits. */
static inline void relayscope__lay_out(struct relayscope_layout *layout) {
    layout->families_at = RELAYSCOPE_HEADER_WORDS;
    layout->series_at = layout->families_at + layout->family_rows * RELAYSCOPE_ROW_WORDS;
    layout->strings_at = layout->series_at + layout->series_rows * RELAYSCOPE_ROW_WORDS;
    layout->shards_at =
        relayscope__round_up(layout->strings_at + layout->string_words, RELAYSCOPE_SHARD_ALIGN);
    layout->slots_at =
        RELAYSCOPE_SHARD_CELLS + relayscope__round_up(layout->cells_per_shard, RELAYSCOPE_LINE_WORDS);
    layout->shard_stride = relayscope__round_up(
        layout->slots_at + layout->ring_slots * RELAYSCOPE_SAMPLE_WORDS, RELAYSCOPE_SHARD_ALIGN);
    /* A page more, for the mark at its end. */
    layout->words = layout->shards_at + layout->shards * layout->shard_stride + RELAYSCOPE_SHARD_ALIGN;
}

/* The size that is out of range, by the name the Rust side gives it; NULL if none is. */
static inline const char *relayscope__wrong_size(const struct relayscope_layout *sizes) {
    const struct {
        const char *what;
        uint64_t value, min, max;
    } ranges[] = {
        {"shards", sizes->shards, 1, RELAYSCOPE_SHARDS_MAX},
        {"ring_capacity", sizes->ring_slots, RELAYSCOPE_RING_CAPACITY_MIN, RELAYSCOPE_RING_CAPACITY_MAX},
        {"cells_per_shard", sizes->cells_per_shard, 1, RELAYSCOPE_SERIES_MAX},
        {"max_series", sizes->series_rows, 1, RELAYSCOPE_SERIES_MAX},
        {"max_families", sizes->family_rows, 1, RELAYSCOPE_FAMILIES_MAX},
        {"string_words", sizes->string_words, 1, RELAYSCOPE_STRING_WORDS_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            return ranges[i].what;
        }
    }
    return (sizes->ring_slots & (sizes->ring_slots - 1)) != 0 ? "ring_capacity" : NULL;
}

/* Fills `buffer` from the start of the file; the octets there were, or -1 with errno. */
static inline ssize_t relayscope__read_start(int file, void *buffer, size_t size) {
    size_t len = 0;
    while (len < size) {
        ssize_t got = pread(file, (char *)buffer + len, size - len, (off_t)len);
        if (got == 0) {
            break;
        }
        if (got > 0) {
            len += (size_t)got;
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return (ssize_t)len;
}

/* The kernel's boot id; zeros, which equal no boot, where there is none to be read. */
static inline void relayscope__boot_id(uint64_t id[2]) {
    char text[64];
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t len = file < 0 ? 0 : relayscope__read_start(file, text, sizeof text);
    uint64_t halves[2] = {0, 0};
    int digits = 0;
    for (ssize_t i = 0; i < len && digits < 32; i++) {
        const char *known = "0123456789abcdef", *digit = text[i] != '\0' ? strchr(known, text[i]) : NULL;
        if (digit != NULL) {
            halves[digits / 16] = halves[digits / 16] << 4 | (uint64_t)(digit - known);
            digits++;
        }
    }
    id[0] = digits == 32 ? halves[0] : 0;
    id[1] = digits == 32 ? halves[1] : 0;
    if (file >= 0) {
        close(file);
    }
}

/* That the `len` octets read of `page` begin as a segment of this version does. */
static inline int relayscope__check_header(const uint64_t *page, size_t len) {
    const uint64_t magic = RELAYSCOPE_MAGIC;
    unsigned char octets[8], swapped[8];
    memcpy(octets, &magic, 8);
    for (size_t i = 0; i < 8; i++) {
        swapped[i] = octets[7 - i];
    }
    if (len >= 8 && memcmp(page, swapped, 8) == 0) {
        return RELAYSCOPE_E_FOREIGN_ENDIAN;
    }
    if (len < 8 || page[RELAYSCOPE_HEADER_MAGIC] != RELAYSCOPE_MAGIC) {
        return RELAYSCOPE_E_NOT_A_SEGMENT;
    }
    if (len < RELAYSCOPE_HEADER_WORDS * 8) {
        return RELAYSCOPE_E_LENGTH;
    }
    switch (page[RELAYSCOPE_HEADER_VERSION]) {
    case RELAYSCOPE_VERSION: return RELAYSCOPE_OK;
    case 0: return RELAYSCOPE_E_UNFINISHED;
    default: return RELAYSCOPE_E_VERSION;
    }
}

static inline void relayscope__take_info(struct relayscope_segment *segment, const uint64_t *page) {
    uint64_t boot_id[2];
    relayscope__boot_id(boot_id);
    segment->info = (struct relayscope_info){
        .generation = page[RELAYSCOPE_HEADER_GENERATION],
        .pid = page[RELAYSCOPE_HEADER_PID],
        .start_unix_ns = page[RELAYSCOPE_HEADER_START_UNIX_NS],
        .start_monotonic_ns = page[RELAYSCOPE_HEADER_START_MONOTONIC_NS],
        .boot_id = {page[RELAYSCOPE_HEADER_BOOT_ID], page[RELAYSCOPE_HEADER_BOOT_ID + 1]},
        .this_boot = page[RELAYSCOPE_HEADER_BOOT_ID] == boot_id[0] &&
                     page[RELAYSCOPE_HEADER_BOOT_ID + 1] == boot_id[1],
        .shards = segment->layout.shards,
        .ring_capacity = segment->layout.ring_slots,
        .cells_per_shard = segment->layout.cells_per_shard,
        .bytes = segment->layout.words * 8,
    };
}

/* Checks the header of `file` and maps it. */
static inline int relayscope__map(struct relayscope_segment *segment, int file) {
    uint64_t page[RELAYSCOPE_HEADER_WORDS];
    struct stat status;
    memset(page, 0, sizeof page);
    if (fstat(file, &status) != 0) {
        return RELAYSCOPE_E_SYSTEM;
    }
    if (!S_ISREG(status.st_mode)) {
        return RELAYSCOPE_E_NOT_A_FILE;
    }
    ssize_t len = relayscope__read_start(file, page, sizeof page);
    if (len < 0) {
        return RELAYSCOPE_E_SYSTEM;
    }
    int code = relayscope__check_header(page, (size_t)len);
    if (code != RELAYSCOPE_OK) {
        return code;
    }
    struct relayscope_layout *layout = &segment->layout;
    layout->shards = page[RELAYSCOPE_HEADER_SHARDS];
    layout->ring_slots = page[RELAYSCOPE_HEADER_RING_SLOTS];
    layout->cells_per_shard = page[RELAYSCOPE_HEADER_CELLS_PER_SHARD];
    layout->series_rows = page[RELAYSCOPE_HEADER_SERIES_ROWS];
    layout->family_rows = page[RELAYSCOPE_HEADER_FAMILY_ROWS];
    layout->string_words = page[RELAYSCOPE_HEADER_STRING_WORDS];
    segment->what = relayscope__wrong_size(layout);
    if (segment->what != NULL) {
        return RELAYSCOPE_E_HEADER;
    }
    relayscope__lay_out(layout);
    if (page[RELAYSCOPE_HEADER_LENGTH] != layout->words * 8) {
        segment->what = "length";
        return RELAYSCOPE_E_HEADER;
    }
    if ((uint64_t)status.st_size != layout->words * 8) {
        return RELAYSCOPE_E_LENGTH;
    }
    int protection = segment->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *words = mmap(NULL, (size_t)(layout->words * 8), protection, MAP_SHARED, file, 0);
    if (words == MAP_FAILED) {
        return RELAYSCOPE_E_SYSTEM;
    }
    segment->words = (_Atomic uint64_t *)words;
    if (relayscope__load(segment->words + layout->words - 1) != RELAYSCOPE_MAGIC) {
        munmap(words, (size_t)(layout->words * 8));
        return RELAYSCOPE_E_LENGTH;
    }
    segment->mapping = words;
    relayscope__take_info(segment, page);
    return RELAYSCOPE_OK;
}

/* Maps the segment at `path`: to read all of it, or to write shards as well. For writing, the file must be
 * one that this user may write; it is not made here. A failure leaves nothing to be closed. */
static inline int relayscope_open(struct relayscope_segment *segment, const char *path,
                                  enum relayscope_access access) {
    memset(segment, 0, sizeof *segment);
    segment->file = -1;
    segment->writable = access == RELAYSCOPE_WRITE;
    /* Non-blocking: opening a pipe for reading would wait for its writer. */
    int file = open(path, (segment->writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) {
        /* What a directory says that is opened for writing. */
        return errno == EISDIR ? RELAYSCOPE_E_NOT_A_FILE : RELAYSCOPE_E_SYSTEM;
    }
    int code = relayscope__map(segment, file);
    if (code != RELAYSCOPE_OK) {
        int kept = errno;
        close(file);
        errno = kept;
        return code;
    }
    segment->file = file;
    return RELAYSCOPE_OK;
}

/* Unmaps it. Its readers, writers and cells must not be used any more; writers are released before. */
static inline void relayscope_close(struct relayscope_segment *segment) {
    if (segment->words != NULL) {
        munmap(segment->mapping, (size_t)(segment->layout.words * 8));
        close(segment->file);
    }
    segment->words = NULL;
    segment->mapping = NULL;
    segment->file = -1;
}

/* Whether the file still has every byte it had. One system call. Look after reading, before believing. */
static inline bool relayscope_is_whole(const struct relayscope_segment *segment) {
    struct stat status;
    return fstat(segment->file, &status) == 0 && (uint64_t)status.st_size == segment->info.bytes;
}

/* Whether `path`, under which it was opened, means another file by now: time to open that. */
static inline bool relayscope_is_replaced(const struct relayscope_segment *segment, const char *path) {
    struct stat ours, named;
    return fstat(segment->file, &ours) == 0 && stat(path, &named) == 0 &&
           (ours.st_dev != named.st_dev || ours.st_ino != named.st_ino);
}

/* Whether the maker holds its lock, which the kernel drops when the process ends. */
static inline bool relayscope__is_held(const struct relayscope_segment *segment) {
#ifdef F_OFD_GETLK
    const int ask = F_OFD_GETLK;
#else
    /* Hidden unless _GNU_SOURCE is defined; the same number on every Linux. */
    const int ask = 36;
#endif
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    return fcntl(segment->file, ask, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* What became of it by now. Two system calls. What was read before is the maker's unless it is DAMAGED. */
static inline enum relayscope_state relayscope_state(const struct relayscope_segment *segment) {
    /* First: words that a cut file no longer has are not to be touched. */
    if (!relayscope_is_whole(segment)) {
        return RELAYSCOPE_DAMAGED;
    }
    if (relayscope__load(segment->words + RELAYSCOPE_HEADER_MAGIC) != RELAYSCOPE_MAGIC ||
        relayscope__load(segment->words + RELAYSCOPE_HEADER_VERSION) != RELAYSCOPE_VERSION ||
        relayscope__load(segment->words + segment->layout.words - 1) != RELAYSCOPE_MAGIC) {
        return RELAYSCOPE_DAMAGED;
    }
    /* Before the state: a maker closes the segment and then lets go of it. */
    const bool held = segment->info.this_boot && relayscope__is_held(segment);
    uint64_t state = relayscope__load(segment->words + RELAYSCOPE_HEADER_STATE);
    /* Acquire: with the release store in SegmentOwner::drop. A drain after CLOSED is the last one. */
    atomic_thread_fence(memory_order_acquire);
    if (state == RELAYSCOPE_STATE_CLOSED) {
        return RELAYSCOPE_CLOSED;
    }
    return held ? RELAYSCOPE_RUNNING : RELAYSCOPE_DEAD;
}

/* The first word of a shard that there is. */
static inline _Atomic uint64_t *relayscope__shard(const struct relayscope_segment *segment, uint16_t shard) {
    return segment->words + segment->layout.shards_at + shard * segment->layout.shard_stride;
}

/* When the shard last signed life: nanoseconds of CLOCK_MONOTONIC; 0 before the first or without the shard. */
static inline uint64_t relayscope_heartbeat_ns(const struct relayscope_segment *segment, uint16_t shard) {
    if (shard >= segment->layout.shards) {
        return 0;
    }
    return relayscope__load(relayscope__shard(segment, shard) + RELAYSCOPE_SHARD_HEARTBEAT_NS);
}

/* The process that writes this shard; 0 while none does, or without the shard. */
static inline uint64_t relayscope_writer_pid(const struct relayscope_segment *segment, uint16_t shard) {
    if (shard >= segment->layout.shards) {
        return 0;
    }
    return relayscope__load(relayscope__shard(segment, shard) + RELAYSCOPE_SHARD_WRITER);
}

/* ---- Reading a ring ---- */

/* A reader of one shard's ring, with an account of its own that begins at `start`. */
static inline int relayscope_attach(struct relayscope_reader *reader,
                                    const struct relayscope_segment *segment, uint16_t shard,
                                    enum relayscope_start start) {
    if (shard >= segment->layout.shards) {
        return RELAYSCOPE_E_NO_SHARD;
    }
    _Atomic uint64_t *words = relayscope__shard(segment, shard);
    const uint64_t capacity = segment->layout.ring_slots;
    const uint64_t head = relayscope__load(words + RELAYSCOPE_SHARD_RING + RELAYSCOPE_RING_HEAD);
    uint64_t at = head;
    if (start == RELAYSCOPE_FIRST) {
        at = 0;
    } else if (start == RELAYSCOPE_OLDEST) {
        at = relayscope__less(head, capacity - 1);
    }
    *reader = (struct relayscope_reader){
        .start = at,
        .cursor = at,
        .ring = words + RELAYSCOPE_SHARD_RING,
        .slots = words + segment->layout.slots_at,
        .capacity = capacity,
    };
    return RELAYSCOPE_OK;
}

/* How far the ring is written now. What the producer did before it recorded a sample below the mark is
 * visible from here on: every series of such a sample can be found. */
static inline uint64_t relayscope_mark(const struct relayscope_reader *reader) {
    uint64_t head = relayscope__load(reader->ring + RELAYSCOPE_RING_HEAD);
    /* Acquire: with the release store of head in relayscope__publish and Producer::publish. The records below
     * the mark are whole, if still there. */
    atomic_thread_fence(memory_order_acquire);
    return head;
}

/* The oldest position that no write, finished or in flight, has touched. The record in flight at `head`
 * already clobbers `head - capacity`. */
static inline uint64_t relayscope__oldest_readable(uint64_t head, uint64_t claimed, uint64_t capacity) {
    uint64_t in_flight = head == UINT64_MAX ? head : head + 1;
    return relayscope__less(relayscope__max(in_flight, claimed), capacity);
}

/* If the record at the cursor is gone, jumps ahead and returns how many that lost: neither to the oldest
 * record, which goes next, nor to the head, which would throw away a ring that is still good. */
static inline uint64_t relayscope__skip_if_lapped(struct relayscope_reader *reader, uint64_t oldest) {
    if (reader->cursor >= oldest) {
        return 0;
    }
    uint64_t resume = oldest + reader->capacity / RELAYSCOPE_SLACK_DIVISOR;
    uint64_t lost = resume - reader->cursor;
    reader->cursor = resume;
    reader->lost += lost;
    return lost;
}

/* Words that passed the ring's validation as a sample; false when they are none. */
static inline bool relayscope__decode(const uint64_t *words, struct relayscope_sample *sample) {
    uint64_t kind = words[0] >> 32;
    if (kind < RELAYSCOPE_COUNTER || kind > RELAYSCOPE_HISTOGRAM) {
        return false;
    }
    sample->metric_id = (uint32_t)(words[0] & UINT32_MAX);
    sample->kind = (uint32_t)kind;
    sample->timestamp_ns = words[1];
    /* A counter's bits are its count. */
    sample->count = words[2];
    return true;
}

/* Copies up to a chunk of records, discards those clobbered meanwhile, delivers the rest. Returns the oldest
 * position that could still be read after the copy. */
static inline uint64_t relayscope__drain_chunk(struct relayscope_reader *reader, uint64_t end,
                                               relayscope_deliver *deliver, void *context,
                                               struct relayscope_drained *total) {
    const uint64_t count = relayscope__min(RELAYSCOPE_CHUNK, relayscope__less(end, reader->cursor));
    const uint64_t first = reader->cursor;
    uint64_t copy[RELAYSCOPE_CHUNK][RELAYSCOPE_SAMPLE_WORDS];
    for (uint64_t i = 0; i < count; i++) {
        /* The capacity is a power of two. */
        uint64_t slot = (first + i) & (reader->capacity - 1);
        _Atomic uint64_t *words = reader->slots + slot * RELAYSCOPE_SAMPLE_WORDS;
        for (uint64_t word = 0; word < RELAYSCOPE_SAMPLE_WORDS; word++) {
            copy[i][word] = relayscope__load(words + word);
        }
    }
    /* Acquire: with the release fence in relayscope_record, relayscope_record_batch and their like in
     * Producer. If a word above was clobbered, the look below sees the head (or the claim) stored before
     * that. */
    atomic_thread_fence(memory_order_acquire);
    const uint64_t head = relayscope__load(reader->ring + RELAYSCOPE_RING_HEAD);
    const uint64_t claimed = relayscope__load(reader->ring + RELAYSCOPE_RING_CLAIMED);
    const uint64_t oldest = relayscope__oldest_readable(head, claimed, reader->capacity);
    const uint64_t clobbered = relayscope__min(relayscope__less(oldest, first), count);

    /* Billed before anything is delivered: the cursor and the account never disagree. */
    uint64_t malformed = 0;
    reader->cursor += count;
    reader->delivered += count - clobbered;
    reader->lost += clobbered;
    for (uint64_t i = clobbered; i < count; i++) {
        struct relayscope_sample sample;
        if (relayscope__decode(copy[i], &sample)) {
            deliver(context, first + i, &sample);
        } else {
            malformed++;
        }
    }
    reader->delivered -= malformed;
    reader->lost += malformed;
    reader->malformed += malformed;
    total->delivered += count - clobbered - malformed;
    total->lost += clobbered + malformed;
    total->malformed += malformed;
    return oldest;
}

/* As relayscope_drain(), but only what lies below `mark`. */
static inline struct relayscope_drained relayscope_drain_to(struct relayscope_reader *reader, uint64_t mark,
                                                            relayscope_deliver *deliver, void *context) {
    struct relayscope_drained total = {0, 0, 0};
    /* Bounded by the earlier look: a busy producer cannot keep us here. One look at the head per chunk, and
     * no more: each takes its cache line from the producer. */
    uint64_t oldest = relayscope__oldest_readable(mark, 0, reader->capacity);
    while (reader->cursor < mark) {
        total.lost += relayscope__skip_if_lapped(reader, oldest);
        oldest = relayscope__drain_chunk(reader, mark, deliver, context, &total);
    }
    return total;
}

/* Hands every sample published before this call to `deliver`, oldest first, and bills what was overwritten.
 * Never waits, never allocates, never retries: O(samples), at most one ring's worth. `deliver` may not use
 * this reader; if it leaves by longjmp, the rest of its chunk (at most 64 samples) counts as delivered. */
static inline struct relayscope_drained relayscope_drain(struct relayscope_reader *reader,
                                                         relayscope_deliver *deliver, void *context) {
    return relayscope_drain_to(reader, relayscope_mark(reader), deliver, context);
}

/* The account since this reader attached. */
static inline struct relayscope_account relayscope_account(const struct relayscope_reader *reader) {
    uint64_t head = relayscope__max(relayscope__load(reader->ring + RELAYSCOPE_RING_HEAD), reader->cursor);
    return (struct relayscope_account){
        .recorded = head - reader->start,
        .delivered = reader->delivered,
        .lost = reader->lost,
        .unread = head - reader->cursor,
    };
}

/* ---- Series ---- */

/* The octets of the text at `at`, and where its first word is; NULL where no text can be. */
static inline _Atomic uint64_t *relayscope__text(const struct relayscope_segment *segment, uint32_t at,
                                                 size_t *len) {
    const uint64_t all = segment->layout.string_words;
    if (at >= all) {
        return NULL;
    }
    _Atomic uint64_t *words = segment->words + segment->layout.strings_at + at;
    const uint64_t octets = relayscope__load(words);
    if (octets > RELAYSCOPE_STRING_MAX || 1 + (octets + 7) / 8 > all - at) {
        return NULL;
    }
    *len = (size_t)octets;
    return words + 1;
}

static inline bool relayscope__text_is(const struct relayscope_segment *segment, uint32_t at,
                                       const char *text) {
    size_t len;
    _Atomic uint64_t *words = relayscope__text(segment, at, &len);
    if (words == NULL || strlen(text) != len) {
        return false;
    }
    for (size_t from = 0; from < len; from += 8) {
        uint64_t word = relayscope__load(words + from / 8);
        if (memcmp(&word, text + from, relayscope__min(8, len - from)) != 0) {
            return false;
        }
    }
    return true;
}

/* Whether what was read since the row had `sequence` was all the row's. */
static inline bool relayscope__unchanged(_Atomic uint64_t *row, uint64_t sequence) {
    /* Acquire: with the registry's release fence in Table::write_row. Who read a word stored after that (of
     * this row, of a text or cell given away since) sees the odd sequence too. */
    atomic_thread_fence(memory_order_acquire);
    return relayscope__load(row + RELAYSCOPE_ROW_SEQUENCE) == sequence;
}

/* A row's sequence: 0 if it was never written, odd while it is being written. */
static inline uint64_t relayscope__sequence(_Atomic uint64_t *row) {
    uint64_t sequence = relayscope__load(row + RELAYSCOPE_ROW_SEQUENCE);
    /* Acquire: with the release store that ends Table::write_row. Who sees the even sequence sees the row. */
    atomic_thread_fence(memory_order_acquire);
    return sequence;
}

static inline _Atomic uint64_t *relayscope__row(const struct relayscope_segment *segment, uint64_t table,
                                                uint64_t row) {
    return segment->words + table + row * RELAYSCOPE_ROW_WORDS;
}

static inline void relayscope__read_labels(_Atomic uint64_t *row, uint8_t labels, uint32_t *texts) {
    for (uint8_t i = 0; i < labels; i++) {
        uint64_t pair = relayscope__load(row + RELAYSCOPE_ROW_LABELS + i / 2);
        texts[i] = (uint32_t)((i % 2 == 0 ? pair : pair >> 32) & UINT32_MAX);
    }
}

/* Rows in use of a table of so many. */
static inline uint64_t relayscope__used(const struct relayscope_segment *segment, int word, uint64_t rows) {
    uint64_t used = relayscope__load(segment->words + word);
    /* Acquire: with the release store in Table::set_used. Families below were written; a series row not yet
     * seen has the sequence 0. */
    atomic_thread_fence(memory_order_acquire);
    return relayscope__min(used, rows);
}

/* What the series' family says; false where its row is not whole or makes no sense. */
static inline bool relayscope__read_family(const struct relayscope_segment *segment,
                                           struct relayscope_series *series) {
    if (series->family >=
        relayscope__used(segment, RELAYSCOPE_HEADER_FAMILIES_USED, segment->layout.family_rows)) {
        return false;
    }
    _Atomic uint64_t *row = relayscope__row(segment, segment->layout.families_at, series->family);
    const uint64_t sequence = relayscope__sequence(row);
    const uint64_t what = relayscope__load(row + RELAYSCOPE_ROW_WHAT);
    const uint64_t texts = relayscope__load(row + RELAYSCOPE_ROW_WHERE);
    const uint64_t labels = what >> 24 & 0xff;
    series->kind = (uint8_t)(what & 0xff);
    series->unit = (uint8_t)(what >> 8 & 0xff);
    series->prefixed = (what >> 16 & 1) == 1;
    series->name = (uint32_t)(texts & UINT32_MAX);
    series->help = (uint32_t)(texts >> 32);
    relayscope__read_labels(row, series->labels, series->label_names);
    return labels == series->labels && series->kind >= RELAYSCOPE_COUNTER &&
           series->kind <= RELAYSCOPE_HISTOGRAM && series->unit <= RELAYSCOPE_UNIT_MAX && sequence % 2 == 0 &&
           relayscope__unchanged(row, sequence);
}

/* A live series, if the row makes sense: of a family there is, with that family's labels, on a shard there
 * is, in a cell there is. It may be torn until the row's sequence is looked at again. */
static inline bool relayscope__read_series(const struct relayscope_segment *segment, _Atomic uint64_t *row,
                                           struct relayscope_series *series) {
    const uint64_t what = relayscope__load(row + RELAYSCOPE_ROW_WHAT);
    const uint64_t where = relayscope__load(row + RELAYSCOPE_ROW_WHERE);
    const uint64_t labels = what >> 40 & 0xff;
    if ((what >> 32 & 0xff) != RELAYSCOPE_ROW_LIVE || labels > RELAYSCOPE_LABELS_MAX) {
        return false;
    }
    series->family = (uint16_t)(what & 0xffff);
    series->shard = (uint16_t)(what >> 16 & 0xffff);
    series->labels = (uint8_t)labels;
    series->cell = (uint32_t)(where & UINT32_MAX);
    series->shared_cell = (uint32_t)(where >> 32);
    series->since = relayscope__load(row + RELAYSCOPE_ROW_SINCE);
    relayscope__read_labels(row, series->labels, series->label_values);
    if (!relayscope__read_family(segment, series)) {
        return false;
    }
    const uint64_t cells = segment->layout.cells_per_shard;
    const bool has_cell = series->cell != RELAYSCOPE_NO_CELL;
    return series->shard < segment->layout.shards && has_cell == (series->kind != RELAYSCOPE_HISTOGRAM) &&
           (!has_cell || series->cell < cells) &&
           (series->shared_cell == RELAYSCOPE_NO_CELL || series->shared_cell < cells);
}

/* What a caller looks for; `family` is NULL for any series. */
struct relayscope__wanted {
    const char *family;
    const char *const *values;
    size_t values_len;
    uint16_t shard;
};

/* Label values are looked at first: most series of a table differ in them. */
static inline bool relayscope__matches(const struct relayscope_segment *segment,
                                       const struct relayscope_series *series,
                                       const struct relayscope__wanted *wanted) {
    if (wanted->family == NULL) {
        return true;
    }
    if (series->shard != wanted->shard || series->labels != wanted->values_len) {
        return false;
    }
    for (size_t i = 0; i < wanted->values_len; i++) {
        if (!relayscope__text_is(segment, series->label_values[i], wanted->values[i])) {
            return false;
        }
    }
    return relayscope__text_is(segment, series->name, wanted->family);
}

/* Looks at row `id` until it stands still, at most 64 times. */
static inline int relayscope__look(const struct relayscope_segment *segment, uint64_t id,
                                   const struct relayscope__wanted *wanted,
                                   struct relayscope_series *series) {
    _Atomic uint64_t *row = relayscope__row(segment, segment->layout.series_at, id);
    for (int looks = 0; looks < RELAYSCOPE_LOOKS_MAX; looks++) {
        const uint64_t sequence = relayscope__sequence(row);
        if (sequence % 2 == 1) {
            continue;
        }
        memset(series, 0, sizeof *series);
        series->id = (uint32_t)id;
        series->incarnation = sequence;
        const bool found = sequence != 0 && relayscope__read_series(segment, row, series) &&
                           relayscope__matches(segment, series, wanted);
        if (relayscope__unchanged(row, sequence)) {
            return found ? RELAYSCOPE_OK : RELAYSCOPE_E_NOT_FOUND;
        }
    }
    return RELAYSCOPE_E_BUSY;
}

/* The live series of the family of that name, without prefix, with those label values in the family's order,
 * that `shard` writes. O(series): look once and keep what was found. */
static inline int relayscope_find(const struct relayscope_segment *segment, const char *family,
                                  const char *const *values, size_t values_len, uint16_t shard,
                                  struct relayscope_series *series) {
    const struct relayscope__wanted wanted = {family, values, values_len, shard};
    const uint64_t used =
        relayscope__used(segment, RELAYSCOPE_HEADER_SERIES_USED, segment->layout.series_rows);
    int absent = RELAYSCOPE_E_NOT_FOUND;
    for (uint64_t id = 0; id < used; id++) {
        int code = relayscope__look(segment, id, &wanted, series);
        if (code == RELAYSCOPE_OK) {
            return RELAYSCOPE_OK;
        }
        absent = code == RELAYSCOPE_E_BUSY ? code : absent;
    }
    return absent;
}

/* The next live series at or after row `*next`, which begins at 0 and is moved on; false when there is none.
 * A row that keeps changing is left out, and rows that make no sense are. */
static inline bool relayscope_next(const struct relayscope_segment *segment, uint32_t *next,
                                   struct relayscope_series *series) {
    const struct relayscope__wanted any = {NULL, NULL, 0, 0};
    const uint64_t used =
        relayscope__used(segment, RELAYSCOPE_HEADER_SERIES_USED, segment->layout.series_rows);
    while (*next < used) {
        if (relayscope__look(segment, (*next)++, &any, series) == RELAYSCOPE_OK) {
            return true;
        }
    }
    return false;
}

/* Grows with every change of the families or series: while it stands, so does what was found. */
static inline uint64_t relayscope_table_generation(const struct relayscope_segment *segment) {
    uint64_t generation = relayscope__load(segment->words + RELAYSCOPE_HEADER_TABLE_GENERATION);
    /* Acquire: with the release store in Table::changed. Rows written before it are seen whole. */
    atomic_thread_fence(memory_order_acquire);
    return generation;
}

/* Whether the row still is what the series says: then what was read from its texts and cells was its own. */
static inline bool relayscope__is_still(const struct relayscope_segment *segment,
                                        const struct relayscope_series *series) {
    return series->id < segment->layout.series_rows &&
           relayscope__unchanged(relayscope__row(segment, segment->layout.series_at, series->id),
                                 series->incarnation);
}

static inline int relayscope__copy_text(const struct relayscope_segment *segment,
                                        const struct relayscope_series *series, uint32_t at, char *buffer,
                                        size_t size) {
    size_t len;
    _Atomic uint64_t *words = relayscope__text(segment, at, &len);
    if (words == NULL || len >= size) {
        return relayscope__is_still(segment, series) ? RELAYSCOPE_E_ROOM : RELAYSCOPE_E_STALE;
    }
    for (size_t from = 0; from < len; from += 8) {
        uint64_t word = relayscope__load(words + from / 8);
        memcpy(buffer + from, &word, relayscope__min(8, len - from));
    }
    buffer[len] = '\0';
    return relayscope__is_still(segment, series) ? RELAYSCOPE_OK : RELAYSCOPE_E_STALE;
}

/* The family's name, without prefix, into `buffer`; ended by a zero, as those below. */
static inline int relayscope_family(const struct relayscope_segment *segment,
                                    const struct relayscope_series *series, char *buffer, size_t size) {
    return relayscope__copy_text(segment, series, series->name, buffer, size);
}

/* The family's help. */
static inline int relayscope_help(const struct relayscope_segment *segment,
                                  const struct relayscope_series *series, char *buffer, size_t size) {
    return relayscope__copy_text(segment, series, series->help, buffer, size);
}

/* The name of the label numbered `index`, from 0. */
static inline int relayscope_label_name(const struct relayscope_segment *segment,
                                        const struct relayscope_series *series, size_t index, char *buffer,
                                        size_t size) {
    if (index >= series->labels) {
        return RELAYSCOPE_E_ROOM;
    }
    return relayscope__copy_text(segment, series, series->label_names[index], buffer, size);
}

/* The value of the label numbered `index`, from 0. */
static inline int relayscope_label_value(const struct relayscope_segment *segment,
                                         const struct relayscope_series *series, size_t index, char *buffer,
                                         size_t size) {
    if (index >= series->labels) {
        return RELAYSCOPE_E_ROOM;
    }
    return relayscope__copy_text(segment, series, series->label_values[index], buffer, size);
}

/* A cell of a series that was read from this segment, whose shard and cell are in range. */
static inline _Atomic uint64_t *relayscope__cell(const struct relayscope_segment *segment, uint16_t shard,
                                                 uint32_t cell) {
    return relayscope__shard(segment, shard) + RELAYSCOPE_SHARD_CELLS + cell;
}

/* One shard's counter: its own cell and, where there is one, that which the maker's other threads count in. */
static inline int relayscope_read_counter(const struct relayscope_segment *segment,
                                          const struct relayscope_series *series, uint64_t *count) {
    if (series->kind != RELAYSCOPE_COUNTER) {
        return RELAYSCOPE_E_KIND;
    }
    uint64_t own = relayscope__load(relayscope__cell(segment, series->shard, series->cell));
    uint64_t shared = series->shared_cell == RELAYSCOPE_NO_CELL
                          ? 0
                          : relayscope__load(relayscope__cell(segment, series->shard, series->shared_cell));
    if (!relayscope__is_still(segment, series)) {
        return RELAYSCOPE_E_STALE;
    }
    *count = own + shared;
    return RELAYSCOPE_OK;
}

/* A gauge's value; RELAYSCOPE_E_ABSENT, and `*value` is left alone, while it has none. */
static inline int relayscope_read_gauge(const struct relayscope_segment *segment,
                                        const struct relayscope_series *series, double *value) {
    if (series->kind != RELAYSCOPE_GAUGE) {
        return RELAYSCOPE_E_KIND;
    }
    uint64_t bits = relayscope__load(relayscope__cell(segment, series->shard, series->cell));
    if (!relayscope__is_still(segment, series)) {
        return RELAYSCOPE_E_STALE;
    }
    if (relayscope__is_nan(bits)) {
        return RELAYSCOPE_E_ABSENT;
    }
    *value = relayscope__number(bits);
    return RELAYSCOPE_OK;
}

/* ---- Writing one shard ---- */

/* Whether the process that claimed a shard lives, as far as can be told. A zombie does, until it is waited
 * for. */
static inline bool relayscope__lives(const struct relayscope_segment *segment, uint64_t pid) {
    /* The maker's lock tells better than its process id, and in another pid namespace too. */
    if (pid == segment->info.pid && relayscope__is_held(segment)) {
        return true;
    }
    /* What is no process id is a damaged segment: nothing to write over. */
    return pid > INT32_MAX || kill((pid_t)pid, 0) == 0 || errno != ESRCH;
}

static inline int relayscope__check_shard(const struct relayscope_segment *segment, uint16_t shard) {
    if (!segment->writable) {
        return RELAYSCOPE_E_READ_ONLY;
    }
    if (shard >= segment->layout.shards) {
        return RELAYSCOPE_E_NO_SHARD;
    }
    return relayscope_state(segment) == RELAYSCOPE_RUNNING ? RELAYSCOPE_OK : RELAYSCOPE_E_ENDED;
}

/* Claims a shard for this process from exactly `from`: 0 for nobody, or a process id that the caller knows to
 * be a dead writer's where relayscope_claim() cannot tell, as when both were process 1 of a container. Two
 * writers of one shard break every account: when in doubt, do not. */
static inline int relayscope_take_over(struct relayscope_writer *writer, struct relayscope_segment *segment,
                                       uint16_t shard, uint64_t from) {
    int code = relayscope__check_shard(segment, shard);
    if (code != RELAYSCOPE_OK) {
        return code;
    }
    _Atomic uint64_t *words = relayscope__shard(segment, shard);
    const uint64_t pid = (uint64_t)getpid();
    /* Acquire: with the release in relayscope_release and Publisher::drop. The head below is the last. */
    if (!atomic_compare_exchange_strong_explicit(words + RELAYSCOPE_SHARD_WRITER, &from, pid,
                                                 memory_order_acquire, memory_order_relaxed)) {
        return RELAYSCOPE_E_TAKEN;
    }
    *writer = (struct relayscope_writer){
        .segment = segment,
        .pulse = words,
        .ring = words + RELAYSCOPE_SHARD_RING,
        .slots = words + segment->layout.slots_at,
        .cells = words + RELAYSCOPE_SHARD_CELLS,
        .capacity = segment->layout.ring_slots,
        .head = relayscope__load(words + RELAYSCOPE_SHARD_RING + RELAYSCOPE_RING_HEAD),
        .claimed = relayscope__load(words + RELAYSCOPE_SHARD_RING + RELAYSCOPE_RING_CLAIMED),
        .acknowledged = relayscope__load(words + RELAYSCOPE_SHARD_ACKNOWLEDGED),
        .pid = pid,
        .shard = shard,
    };
    return RELAYSCOPE_OK;
}

/* Claims a shard that nobody writes, or whose writer is dead, for this process. It goes on where the last
 * writer ended: what that one had in flight is written anew and was never counted as recorded. */
static inline int relayscope_claim(struct relayscope_writer *writer, struct relayscope_segment *segment,
                                   uint16_t shard) {
    int code = relayscope__check_shard(segment, shard);
    if (code != RELAYSCOPE_OK) {
        return code;
    }
    uint64_t found = relayscope_writer_pid(segment, shard);
    if (found != 0 && relayscope__lives(segment, found)) {
        return RELAYSCOPE_E_TAKEN;
    }
    return relayscope_take_over(writer, segment, shard, found);
}

/* Lets another writer claim the shard. The writer and its cells must not be used any more. */
static inline void relayscope_release(struct relayscope_writer *writer) {
    uint64_t own = writer->pid;
    /* Release: with the acquire in relayscope_take_over. The next writer sees all that this one wrote. Only
     * from our own: whoever took over in spite of us keeps the shard. */
    (void)atomic_compare_exchange_strong_explicit(writer->pulse + RELAYSCOPE_SHARD_WRITER, &own, 0,
                                                  memory_order_release, memory_order_relaxed);
}

/* A sample that tells a counter's new total. */
static inline struct relayscope_sample relayscope_total(uint32_t id, uint64_t timestamp_ns, uint64_t count) {
    return (struct relayscope_sample){id, RELAYSCOPE_COUNTER, timestamp_ns, {.count = count}};
}

/* A reading that replaces the one before it. */
static inline struct relayscope_sample relayscope_reading(uint32_t id, uint64_t timestamp_ns, double number) {
    return (struct relayscope_sample){id, RELAYSCOPE_GAUGE, timestamp_ns, {.number = number}};
}

/* One observation of a distribution. */
static inline struct relayscope_sample relayscope_observation(uint32_t id, uint64_t timestamp_ns,
                                                              double number) {
    return (struct relayscope_sample){id, RELAYSCOPE_HISTOGRAM, timestamp_ns, {.number = number}};
}

static inline void relayscope__write(const struct relayscope_writer *writer, uint64_t position,
                                     struct relayscope_sample sample) {
    uint64_t slot = position & (writer->capacity - 1);
    _Atomic uint64_t *words = writer->slots + slot * RELAYSCOPE_SAMPLE_WORDS;
    relayscope__store(words, (uint64_t)sample.metric_id | (uint64_t)sample.kind << 32);
    relayscope__store(words + 1, sample.timestamp_ns);
    relayscope__store(words + 2, sample.count);
}

static inline void relayscope__publish(struct relayscope_writer *writer, uint64_t head) {
    writer->head = head;
    /* Release: with the fence in relayscope_mark and Consumer::mark. Whoever sees this head sees the words
     * before it. */
    atomic_store_explicit(writer->ring + RELAYSCOPE_RING_HEAD, head, memory_order_release);
}

/* Records one sample. Wait-free: one fence, four stores, no load of anything shared. */
static inline void relayscope_record(struct relayscope_writer *writer, struct relayscope_sample sample) {
    /* Release: with the fence after the copy in relayscope__drain_chunk and Consumer::drain_chunk. A reader
     * that copied a word stored below also sees, at its second look, the head this thread stored before. */
    atomic_thread_fence(memory_order_release);
    relayscope__write(writer, writer->head, sample);
    relayscope__publish(writer, writer->head + 1);
}

/* Records samples in order, with one head store per 64. Wait-free. Readers see no part of a batch before it
 * is whole, and treat the slots it is about to overwrite as gone from the moment it begins. */
static inline void relayscope_record_batch(struct relayscope_writer *writer,
                                           const struct relayscope_sample *samples, size_t samples_len) {
    const uint64_t most = relayscope__min(RELAYSCOPE_BATCH_MAX, writer->capacity / 2);
    for (uint64_t done = 0; done < samples_len;) {
        const uint64_t count = relayscope__min(most, samples_len - done);
        const uint64_t end = writer->head + count;
        /* Never less than before: a batch that ended early, or its writer, has written over what it
         * announced. */
        writer->claimed = relayscope__max(writer->claimed, end);
        relayscope__store(writer->ring + RELAYSCOPE_RING_CLAIMED, writer->claimed);
        /* Release: with the reader's fence, as in relayscope_record; it carries the claim too. */
        atomic_thread_fence(memory_order_release);
        for (uint64_t i = 0; i < count; i++) {
            relayscope__write(writer, writer->head + i, samples[done + i]);
        }
        relayscope__publish(writer, end);
        done += count;
    }
}

/* Signs that the shard runs at `now_ns` of CLOCK_MONOTONIC. */
static inline void relayscope_beat(struct relayscope_writer *writer, uint64_t now_ns) {
    relayscope__store(writer->pulse + RELAYSCOPE_SHARD_HEARTBEAT_NS, now_ns);
}

/* Says that the series retired under the ticket of that number, and under those before it on this shard, are
 * no longer written: nothing recorded or counted from now on is theirs. The maker has the number from
 * RetireTicket::number and waits for this before it gives their ids and cells to others. */
static inline void relayscope_acknowledge(struct relayscope_writer *writer, uint64_t ticket) {
    if (ticket <= writer->acknowledged) {
        return;
    }
    writer->acknowledged = ticket;
    relayscope__store(writer->pulse + RELAYSCOPE_SHARD_RELEASED_AT, writer->head);
    /* Release: with the acquire load in SeriesRegistry's reclaim. Whoever sees the ticket sees a position at
     * or past the one stored above. */
    atomic_store_explicit(writer->pulse + RELAYSCOPE_SHARD_ACKNOWLEDGED, ticket, memory_order_release);
}

/* The writer's own cell of a series of that kind, on its shard. */
static inline int relayscope__own_cell(const struct relayscope_writer *writer,
                                       const struct relayscope_series *series, uint8_t kind,
                                       _Atomic uint64_t **word) {
    if (series->kind != kind) {
        return RELAYSCOPE_E_KIND;
    }
    if (series->shard != writer->shard) {
        return RELAYSCOPE_E_OTHER_SHARD;
    }
    if (!relayscope__is_still(writer->segment, series)) {
        return RELAYSCOPE_E_STALE;
    }
    *word = writer->cells + series->cell;
    return RELAYSCOPE_OK;
}

/* A counter's cell to count in, until the series is retired and that acknowledged. It goes on from what it
 * holds. */
static inline int relayscope_counter(struct relayscope_counter *counter,
                                     const struct relayscope_writer *writer,
                                     const struct relayscope_series *series) {
    return relayscope__own_cell(writer, series, RELAYSCOPE_COUNTER, &counter->word);
}

/* A gauge's cell to set, until the series is retired and that acknowledged. */
static inline int relayscope_gauge(struct relayscope_gauge *gauge, const struct relayscope_writer *writer,
                                   const struct relayscope_series *series) {
    return relayscope__own_cell(writer, series, RELAYSCOPE_GAUGE, &gauge->word);
}

/* Adds `n`. Wraps at 2^64. A load and a store: there is no second writer. */
static inline void relayscope_add(struct relayscope_counter counter, uint64_t n) {
    relayscope__store(counter.word, relayscope__load(counter.word) + n);
}

/* Makes the gauge absent: a failed measurement is never 0 and never the last value. */
static inline void relayscope_clear(struct relayscope_gauge gauge) {
    relayscope__store(gauge.word, RELAYSCOPE_ABSENT);
}

/* Sets the value. A NaN is no measurement and makes the gauge absent. */
static inline void relayscope_set(struct relayscope_gauge gauge, double value) {
    const uint64_t bits = relayscope__bits(value);
    relayscope__store(gauge.word, relayscope__is_nan(bits) ? RELAYSCOPE_ABSENT : bits);
}

#endif
