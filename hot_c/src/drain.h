/* drain.h: the consumer's end of a ring (formats/ring.md) and the writer of outbox frames and leaves (frame.md, leaf.md).
 *
 * The ring is memory that another process writes: every number in it is bounded before use, a record's header is copied before it is
 * judged, and hashes are over the copy that goes to the outbox. One consumer per ring; functions keep no state but the choice of SHA-256.
 */
#ifndef KNHK_DRAIN_H
#define KNHK_DRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "leaves.h"

#define KNHK_SALT_SIZE 16
#define KNHK_RING_HEADER 4096
#define KNHK_RECORD_HEADER 128
#define KNHK_RECORD_MIN 192 /* header and the smallest O, to a multiple of 64 */
#define KNHK_FRAME_EXTRA 320 /* a frame is shorter than its record by nothing and longer by less than this */
#define KNHK_COUNTS_MAX 64
#define KNHK_LATENCY_BUCKETS 124
#define KNHK_LATENCIES_MAX 4

/* reasons why a drain ends, beside 0 (all that was there, or max_bytes) */
#define KNHK_RING_BAD_HEAD (-1)   /* head or tail: out of range, not a multiple of 64, more apart than the capacity */
#define KNHK_RING_BAD_COMMIT (-2) /* a commit word below head is not position + 1 */
#define KNHK_RING_BAD_LENGTH (-3) /* length of a record: not a multiple of 64, past head, past the end of the ring, too short for its parts */
#define KNHK_RING_BAD_RECORD (-4) /* type, number of arms, sizes or reserved bytes */

/* digest = SHA-256(head ‖ body) */
typedef void (*knhk_sha256_fn)(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t digest[32]);

/* Takes SHA256_Init, _Update and _Final from the library at path (NULL: this process) and its dependencies. 1 when they were found. */
int knhk_use_openssl(const char *path);
/* Hashes by fn instead; it stays in use until the process ends. */
void knhk_use_sha256(knhk_sha256_fn fn);
/* SHA-256(head ‖ body) by what was chosen. */
void knhk_sha256(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t digest[32]);

typedef struct {
  uint8_t pack[20];
  uint8_t kind, klass, verdict, mode, flags, pad[3];
  uint32_t a_len, duration_ns;
  uint64_t a_at; /* offset of A in frames */
} knhk_drained_arm;

typedef struct {
  uint8_t receipt[16];
  uint64_t cluster, frame_at; /* frame_at: offset of the frame in frames */
  uint32_t frame_len, o_len;
  uint32_t arms, discordant;  /* discordant: both arms decided, and not the same A */
  knhk_drained_arm arm[2];
} knhk_drained_record;

typedef struct {
  uint8_t pack[20];
  uint8_t kind, klass, verdict, pad;
  uint64_t n;
} knhk_drained_count;

/* How long the two packs of a pair took, over records that both decided: [0] the stable arm, [1] the candidate (formats/ring.md). */
typedef struct {
  uint8_t pack[2][20];
  uint32_t n[2][KNHK_LATENCY_BUCKETS];
} knhk_drained_latency;

typedef struct {
  /* room given by the caller */
  uint8_t *frames, *leaves, *entries, *aside;
  const uint8_t *salts; /* records_cap of KNHK_SALT_SIZE */
  knhk_drained_record *records;
  size_t frames_cap, aside_cap;
  uint32_t records_cap; /* no more are taken; leaves and entries have room for 2 × as many */
  /* results */
  size_t frames_len, aside_len;
  uint32_t nrecords, nleaves, naside, ncounts, ndiscordant, nlatencies;
  uint64_t new_tail, bad_at;
  knhk_drained_count counts[KNHK_COUNTS_MAX];
  knhk_drained_latency latencies[KNHK_LATENCIES_MAX];
} knhk_drained;

/* H(O) and H(A) (formats/observation.md, action.md), with a salt of KNHK_SALT_SIZE. */
void knhk_hash_observation(const uint8_t *salt, const uint8_t *o, size_t n, uint8_t digest[32]);
void knhk_hash_action(const uint8_t *salt, const uint8_t *a, size_t n, uint8_t digest[32]);

/* CRC of a frame (formats/frame.md): its length's four bytes, and its payload. */
uint32_t knhk_frame_crc(const uint8_t length[4], const uint8_t *payload, size_t n);

/* SHA-256 of prefix ‖ row for n rows of row_len bytes each, into out + 32 i. */
void knhk_hash_rows(uint8_t prefix, const uint8_t *rows, size_t row_len, size_t n, uint8_t *out);

/* Bytes that wait in the ring, or a negative KNHK_RING_BAD_HEAD. */
int64_t knhk_ring_pending(const uint8_t *ring, size_t ring_len);

/* Says that the consumer sleeps, which the producer takes back when it rings; then looks once more, and returns as knhk_ring_pending: only
 * with 0 may the consumer sleep. */
int64_t knhk_ring_sleep(uint8_t *ring, size_t ring_len);

/* Parses records from tail up to head: until max_bytes are passed (but one record at least), or a buffer is full.
 * Records with an arm of kind PARK and mode OBSERVED go to `aside` as they are (header, O, A, each to a multiple of 8 bytes), not to frames.
 * Returns 0 or a reason with bad_at; what was parsed before it stands, new_tail is where it ends. Does not move the tail. */
int32_t knhk_ring_drain(const uint8_t *ring, size_t ring_len, uint64_t max_bytes, knhk_drained *d);

/* The bucket of a duration. */
uint32_t knhk_latency_bucket(uint32_t duration_ns);

/* Atomic 8-byte words of the header: tail, full, heartbeat, closed. */
uint64_t knhk_ring_load(const uint8_t *ring, size_t offset);
void knhk_ring_store(uint8_t *ring, size_t offset, uint64_t value);

typedef struct {
  const uint8_t *receipt; /* 16 bytes */
  uint64_t cluster;
  uint16_t region;
  const uint8_t *o;
  size_t o_len; /* at least 12 */
  uint32_t arms; /* 1 or 2 */
  const knhk_drained_arm *arm;
  const uint8_t *a[2];
} knhk_record;

/* One frame, its leaves, and what is appended of them to a log, for a record that the agent makes itself. Returns the frame's length, 0 when it has no room. */
size_t knhk_encode(const knhk_record *r, const uint8_t *salt, uint8_t *frame, size_t cap, uint8_t *leaves, uint8_t *entries);

/* How many of the n bytes at `data` are whole frames, from the first on; those before *sound have the CRC that they say. What a frame holds is
 * not looked at. */
size_t knhk_whole_frames(const uint8_t *data, size_t n, size_t *sound);

/* The entries of records in n bytes of frames: how many there are, of which the first `cap` are written, KNHK_ENTRY_SIZE bytes each;
 * KNHK_NO_ENTRIES when a frame goes past the end, or has no room for the leaves that it says. */
#define KNHK_NO_ENTRIES SIZE_MAX
size_t knhk_entries_of_frames(const uint8_t *data, size_t n, uint8_t *entries, size_t cap);

#endif /* KNHK_DRAIN_H */
