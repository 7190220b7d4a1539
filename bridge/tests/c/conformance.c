/* The other side of tests/c_header.rs: does what each line on stdin says, and answers with a line.
 *
 * Words of a line are parted by tabs, its first is a command of the table at the end. An answer begins with OK
 * or the name of what relayscope.h returned. A sample that is not what was recorded ends the program. */
#include "relayscope.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define WORDS_MAX 16
#define SHARD 0
/* In every 1024 records the last 256 go out as one batch, in parts of up to 64. */
#define SINGLE 768
#define BATCH 256

static struct relayscope_segment segment;
static struct relayscope_writer writer;
static struct relayscope_reader reader;
static struct relayscope_series series;
static struct relayscope_counter counter;
static struct relayscope_gauge gauge;

static const char *const names[] = {
    "OK",     "SYSTEM", "NOT_A_FILE", "NOT_A_SEGMENT", "FOREIGN_ENDIAN", "UNFINISHED", "VERSION",
    "HEADER", "LENGTH", "READ_ONLY",  "ENDED",         "NO_SHARD",       "TAKEN",      "NOT_FOUND",
    "BUSY",   "STALE",  "KIND",       "OTHER_SHARD",   "ABSENT",         "ROOM",
};
_Static_assert(sizeof names / sizeof names[0] == RELAYSCOPE_E_ROOM + 1, "every code has a name");

static uint64_t number(const char *text) { return strtoull(text, NULL, 10); }

static uint16_t shard_number(const char *text) { return (uint16_t)strtoul(text, NULL, 10); }

static _Noreturn void fail(const char *what, uint64_t position) {
    fprintf(stderr, "conformance: %s at position %" PRIu64 "\n", what, position);
    exit(1);
}

static void answer(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

static void answer_code(int code) { answer("%s", names[code]); }

/* ---- Samples of which every word tells the position ---- */

static uint64_t mixed(uint64_t position, uint64_t salt) {
    uint64_t x = (position ^ salt) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 32;
}

static struct relayscope_sample sample_at(uint64_t position) {
    return relayscope_total((uint32_t)(mixed(position, 1) & UINT32_MAX), position, mixed(position, 2));
}

/* What one of the two concurrent readers did. */
struct looker {
    struct relayscope_reader reader;
    bool slow;
    uint64_t next, drains, gaps, last_count, counts;
    pthread_t thread;
};
static struct looker lookers[2];
static atomic_bool done;

static void check(void *context, uint64_t position, const struct relayscope_sample *sample) {
    struct looker *looker = context;
    const struct relayscope_sample expected = sample_at(position);
    if (sample->metric_id != expected.metric_id || sample->kind != expected.kind ||
        sample->timestamp_ns != expected.timestamp_ns || sample->count != expected.count) {
        fail("torn sample", position);
    }
    if (position < looker->next) {
        fail("sample out of order", position);
    }
    looker->gaps += position > looker->next;
    looker->next = position + 1;
}

static void check_counter(struct looker *looker) {
    uint64_t count = 0;
    if (series.kind != RELAYSCOPE_COUNTER) {
        return;
    }
    if (relayscope_read_counter(&segment, &series, &count) != RELAYSCOPE_OK) {
        fail("counter that nobody retired is gone", looker->next);
    }
    if (count < looker->last_count) {
        fail("counter went backwards", looker->next);
    }
    looker->counts += count > looker->last_count;
    looker->last_count = count;
}

static void *look(void *context) {
    struct looker *looker = context;
    uint64_t delivered = 0, lost = 0;
    for (;;) {
        /* Acquire: with the store in stop_reading, so that the drain below is the last. */
        bool last = atomic_load_explicit(&done, memory_order_acquire);
        check_counter(looker);
        struct relayscope_drained drained = relayscope_drain(&looker->reader, check, looker);
        looker->drains++;
        delivered += drained.delivered;
        lost += drained.lost;
        struct relayscope_account account = relayscope_account(&looker->reader);
        if (account.delivered != delivered || account.lost != lost ||
            account.delivered + account.lost + account.unread != account.recorded) {
            fail("account does not add up", looker->next);
        }
        if (last) {
            return NULL;
        }
        if (looker->slow) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        } else if (drained.delivered == 0) {
            /* Where there are fewer cores than threads, the producer must get one. */
            sched_yield();
        }
    }
}

