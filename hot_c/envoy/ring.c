/* ring.c: the producer of formats/ring.md. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

enum {
  RING_HEADER = 4096,
  AT_VERSION = 8,
  AT_WORKER = 12,
  AT_BOOT = 16,
  AT_CAPACITY = 32,
  AT_GENERATION = 40,
  AT_SOURCE = 48,
  AT_HEAD = 128,
  AT_TAIL = 192,
  AT_FULL = 256,
  AT_HEARTBEAT = 320,
  AT_UNWITNESSED = 328,
  AT_ASLEEP = 336,
  AT_CLOSED = 384,
  AT_RINGS = 392,
  AT_ABSENT = 448,
  AT_PACKS = 512,
  AT_SAMPLES = 576,
  AT_HEAT = 640
};
_Static_assert(AT_HEAT + 2 * 8 * RING_HEAT_MAX == RING_HEADER, "heat fills the header");
enum { TYPE_DECISION = 1, TYPE_PAD = 2 };

static void put32(uint8_t *at, uint32_t value) { memcpy(at, &value, sizeof value); }
static uint64_t load(const uint8_t *at) { return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE); }
static void store(uint8_t *at, uint64_t value) { __atomic_store_n((uint64_t *)(void *)at, value, __ATOMIC_RELEASE); }

static bool populate(shim_ring *ring, const char *path, char *err) {
  size_t size = RING_HEADER + ring->capacity;
  int failed = posix_fallocate(ring->fd, 0, (off_t)size);
  if (failed != 0) return shim_fail(err, "%s: %s", path, strerror(failed));
  ring->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0);
  if (ring->map == MAP_FAILED) {
    ring->map = NULL;
    return shim_fail(err, "%s: mmap: %s", path, strerror(errno));
  }
  if (getrandom(ring->source, sizeof ring->source, 0) != (ssize_t)sizeof ring->source) return shim_fail(err, "getrandom: %s", strerror(errno));
  return true;
}

/* The bell of this folder, or -1 where the consumer has none: then it looks into the ring by itself. */
static int open_bell(const char *dir) {
  char path[512];
  struct stat found;
  snprintf(path, sizeof path, "%s/bell", dir);
  int bell = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
  if (bell < 0 || (fstat(bell, &found) == 0 && S_ISFIFO(found.st_mode))) return bell;
  close(bell);
  return -1;
}

/* One that is full wakes the consumer as well. */
static void ring_bell(const shim_ring *ring) {
  ssize_t written = ring->bell < 0 ? 0 : write(ring->bell, "", 1);
  (void)written;
}

static void write_header(const shim_ring *ring, const uint8_t boot[16], uint64_t generation, uint32_t worker) {
  put32(ring->map + AT_VERSION, 1);
  put32(ring->map + AT_WORKER, worker);
  memcpy(ring->map + AT_BOOT, boot, 16);
  store(ring->map + AT_CAPACITY, ring->capacity);
  store(ring->map + AT_GENERATION, generation);
  memcpy(ring->map + AT_SOURCE, ring->source, sizeof ring->source);
  store(ring->map + AT_RINGS, ring->bell >= 0);
  memcpy(ring->map, "KNHKRNG1", 8);
}

