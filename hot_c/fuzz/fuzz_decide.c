/* fuzz_decide.c. Invariant: whatever the bytes of O, decide never reads or writes outside its memory, scalar and AVX2 give the same A,
 * A explains itself as JSON of bounded size, and a second run gives the same bytes.
 * Linked with one pack; libFuzzer's entry point, driven by fuzz_main.c where there is no libFuzzer. */
#define KNHK_BUILDING_PACK
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "knhk_tables.h"

#define A_ROOM 16384
#define TEXT_ROOM (1 << 20)

static void *aligned(size_t n) {
  void *at = aligned_alloc(64, (n + 63) & ~(size_t)63);
  if (at == NULL) abort();
  return at;
}

static void demand(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "invariant broken: %s\n", what);
  abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const knhk_pack *pack = &knhk_pack_v1;
  const size_t room = pack->scratch_size(size);
  uint8_t *scratch = aligned(room), a[2][A_ROOM];
  int32_t err;
  void *memory = aligned(pack->bind_size(NULL, 0));
  const knhk_binding *binding = pack->bind(NULL, 0, memory, pack->bind_size(NULL, 0), &err);
  char *text = malloc(TEXT_ROOM);
  uint8_t *o = malloc(size == 0 ? 1 : size); /* of its exact size, so that the sanitizer sees each byte beyond */
  if (o == NULL || text == NULL || binding == NULL) abort();
  if (size > 0) memcpy(o, data, size);
  memset(scratch, 0xa5, room);
  const knhk_result last = pack->variants[pack->nvariants - 1].decide(binding, o, size, a[1], A_ROOM, scratch, room);
  for (uint32_t i = 0; i < pack->nvariants; i++) {
    if (!pack->variants[i].supported()) continue;
    memset(scratch, (int)i, room < 65536 ? room : 65536);
    const knhk_result r = pack->variants[i].decide(binding, o, size, a[0], A_ROOM, scratch, room);
    demand(r.status == last.status && r.a_len == last.a_len && r.triples == last.triples, "variants give one result");
    demand(memcmp(a[0], a[1], r.a_len) == 0, "variants give one A");
  }
  if (last.status == KNHK_OK) {
    const int64_t n = pack->explain(binding, o, size, a[1], last.a_len, text, TEXT_ROOM, scratch, room);
    demand(n >= 2 && text[0] == '[' && text[n - 1] == ']', "a decision explains itself");
  }
  const int64_t graph = pack->graph(binding, o, size, text, TEXT_ROOM, scratch, room);
  demand(graph <= TEXT_ROOM, "the graph stays in its room");
  free(o);
  free(text);
  free(memory);
  free(scratch);
  return 0;
}