/* ---- Commands ---- */

static void do_open(int len, char **words) {
    (void)len;
    relayscope_close(&segment);
    int code = relayscope_open(&segment, words[2],
                               strcmp(words[1], "write") == 0 ? RELAYSCOPE_WRITE : RELAYSCOPE_READ);
    if (code == RELAYSCOPE_E_HEADER) {
        answer("HEADER %s", segment.what);
    } else {
        answer_code(code);
    }
}

static void do_layout(int len, char **words) {
    struct relayscope_layout l = {0};
    (void)len;
    l.shards = number(words[1]);
    l.ring_slots = number(words[2]);
    l.cells_per_shard = number(words[3]);
    l.series_rows = number(words[4]);
    l.family_rows = number(words[5]);
    l.string_words = number(words[6]);
    relayscope__lay_out(&l);
    answer("families=%ju series=%ju strings=%ju shards=%ju shard_stride=%ju slots=%ju words=%ju",
           (uintmax_t)l.families_at, (uintmax_t)l.series_at, (uintmax_t)l.strings_at, (uintmax_t)l.shards_at,
           (uintmax_t)l.shard_stride, (uintmax_t)l.slots_at, (uintmax_t)l.words);
}

static void do_info(int len, char **words) {
    const struct relayscope_info *info = &segment.info;
    (void)len, (void)words;
    answer(
        "generation=%ju pid=%ju unix=%ju monotonic=%ju this_boot=%d shards=%ju ring_capacity=%ju bytes=%ju",
        (uintmax_t)info->generation, (uintmax_t)info->pid, (uintmax_t)info->start_unix_ns,
        (uintmax_t)info->start_monotonic_ns, info->this_boot, (uintmax_t)info->shards,
        (uintmax_t)info->ring_capacity, (uintmax_t)info->bytes);
}

static void do_state(int len, char **words) {
    static const char *const states[] = {"running", "closed", "dead", "damaged"};
    (void)len, (void)words;
    answer("%s", states[relayscope_state(&segment)]);
}

static void do_is_replaced(int len, char **words) {
    (void)len;
    answer("%s", relayscope_is_replaced(&segment, words[1]) ? "yes" : "no");
}

static void answer_claim(int code) {
    if (code == RELAYSCOPE_OK) {
        answer("OK %" PRIu64, writer.head);
    } else {
        answer_code(code);
    }
}

static void do_claim(int len, char **words) {
    (void)len;
    answer_claim(relayscope_claim(&writer, &segment, shard_number(words[1])));
}

static void do_take_over(int len, char **words) {
    (void)len;
    answer_claim(relayscope_take_over(&writer, &segment, shard_number(words[1]), number(words[2])));
}

static void do_release(int len, char **words) {
    (void)len, (void)words;
    relayscope_release(&writer);
    answer("OK");
}

/* find SHARD FAMILY VALUE... */
static void do_find(int len, char **words) {
    int code = relayscope_find(&segment, words[2], (const char *const *)words + 3, (size_t)len - 3,
                               shard_number(words[1]), &series);
    if (code == RELAYSCOPE_OK) {
        answer("OK %" PRIu32 " %d %" PRIu64, series.id, series.kind, series.since);
    } else {
        answer_code(code);
    }
}