bool ring_create(shim_ring *ring, const char *dir, const uint8_t boot[16], uint64_t generation, uint32_t worker, uint64_t capacity, char *err) {
  char hex[16], making[sizeof ring->path + 8];
  shim_hex(boot, 8, hex);
  *ring = (shim_ring){.fd = -1, .bell = open_bell(dir), .capacity = capacity, .born_ns = shim_now_ns(CLOCK_MONOTONIC)};
  snprintf(ring->path, sizeof ring->path, "%s/%.16s-%" PRIu64 "-%u.ring", dir, hex, generation, worker);
  snprintf(making, sizeof making, "%s.tmp", ring->path);
  ring->fd = open(making, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (ring->fd < 0) {
    shim_fail(err, "%s: %s", making, strerror(errno));
    ring_close(ring, false);
    return false;
  }
  if (!populate(ring, making, err)) {
    unlink(making);
    ring_close(ring, false);
    return false;
  }
  write_header(ring, boot, generation, worker);
  if (flock(ring->fd, LOCK_SH | LOCK_NB) == 0 && rename(making, ring->path) == 0) {
    ring_bell(ring);
    return true;
  }
  shim_fail(err, "%s: %s", ring->path, strerror(errno));
  unlink(making);
  ring_close(ring, false);
  return false;
}

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

/* Starts a record at the head: its commit word is 0 until it is published. */
static uint8_t *begin(const shim_ring *ring, size_t len, uint32_t type) {
  uint8_t *slot = ring->map + RING_HEADER + (ring->head & (ring->capacity - 1));
  store(slot, 0);
  put32(slot + 8, (uint32_t)len);
  put32(slot + 12, type);
  return slot;
}

static void publish(shim_ring *ring, uint8_t *slot, size_t len) {
  put32(slot + 8, (uint32_t)len);
  store(slot, ring->head + 1);
  ring->head += len;
  store(ring->map + AT_HEAD, ring->head);
}

uint8_t *ring_reserve(shim_ring *ring, size_t max) {
  max = align64(max);
  uint64_t used = ring->head - load(ring->map + AT_TAIL);
  uint64_t to_end = ring->capacity - (ring->head & (ring->capacity - 1));
  uint64_t pad = to_end < max ? to_end : 0;
  if (used > ring->capacity || max + pad > ring->capacity - used) {
    store(ring->map + AT_FULL, load(ring->map + AT_FULL) + 1);
    return NULL;
  }
  if (pad != 0) publish(ring, begin(ring, pad, TYPE_PAD), pad);
  return begin(ring, max, TYPE_DECISION);
}

void ring_commit(shim_ring *ring, uint8_t *record, size_t len) {
  size_t whole = align64(len);
  memset(record + len, 0, whole - len);
  publish(ring, record, whole);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (load(ring->map + AT_ASLEEP) == 0) return;
  store(ring->map + AT_ASLEEP, 0);
  ring_bell(ring);
}

bool ring_drained(const shim_ring *ring, uint32_t grace_s) {
  uint64_t seen = load(ring->map + AT_HEARTBEAT), now = shim_now_ns(CLOCK_MONOTONIC);
  if (seen < ring->born_ns) seen = ring->born_ns;
  return seen >= now || now - seen <= (uint64_t)grace_s * 1000000000u;
}

bool ring_unwitnessed(const shim_ring *ring) { return load(ring->map + AT_UNWITNESSED) != 0; }

void ring_count_absent(shim_ring *ring) { store(ring->map + AT_ABSENT, load(ring->map + AT_ABSENT) + 1); }

void ring_name_packs(shim_ring *ring, const uint8_t stable[20], const uint8_t candidate[20]) {
  memcpy(ring->map + AT_PACKS, stable, 20);
  memcpy(ring->map + AT_PACKS + 20, candidate, 20);
}

uint64_t *ring_heat(shim_ring *ring, int arm) {
  uint8_t *samples = ring->map + AT_SAMPLES + 8 * arm;
  store(samples, load(samples) + 1);
  return (uint64_t *)(void *)(ring->map + AT_HEAT + 8 * RING_HEAT_MAX * arm);
}

void ring_next_receipt(shim_ring *ring, uint8_t receipt[16]) {
  uint64_t sequence = __builtin_bswap64(ring->sequence++);
  memcpy(receipt, ring->source, 8);
  memcpy(receipt + 8, &sequence, 8);
}

void ring_close(shim_ring *ring, bool remove_file) {
  if (ring->map != NULL) {
    store(ring->map + AT_CLOSED, 1);
    munmap(ring->map, RING_HEADER + ring->capacity);
    ring->map = NULL;
    ring_bell(ring);
  }
  if (ring->bell >= 0) close(ring->bell);
  ring->bell = -1;
  if (ring->fd >= 0) close(ring->fd);
  ring->fd = -1;
  if (remove_file) unlink(ring->path);
}
