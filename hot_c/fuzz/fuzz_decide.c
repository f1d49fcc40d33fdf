/* fuzz_decide.c. Invariant: whatever the bytes of O, decide never reads or writes outside its memory, every variant and the lanes give the
 * same A whatever lay in scratch before, and so does a batch whatever its neighbours; a JSON body with one more escape gives it too; A explains
 * itself as JSON of bounded size, and the graph stays in its room. Linked with one pack. */
#define KNHK_BUILDING_PACK
#include "fuzz.h"
#include "engine.h"

#define TEXT_ROOM ((size_t)1 << 18)
#define SOILED 65536

#define NEIGHBOURS 20u /* of every route, most of them with the whole body, so that shards fill up */

static fuzz_room observation, escaped_memory, binding_memory, scratch_memory, text_memory, actions[2], neighbours, batch_actions, heat_memory,
  lanes_memory, lanes_actions;

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
  fuzz_demand(memcmp(r, first, sizeof *r) == 0, "one O has one result");
  fuzz_demand(r->a_len <= knhk_pack_v1.a_max && memcmp(a, b, r->a_len) == 0, "one O has one A");
}

static uint8_t *put(uint8_t *at, const void *from, size_t n) {
  memcpy(at, from, n);
  return at + n;
}

static uint8_t *put_number(uint8_t *at, uint64_t x, uint32_t width) {
  for (uint32_t i = 0; i < width; i++) at[i] = (uint8_t)(x >> (8 * (width - 1 - i)));
  return at + width;
}

/* The bytes of `o` with another route and the first `body` bytes of its body. Returns their number. */
static size_t put_neighbour(uint8_t *at, const uint8_t *o, const knhk_observation *obs, knhk_text route, size_t body) {
  const uint8_t *const start = at, *const after = obs->route.p + obs->route.n;
  at = put(at, o, (size_t)(obs->route.p - 2 - o));
  at = put(put_number(at, route.n, 2), route.p, route.n);
  at = put(at, after, (size_t)(obs->body.p - 4 - after));
  at = put(put_number(at, body, 4), obs->body.p, body);
  return (size_t)(at - start);
}

/* Others beside O, some of which are refused, empty or cut. */
static void decide_together(const knhk_pack *pack, const knhk_variant *v, const knhk_binding *binding, const uint8_t *data, size_t size, uint8_t *single) {
  knhk_observation obs;
  if (knhk_observe(data, size, &obs) != KNHK_OK) memset(&obs, 0, sizeof obs);
  size_t longest = size, sizes[NEIGHBOURS];
  for (uint32_t i = 0; i < knhk_tables_v1.nroutes; i++) longest += knhk_pack_string(knhk_tables_v1.routes[i].route).n;
  uint8_t *at = fuzz_take(&neighbours, NEIGHBOURS * longest);
  const uint8_t *o[NEIGHBOURS];
  for (uint32_t i = 0; i < NEIGHBOURS; at += sizes[i++]) {
    o[i] = at;
    sizes[i] = size / (i + 1);
    if (obs.body.p != NULL && i % 7 != 3) {
      const knhk_text route = knhk_pack_string(knhk_tables_v1.routes[i / 2 % knhk_tables_v1.nroutes].route);
      sizes[i] = put_neighbour(at, data, &obs, route, i % 5 == 4 ? obs.body.n / i : obs.body.n);
    } else {
      memcpy(at, data, sizes[i]);
    }
  }
  const size_t room = pack->batch_size(longest);
  uint8_t *scratch = fuzz_take(&scratch_memory, room), *a = fuzz_take(&batch_actions, NEIGHBOURS * (size_t)pack->a_max);
  knhk_result r[NEIGHBOURS];
  soil(scratch, room, 0x5a);
  v->decide_batch(binding, NEIGHBOURS, o, sizes, a, pack->a_max, r, scratch, room);
  for (uint32_t i = 0; i < NEIGHBOURS; i++) {
    const knhk_result alone = v->decide(binding, o[i], sizes[i], single, pack->a_max, scratch, room);
    same(&r[i], &alone, a + i * (size_t)pack->a_max, single);
  }
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

/* What the shim does for a sample of decisions. */
static void count(const void *scratch) {
  uint64_t *counts = (uint64_t *)(void *)fuzz_take(&heat_memory, knhk_heat_v1.npredicates * sizeof *counts);
  memset(counts, 0, knhk_heat_v1.npredicates * sizeof *counts);
  knhk_heat_v1.count(scratch, counts, knhk_heat_v1.npredicates);
}

/* One Δ three times in a batch. */
static void judge_lanes_together(const knhk_pack *pack, const knhk_variant *v, const void *lanes, const knhk_result *first, const uint8_t *a, size_t room) {
  const void *const three[3] = {lanes, lanes, lanes};
  knhk_result r[3];
  uint8_t *actions_of = fuzz_take(&lanes_actions, 3 * (size_t)pack->a_max), *scratch = fuzz_take(&lanes_memory, room);
  v->decide_lanes_batch(3, three, actions_of, pack->a_max, r, scratch, room);
  for (uint32_t i = 0; i < 3; i++) same(&r[i], first, a, actions_of + i * (size_t)pack->a_max);
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
  if (first.status >= KNHK_OK) count(scratch);
  for (uint32_t i = 0; i < pack->nvariants; i++) {
    const knhk_variant *v = &pack->variants[i];
    if (!v->supported()) continue;
    soil(scratch, room, (int)i);
    const knhk_result r = v->decide(binding, o, size, b, pack->a_max, scratch, room);
    same(&r, &first, a, b);
    const void *lanes;
    if (pack->extract(binding, o, size, scratch, room, &lanes) != KNHK_OK) continue;
    const knhk_result judged = v->decide_lanes(binding, lanes, b, pack->a_max, scratch, room);
    same(&judged, &first, a, b);
    judge_lanes_together(pack, v, lanes, &first, a, pack->batch_size(size));
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
  const knhk_variant *together = &pack->variants[size % pack->nvariants];
  if (together->supported()) decide_together(pack, together, binding, o, size, b);
  scratch = fuzz_take(&scratch_memory, room);
  if (first.status == KNHK_OK) {
    const int64_t n = pack->explain(binding, o, size, a, first.a_len, text, TEXT_ROOM, scratch, room);
    fuzz_demand(n >= 2 && (size_t)n <= TEXT_ROOM && text[0] == '[' && text[n - 1] == ']', "a decision explains itself");
  }
  fuzz_demand(pack->graph(binding, o, size, text, TEXT_ROOM, scratch, room) <= (int64_t)TEXT_ROOM, "the graph stays in its room");
  return 0;
}