static void answer_texts(void) {
    char text[RELAYSCOPE_STRING_MAX + 1];
    if (relayscope_family(&segment, &series, text, sizeof text) != RELAYSCOPE_OK) {
        fail("family cannot be read", series.id);
    }
    printf("\t%" PRIu32 " %d %s", series.id, series.shard, text);
    for (size_t i = 0; i < series.labels; i++) {
        if (relayscope_label_name(&segment, &series, i, text, sizeof text) != RELAYSCOPE_OK) {
            fail("label cannot be read", series.id);
        }
        printf(" %s=", text);
        if (relayscope_label_value(&segment, &series, i, text, sizeof text) != RELAYSCOPE_OK) {
            fail("label value cannot be read", series.id);
        }
        printf("%s", text);
    }
}

static void do_list(int len, char **words) {
    (void)len, (void)words;
    printf("OK");
    for (uint32_t next = 0; relayscope_next(&segment, &next, &series);) {
        answer_texts();
    }
    answer("");
}

static void do_help(int len, char **words) {
    char text[RELAYSCOPE_STRING_MAX + 1];
    (void)len, (void)words;
    int code = relayscope_help(&segment, &series, text, sizeof text);
    answer("%s %s", names[code], code == RELAYSCOPE_OK ? text : "");
}

static void do_counter(int len, char **words) {
    uint64_t count = 0;
    (void)len, (void)words;
    int code = relayscope_read_counter(&segment, &series, &count);
    if (code == RELAYSCOPE_OK) {
        answer("OK %" PRIu64, count);
    } else {
        answer_code(code);
    }
}

static void do_gauge(int len, char **words) {
    double value = 0;
    (void)len, (void)words;
    int code = relayscope_read_gauge(&segment, &series, &value);
    if (code == RELAYSCOPE_OK) {
        answer("OK %.17g", value);
    } else {
        answer_code(code);
    }
}

/* Holds the cell of what was found last, to write it. */
static void do_hold(int len, char **words) {
    (void)len;
    answer_code(strcmp(words[1], "gauge") == 0 ? relayscope_gauge(&gauge, &writer, &series)
                                               : relayscope_counter(&counter, &writer, &series));
}

static void do_add(int len, char **words) {
    (void)len;
    relayscope_add(counter, number(words[1]));
    answer("OK");
}

static void do_set(int len, char **words) {
    (void)len;
    relayscope_set(gauge, strtod(words[1], NULL));
    answer("OK");
}

static void do_clear(int len, char **words) {
    (void)len, (void)words;
    relayscope_clear(gauge);
    answer("OK");
}

static void do_acknowledge(int len, char **words) {
    (void)len;
    relayscope_acknowledge(&writer, number(words[1]));
    answer("OK %" PRIu64, writer.head);
}

static void do_beat(int len, char **words) {
    (void)len;
    relayscope_beat(&writer, number(words[1]));
    answer("OK");
}

static void do_pulse(int len, char **words) {
    uint16_t shard = shard_number(words[1]);
    (void)len;
    answer("heartbeat=%" PRIu64 " writer=%" PRIu64, relayscope_heartbeat_ns(&segment, shard),
           relayscope_writer_pid(&segment, shard));
}

/* One sample of each kind. */
static void do_record_kinds(int len, char **words) {
    (void)len, (void)words;
    relayscope_record(&writer, relayscope_total(UINT32_MAX, UINT64_MAX, UINT64_MAX));
    relayscope_record(&writer, relayscope_reading(0, 1, -0.5));
    relayscope_record(&writer, relayscope_observation(7, 2, 1e-9));
    answer("OK %" PRIu64, writer.head);
}

/* As a writer that dies in the middle of a batch: announced and half written, not published. */
static void do_begin_batch(int len, char **words) {
    const uint64_t count = number(words[1]);
    (void)len;
    relayscope__store(writer.ring + RELAYSCOPE_RING_CLAIMED, writer.head + count);
    atomic_thread_fence(memory_order_release);
    for (uint64_t i = 0; i < count / 2; i++) {
        relayscope__write(&writer, writer.head + i, relayscope_total(0, 0, 0));
    }
    answer("OK %" PRIu64, writer.head);
}

