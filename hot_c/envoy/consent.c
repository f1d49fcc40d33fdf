/* consent.c: what the subject of a request consents to, out of the table that the agent keeps (formats/consent.md). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

enum { HEADER = 64, SLOT = 24, AT_SLOTS = 8, AT_FRESH = 16, AT_KEY = 24, KEY = 32, BLOCK = 64 };
static const char MAGIC[] = "KNCONS01", DOMAIN[] = "knhk.dev/subject/v1\n";

static uint64_t word(const shim_consents *consents, size_t at) {
  return __atomic_load_n((const uint64_t *)(const void *)(consents->map + at), __ATOMIC_ACQUIRE);
}

static bool is_table(shim_consents *consents) {
  if (consents->len < HEADER || memcmp(consents->map, MAGIC, sizeof MAGIC - 1) != 0) return false;
  uint64_t slots = word(consents, AT_SLOTS);
  consents->slots = slots;
  return slots != 0 && (slots & (slots - 1)) == 0 && slots <= (SIZE_MAX - HEADER) / SLOT && consents->len == HEADER + slots * SLOT;
}

bool consents_open(shim_consents *consents, const char *path, char *err) {
  struct stat s;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return shim_fail(err, "%s: %s", path, strerror(errno));
  bool sound = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && file_is_private(&s) && s.st_size > 0;
  void *map = sound ? mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0) : MAP_FAILED;
  close(fd);
  if (map == MAP_FAILED) return shim_fail(err, "%s: must be a regular file that only its owner may write", path);
  consents->map = map;
  consents->len = (size_t)s.st_size;
  return is_table(consents) || shim_fail(err, "%s: must be a table of consents, KNCONS01", path);
}

void consents_close(shim_consents *consents) {
  if (consents->map != NULL) munmap((void *)(uintptr_t)consents->map, consents->len);
}

/* RFC 2104 with SHA-256 over the domain and the subject; the table knows the first 16 bytes. */
static void tag_of(const shim_consents *consents, knhk_buf subject, uint8_t tag[32]) {
  uint8_t inner[BLOCK + sizeof DOMAIN - 1 + SHIM_VALUE_MAX] = {0}, outer[BLOCK + 32] = {0};
  memcpy(inner, consents->map + AT_KEY, KEY);
  memcpy(outer, consents->map + AT_KEY, KEY);
  for (size_t i = 0; i < BLOCK; i++) {
    inner[i] ^= 0x36;
    outer[i] ^= 0x5c;
  }
  memcpy(inner + BLOCK, DOMAIN, sizeof DOMAIN - 1);
  memcpy(inner + BLOCK + sizeof DOMAIN - 1, subject.p, subject.n);
  knhk_sha256(inner, BLOCK + sizeof DOMAIN - 1 + subject.n, outer + BLOCK);
  knhk_sha256(outer, sizeof outer, tag);
}

/* The state of a tag; 0 when nothing is known of it. A slot that is half written is nobody's. */
static uint64_t state_of(const shim_consents *consents, const uint8_t tag[32]) {
  uint64_t first, second, mask = consents->slots - 1;
  memcpy(&first, tag, 8);
  memcpy(&second, tag + 8, 8);
  for (uint64_t i = 0; i < consents->slots; i++) {
    size_t at = HEADER + SLOT * ((first + i) & mask);
    uint64_t a = word(consents, at), b = word(consents, at + 8);
    if (a == first && b == second) return word(consents, at + 16);
    if (a == 0 && b == 0) return 0;
  }
  return 0;
}

static knhk_buf subject_of(const shim_consents *consents, const shim_observation *seen) {
  knhk_buf name = {consents->subject, strlen(consents->subject)};
  for (size_t i = 0; i < seen->nattributes; i++) {
    if (shim_equal(seen->attributes[i].name, name)) return seen->attributes[i].value;
  }
  return (knhk_buf){NULL, 0};
}

static knhk_buf told(uint64_t state, size_t purpose) {
  if (state >> (32 + purpose) & 1) return SHIM_TEXT("withdrawn");
  return state >> purpose & 1 ? SHIM_TEXT("granted") : SHIM_TEXT("unknown");
}

shim_reason observe_consents(const shim_consents *consents, shim_observation *seen) {
  uint64_t state = 0;
  uint8_t tag[32];
  if (consents->npurposes == 0) return REASON_NONE;
  knhk_buf subject = subject_of(consents, seen);
  bool stale = seen->time_ns >= word(consents, AT_FRESH);
  if (subject.n != 0 && !stale) {
    tag_of(consents, subject, tag);
    state = state_of(consents, tag);
  }
  for (size_t i = 0; i < consents->npurposes; i++) {
    const char *name = consents->names[i];
    shim_reason reason = observe_insert(seen, (shim_attribute){{name, strlen(name)}, stale ? SHIM_TEXT("stale") : told(state, i)});
    if (reason != REASON_NONE) return reason;
  }
  return REASON_NONE;
}
