/* fuzz_decide.c. Invariant: whatever the bytes of O, decide never reads or writes outside its memory, every variant, the batch and the
 * lanes give the same A whatever lay in scratch before, a JSON body with one more escape gives it too, A explains itself as JSON of bounded size, and the graph stays in its room.
 * Linked with one pack. */
#define KNHK_BUILDING_PACK
#include "fuzz.h"
#include "engine.h"

#define TEXT_ROOM ((size_t)1 << 18)
#define SOILED 65536

static fuzz_room observation, escaped_memory, binding_memory, scratch_memory, text_memory, actions[2];

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

static int is_json(const knhk_observation *obs) {
  const knhk_tables *t = &knhk_tables_v1;
  for (uint32_t i = 0; i < t->nroutes; i++)
    if (knhk_same(knhk_pack_string(t->routes[i].route), obs->route))
      return t->routes[i].mapping != KNHK_NONE && t->mappings[t->routes[i].mapping].format == KNHK_FORMAT_JSON;
  return 0;
}

/* O with the first letter of the first string of its JSON body as an escape, so that the reader of plain bodies leaves it to yyjson. 0: there is none. */
static size_t escape_one(const uint8_t *o, size_t size, uint8_t *to) {
  knhk_observation obs;
  if (knhk_observe(o, size, &obs) != KNHK_OK || !is_json(&obs) || obs.body.n + 5 > KNHK_BODY_MAX) return 0;
  const uint8_t *quote = memchr(obs.body.p, '"', obs.body.n);
  if (quote == NULL || quote + 1 == o + size || quote[1] < 'a' || quote[1] > 'z') return 0;
  const size_t head = (size_t)(quote + 1 - o), before = (size_t)(obs.body.p - o) - 4;
  char escape[8];
  snprintf(escape, sizeof escape, "\\u%04x", quote[1]);
  memcpy(to, o, head);
  memcpy(to + head, escape, 6);
  memcpy(to + head + 6, o + head + 1, size - head - 1);
  for (uint32_t i = 0; i < 4; i++) to[before + i] = (uint8_t)((obs.body.n + 5) >> (24 - 8 * i));
  return size + 5;
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
  uint8_t *escaped = fuzz_take(&escaped_memory, size + 5);
  const size_t escaped_size = escape_one(o, size, escaped);
  if (escaped_size > 0 && first.status != KNHK_ESCAPE) { /* limits grow with O */
    const size_t more = pack->scratch_size(escaped_size);
    uint8_t *wider = fuzz_take(&scratch_memory, more);
    const knhk_result r = pack->variants[pack->nvariants - 1].decide(binding, escaped, escaped_size, b, pack->a_max, wider, more);
    same(&r, &first, a, b);
    scratch = fuzz_take(&scratch_memory, room);
  }
  if (first.status == KNHK_OK) {
    const int64_t n = pack->explain(binding, o, size, a, first.a_len, text, TEXT_ROOM, scratch, room);
    fuzz_demand(n >= 2 && (size_t)n <= TEXT_ROOM && text[0] == '[' && text[n - 1] == ']', "a decision explains itself");
  }
  fuzz_demand(pack->graph(binding, o, size, text, TEXT_ROOM, scratch, room) <= (int64_t)TEXT_ROOM, "the graph stays in its room");
  return 0;
}
