/* fuzz_decide.c. Invariant: whatever the bytes of O, decide never reads or writes outside its memory, every variant, the batch and the
 * lanes give the same A whatever lay in scratch before, A explains itself as JSON of bounded size, and the graph stays in its room.
 * Linked with one pack. */
#define KNHK_BUILDING_PACK
#include "fuzz.h"
#include "knhk_tables.h"

#define TEXT_ROOM ((size_t)1 << 18)
#define SOILED 65536

static fuzz_room observation, binding_memory, scratch_memory, text_memory, actions[2];

static const knhk_binding *bind_nothing(const knhk_pack *pack) {
  static const knhk_binding *binding;
  int32_t err;
  const size_t room = pack->bind_size(NULL, 0);
  if (binding == NULL) binding = pack->bind(NULL, 0, fuzz_take(&binding_memory, room), room, &err);
  fuzz_demand(binding != NULL, "a pack binds to no bundle");
  return binding;
}

/* Other bytes than the run before left in scratch must change nothing. */
static void soil(uint8_t *scratch, size_t room, int with) { memset(scratch, with, room < SOILED ? room : SOILED); }

static void same(const knhk_result *r, const knhk_result *first, const uint8_t *a, const uint8_t *b) {
  fuzz_demand(r->status == first->status && r->a_len == first->a_len && r->triples == first->triples, "variants give one result");
  fuzz_demand(r->a_len <= knhk_pack_v1.a_max && memcmp(a, b, r->a_len) == 0, "variants give one A");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const knhk_pack *pack = &knhk_pack_v1;
  const size_t room = pack->scratch_size(size);
  uint8_t *scratch = fuzz_take(&scratch_memory, room), *a = fuzz_take(&actions[0], pack->a_max), *b = fuzz_take(&actions[1], pack->a_max);
  uint8_t *o = fuzz_take(&observation, size);
  char *text = (char *)fuzz_take(&text_memory, TEXT_ROOM);
  const knhk_binding *binding = bind_nothing(pack);
  memcpy(o, data, size);
  soil(scratch, room, 0xa5);
  const knhk_result first = pack->variants[pack->nvariants - 1].decide(binding, o, size, a, pack->a_max, scratch, room);
  for (uint32_t i = 0; i < pack->nvariants; i++) {
    const knhk_variant *v = &pack->variants[i];
    if (!v->supported()) continue;
    soil(scratch, room, (int)i);
    const knhk_result r = v->decide(binding, o, size, b, pack->a_max, scratch, room);
    same(&r, &first, a, b);
    const uint8_t *const both[] = {o, o};
    const size_t sizes[] = {size, size};
    knhk_result rs[2];
    v->decide_batch(binding, 1, both, sizes, b, pack->a_max, rs, scratch, room);
    same(rs, &first, a, b);
    const void *lanes;
    if (pack->extract(binding, o, size, scratch, room, &lanes) != KNHK_OK) continue;
    const knhk_result judged = v->decide_lanes(binding, lanes, b, pack->a_max, scratch, room);
    same(&judged, &first, a, b);
  }
  if (first.status == KNHK_OK) {
    const int64_t n = pack->explain(binding, o, size, a, first.a_len, text, TEXT_ROOM, scratch, room);
    fuzz_demand(n >= 2 && (size_t)n <= TEXT_ROOM && text[0] == '[' && text[n - 1] == ']', "a decision explains itself");
  }
  fuzz_demand(pack->graph(binding, o, size, text, TEXT_ROOM, scratch, room) <= (int64_t)TEXT_ROOM, "the graph stays in its room");
  return 0;
}