/* batch RECORDS: one batch of them. */
static void do_batch(int len, char **words) {
    const uint64_t count = number(words[1]);
    static struct relayscope_sample batch[BATCH];
    (void)len;
    for (uint64_t i = 0; i < count && i < BATCH; i++) {
        batch[i] = sample_at(writer.head + i);
    }
    relayscope_record_batch(&writer, batch, (size_t)count);
    answer("OK %" PRIu64, writer.head);
}

/* write RECORDS: at full speed, singly and in batches; counts and sets for each if cells are held. */
static void do_write(int len, char **words) {
    const uint64_t end = writer.head + number(words[1]);
    static struct relayscope_sample batch[BATCH];
    (void)len;
    while (writer.head < end) {
        const uint64_t single_end = relayscope__min(writer.head + SINGLE, end);
        for (uint64_t position = writer.head; position < single_end; position++) {
            relayscope_record(&writer, sample_at(position));
            if (counter.word != NULL) {
                relayscope_add(counter, 1);
            }
            if (gauge.word != NULL) {
                relayscope_set(gauge, (double)position);
            }
        }
        const uint64_t count = relayscope__min(BATCH, end - writer.head);
        for (uint64_t i = 0; i < count; i++) {
            batch[i] = sample_at(writer.head + i);
        }
        relayscope_record_batch(&writer, batch, (size_t)count);
        if (counter.word != NULL) {
            relayscope_add(counter, count);
        }
    }
    answer("OK %" PRIu64, writer.head);
}

/* Two readers of shard 0 begin: one that pauses, one that drains flat out. They watch the counter found
 * last. */
static void do_read(int len, char **words) {
    (void)len, (void)words;
    atomic_store(&done, false);
    for (int i = 0; i < 2; i++) {
        lookers[i] = (struct looker){.slow = i == 0};
        int code = relayscope_attach(&lookers[i].reader, &segment, SHARD, RELAYSCOPE_FIRST);
        if (code != RELAYSCOPE_OK || pthread_create(&lookers[i].thread, NULL, look, &lookers[i]) != 0) {
            fail("reader cannot begin", 0);
        }
    }
    answer("OK");
}

static void do_stop_reading(int len, char **words) {
    (void)len, (void)words;
    /* Release: with the load in look. */
    atomic_store_explicit(&done, true, memory_order_release);
    printf("OK");
    for (int i = 0; i < 2; i++) {
        if (pthread_join(lookers[i].thread, NULL) != 0) {
            fail("reader cannot be waited for", 0);
        }
        const struct looker *looker = &lookers[i];
        const struct relayscope_account account = relayscope_account(&looker->reader);
        printf("\t%ju %ju %ju %ju %ju %ju %ju %ju %ju", (uintmax_t)account.recorded,
               (uintmax_t)account.delivered, (uintmax_t)account.lost, (uintmax_t)account.unread,
               (uintmax_t)looker->reader.malformed, (uintmax_t)looker->drains, (uintmax_t)looker->gaps,
               (uintmax_t)looker->last_count, (uintmax_t)looker->counts);
    }
    answer("");
}

static void do_attach(int len, char **words) {
    const enum relayscope_start start = strcmp(words[2], "first") == 0    ? RELAYSCOPE_FIRST
                                        : strcmp(words[2], "oldest") == 0 ? RELAYSCOPE_OLDEST
                                                                          : RELAYSCOPE_NOW;
    (void)len;
    answer_code(relayscope_attach(&reader, &segment, shard_number(words[1]), start));
}

static void print_sample(void *context, uint64_t position, const struct relayscope_sample *sample) {
    (void)context;
    printf("\t%" PRIu64 " %" PRIu32 " %" PRIu32 " %" PRIu64, position, sample->metric_id, sample->kind,
           sample->timestamp_ns);
    if (sample->kind == RELAYSCOPE_COUNTER) {
        printf(" %" PRIu64, sample->count);
    } else {
        printf(" %.17g", sample->number);
    }
}

