/* A pack whose verdict is in the body, to drive the shim: FAKE_DENY is a comma list of words that deny. "cold" and "escape" ask
 * the tier below, "fault" and "noroute" are errors; bind refuses a bundle that does not begin with its magic. */
#define KNHK_BUILDING_PACK
#include <string.h>

#include "knhk_pack.h"

#ifndef FAKE_DENY
#define FAKE_DENY "bad"
#endif
#ifndef FAKE_REVISION
#define FAKE_REVISION 0
#endif
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#ifndef FAKE_ABI
#define FAKE_ABI KNHK_ABI_VERSION
#endif

#ifdef FAKE_FILLER /* bytes of constants that nothing reads */
extern KNHK_EXPORT const uint8_t fake_filler[FAKE_FILLER];
const uint8_t fake_filler[FAKE_FILLER] = {1};
#endif

#ifndef FAKE_A_MAX
#define FAKE_A_MAX 11
#endif

static int has(const uint8_t *o, size_t o_len, const char *word, size_t n) {
  for (size_t i = 0; i + n <= o_len; i++) {
    if (memcmp(o + i, word, n) == 0) return 1;
  }
  return 0;
}

static int denies(const uint8_t *o, size_t o_len) {
  for (const char *word = FAKE_DENY; *word != 0;) {
    size_t n = 0;
    while (word[n] != 0 && word[n] != ',') n++;
    if (has(o, o_len, word, n)) return 1;
    word += n + (word[n] == ',');
  }
  return 0;
}

static knhk_result decide(const knhk_binding *binding, const uint8_t *o, size_t o_len, uint8_t *a, size_t a_cap, void *scratch, size_t scratch_len) {
  (void)binding;
  if (a_cap < 11) return (knhk_result){.status = KNHK_E_SPACE};
  memset(scratch, 0xa5, scratch_len);
  if (has(o, o_len, "cold", 4)) return (knhk_result){.status = KNHK_COLD, .klass = KNHK_CLASS_C1};
  if (has(o, o_len, "escape", 6)) return (knhk_result){.status = KNHK_ESCAPE, .klass = KNHK_CLASS_W1};
  if (has(o, o_len, "fault", 5)) return (knhk_result){.status = KNHK_E_INPUT};
  if (has(o, o_len, "noroute", 7)) return (knhk_result){.status = KNHK_E_ROUTE};
  int deny = denies(o, o_len);
  const uint8_t out[11] = {'K', 'N', 'A', '1', deny ? KNHK_DENY : KNHK_ADMIT, 0, 0, 2, deny ? 2 : 0, 0, 0};
  memcpy(a, out, sizeof out);
  return (knhk_result){.status = KNHK_OK, .verdict = out[4], .klass = KNHK_CLASS_R1, .failing = (uint16_t)deny, .a_len = sizeof out};
}

static size_t scratch_size(size_t o_len) { return 2 * o_len + 64; }
static size_t bind_size(const uint8_t *bundle, size_t len) { return (void)bundle, (void)len, 64; }

static const knhk_binding *bind_bundle(const uint8_t *bundle, size_t len, void *mem, size_t mem_len, int32_t *err) {
  if (mem_len < 64 || (bundle != NULL && (len < 8 || memcmp(bundle, "KNHKBND2", 8) != 0))) return *err = KNHK_E_BUNDLE, NULL;
  return mem;
}

static int64_t explain(const knhk_binding *binding, const uint8_t *o, size_t o_len, const uint8_t *a, size_t a_len, char *out, size_t cap, void *scratch, size_t scratch_len) {
  static const char JSON[] = "[{\"guard\":\"word\",\"rule\":\"sh:pattern\",\"shape\":\"ex:Word\",\"path\":\"ex:body\",\"focus\":\"\",\"value\":\"\",\"message\":\"" FAKE_DENY "\"}]";
  (void)binding, (void)o, (void)o_len, (void)a, (void)a_len, (void)scratch, (void)scratch_len;
  if (cap < sizeof JSON - 1) return KNHK_E_SPACE;
  memcpy(out, JSON, sizeof JSON - 1);
  return sizeof JSON - 1;
}

static int always(void) { return 1; }

static const knhk_variant VARIANTS[] = {{"scalar", always, decide, NULL, NULL, NULL}};
static const knhk_guard_info GUARDS[] = {{"payload", "payload", "R1", "", "", "", "", "", "Violation"}, {"word", "shacl", "R1", "", "", "", "", "", "Violation"}};
KNHK_EXPORT const knhk_pack knhk_pack_v1 = {FAKE_ABI, 2, 1, FAKE_A_MAX, 0, "fake", TEXT(FAKE_REVISION), "fakepack", {0}, GUARDS, VARIANTS, scratch_size, scratch_size, bind_size, bind_bundle, NULL, NULL, explain};

static const char *predicate(uint32_t i, size_t *len) {
  static const char *const NAMES[] = {"https://e.x/other", "https://e.x/word"};
  return *len = strlen(NAMES[i]), NAMES[i];
}

/* Two triples of one predicate for each decision, whatever it was. */
static void count(const void *scratch, uint64_t *counts, uint32_t n) {
  (void)scratch;
  if (n > 1) counts[1] += 2;
}
KNHK_EXPORT const knhk_heat knhk_heat_v1 = {2, predicate, count};
