/* fuzz_ring.c. Invariant: whatever another process wrote into a ring, the drain reads only the ring, writes only its buffers, ends, and
 * moves its position by whole records below head. */
#include "drain.h"
#include "fuzz.h"

#define CAPACITY ((size_t)1 << 16)
#define RECORDS 64
#define FRAMES ((size_t)1 << 20)

static void no_hash(const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint8_t digest[32]) {
  uint8_t sum = 0;
  for (size_t i = 0; i < head_len; i++) sum = (uint8_t)(sum + head[i]);
  for (size_t i = 0; i < body_len; i++) sum = (uint8_t)(sum + body[i]);
  memset(digest, sum, 32);
}

static fuzz_room ring_memory, frames, leaves, entries, aside;
static const uint8_t salts[RECORDS * KNHK_SALT_SIZE];
static knhk_drained_record records[RECORDS];

/* The input is header words (head, tail), then the beginning of the ring's memory. */
static uint8_t *fill(const uint8_t *data, size_t size) {
  uint8_t *ring = fuzz_take(&ring_memory, KNHK_RING_HEADER + CAPACITY);
  memset(ring, 0, KNHK_RING_HEADER + CAPACITY);
  if (size < 4) return ring;
  uint16_t words[2];
  memcpy(words, data, 4);
  knhk_ring_store(ring, 128, words[0] & 0xffc0u);
  knhk_ring_store(ring, 192, words[1] & 0xffc0u & (words[0] | 0x3fu));
  const size_t n = size - 4 < CAPACITY ? size - 4 : CAPACITY;
  memcpy(ring + KNHK_RING_HEADER, data + 4, n);
  return ring;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *ring = fill(data, size);
  knhk_drained d = {0};
  d.frames = fuzz_take(&frames, FRAMES);
  d.leaves = fuzz_take(&leaves, 2 * RECORDS * KNHK_LEAF_SIZE);
  d.entries = fuzz_take(&entries, 2 * RECORDS * KNHK_ENTRY_SIZE);
  d.aside = fuzz_take(&aside, CAPACITY);
  d.salts = salts;
  d.records = records;
  d.frames_cap = FRAMES;
  d.aside_cap = CAPACITY;
  d.records_cap = RECORDS;
  knhk_use_sha256(no_hash);
  const uint64_t tail = knhk_ring_load(ring, 192), head = knhk_ring_load(ring, 128);
  const int32_t status = knhk_ring_drain(ring, KNHK_RING_HEADER + CAPACITY, 8192, &d);
  const int moved = d.new_tail >= tail && (status == KNHK_RING_BAD_HEAD || d.new_tail <= head) && d.new_tail % 64 == 0;
  fuzz_demand(moved, "the position moves by whole records below head");
  return 0;
}