static void do_drain(int len, char **words) {
    (void)len, (void)words;
    printf("OK");
    struct relayscope_drained drained = relayscope_drain(&reader, print_sample, NULL);
    struct relayscope_account account = relayscope_account(&reader);
    answer("\t%ju+%ju(%ju)+%ju=%ju", (uintmax_t)drained.delivered, (uintmax_t)drained.lost,
           (uintmax_t)drained.malformed, (uintmax_t)account.unread, (uintmax_t)account.recorded);
}

/* watch TIMES FAMILY: of the series "odd" and "even" each, which come and go in one row and one cell: a count
 * that is not 0 is of the parity that the name says. Each that is found is read until it is retired, so many
 * times, for half a minute at most. */
static void do_watch(int len, char **words) {
    static const char *const labels[2][1] = {{"even"}, {"odd"}};
    const uint64_t end_ns = relayscope_now_ns() + UINT64_C(30000000000);
    uint64_t good = 0, stale = 0, absent = 0;
    (void)len;
    for (uint64_t looks = 0; stale < number(words[1]) && relayscope_now_ns() < end_ns; looks++) {
        const uint64_t parity = looks % 2;
        struct relayscope_series found;
        uint64_t count = 0;
        if (relayscope_find(&segment, words[2], labels[parity], 1, SHARD, &found) != RELAYSCOPE_OK) {
            absent++;
            continue;
        }
        while (relayscope_read_counter(&segment, &found, &count) == RELAYSCOPE_OK &&
               relayscope_now_ns() < end_ns) {
            if (count != 0 && count % 2 != parity) {
                fail("count of another series, read as that of a look", looks);
            }
            good += count != 0;
        }
        stale++;
    }
    answer("OK %" PRIu64 " %" PRIu64 " %" PRIu64, good, stale, absent);
}

static const struct {
    const char *name;
    /* Words at least, the name included. */
    int words;
    void (*run)(int len, char **words);
} commands[] = {
    {"open", 3, do_open},
    {"layout", 7, do_layout},
    {"info", 1, do_info},
    {"state", 1, do_state},
    {"is_replaced", 2, do_is_replaced},
    {"claim", 2, do_claim},
    {"take_over", 3, do_take_over},
    {"release", 1, do_release},
    {"find", 3, do_find},
    {"list", 1, do_list},
    {"help", 1, do_help},
    {"counter", 1, do_counter},
    {"gauge", 1, do_gauge},
    {"hold", 2, do_hold},
    {"add", 2, do_add},
    {"set", 2, do_set},
    {"clear", 1, do_clear},
    {"acknowledge", 2, do_acknowledge},
    {"beat", 2, do_beat},
    {"pulse", 2, do_pulse},
    {"record_kinds", 1, do_record_kinds},
    {"begin_batch", 2, do_begin_batch},
    {"batch", 2, do_batch},
    {"write", 2, do_write},
    {"read", 1, do_read},
    {"stop_reading", 1, do_stop_reading},
    {"attach", 3, do_attach},
    {"drain", 1, do_drain},
    {"watch", 3, do_watch},
};

int main(void) {
    static char line[16384];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *words[WORDS_MAX];
        int len = 0;
        line[strcspn(line, "\n")] = '\0';
        for (char *at = line; at != NULL && len < WORDS_MAX;) {
            words[len++] = at;
            at = strchr(at, '\t');
            if (at != NULL) {
                *at++ = '\0';
            }
        }
        size_t i = 0;
        while (i < sizeof commands / sizeof commands[0] &&
               (strcmp(commands[i].name, words[0]) != 0 || commands[i].words > len)) {
            i++;
        }
        if (i == sizeof commands / sizeof commands[0]) {
            fprintf(stderr, "conformance: %s with %d words is no command\n", words[0], len);
            return 2;
        }
        commands[i].run(len, words);
    }
    relayscope_close(&segment);
    return 0;
}
