/* shards.h: part of eval.c: the guards of many Δs at once. A shard is a program, that is the predicates that the guards of one target read. The
 * focus nodes of all inputs go to the shards whose target they are, eight of them make a chunk, and a row is judged over a chunk in one go: a
 * register of a fold holds a bit for each. Rows that look at the Δ, and those of a value that occurs more than once, are judged when the input is
 * read; the bits of the latter replace those of their blocks. */

/* ---- a chunk of a shard ---- */

static void put_lane(const knhk_shard *s, uint32_t bit, uint32_t lane, uint32_t holds) {
  uint8_t *reg = s->regs + T->nglobals + bit;
  *reg = (uint8_t)((*reg & ~(1u << lane)) | (holds << lane));
}

/* Rows of a block over eight focus nodes: HOLDS of one row. */
#define ROWS(kernel, HOLDS)                                                                             \
  for (uint32_t i = program->blocks[kernel]; i < program->blocks[(kernel) + 1]; i++) {                  \
    const knhk_block *b = &T->blocks[i];                                                                \
    const uint64_t *k = T->lanes + b->at;                                                               \
    (void)k;                                                                                            \
    for (uint32_t row = 0; row < 8; row++) {                                                            \
      const uint32_t value = b->base + b->number[row], at = 8 * value, absent = s->absent[value];       \
      (void)at;                                                                                         \
      *regs++ = (uint8_t)(((HOLDS) & ~absent) | (all_if(b->absent, row) & absent));                     \
    }                                                                                                   \
  }
#define EACH(i) knhk_splat(k[8 * (i) + row])
#define LANE(lane) knhk_load(s->lane + at)

static uint32_t all_if(uint32_t bits, uint32_t i) { return 0u - ((bits >> i) & 1); }

static void judge_blocks(const knhk_shard *s, const knhk_program *program, uint8_t *restrict regs) {
  for (uint32_t i = 0; i < program->nvalue; i++) s->absent[i] = (uint8_t)~knhk_meet(knhk_load(s->obj + 8 * i), knhk_load(s->obj + 8 * i));
  ROWS(KNHK_R_ASK_SP, all_if(b->single, row))
  ROWS(KNHK_R_ASK_SPO, knhk_eq(LANE(obj), EACH(0)))
  ROWS(KNHK_R_COUNT, all_if(b->single, row))
  ROWS(KNHK_R_COMPARE, knhk_within(LANE(val), EACH(0), EACH(1)))
  ROWS(KNHK_R_VALIDATE, knhk_eq(knhk_and(LANE(meta), EACH(0)), EACH(1)) & knhk_meet(LANE(meta), EACH(2)) & knhk_within(knhk_lengths(LANE(meta)), EACH(3), EACH(4)))
  ROWS(KNHK_R_FEW, knhk_eq(LANE(obj), EACH(0)) | knhk_eq(LANE(obj), EACH(1)) | knhk_eq(LANE(obj), EACH(2)) | knhk_eq(LANE(obj), EACH(3)))
}

/* Whether a row outside of blocks is judged over the chunk: it looks at nothing but its values. Of an order the values have to be scaled ones. */
static int waits(const knhk_row *row) {
  if (row->kernel == KNHK_R_TEST) return (row->kinds & KNHK_TEXT) == 0;
  return row->kernel == KNHK_R_PAIR && row->kinds < KNHK_REL_EQ;
}

static knhk_v8 lanes_of(const uint64_t *words, uint64_t value) { return knhk_load(words + 8 * (size_t)(uint32_t)value); }

/* Lanes in which a < b, or a ≤ b, of scaled values: family and value in one number. */
static uint32_t below8(knhk_v8 a, knhk_v8 b, uint32_t equal_too) {
  const uint32_t within = knhk_within(a, knhk_and(b, knhk_splat((uint64_t)15 << 60)), b);
  return equal_too ? within : within & ~knhk_eq(a, b);
}

static uint32_t pair8(const knhk_shard *s, const knhk_row *row) {
  const knhk_v8 p = lanes_of(s->obj, row->c), q = lanes_of(s->obj, row->c >> 32);
  if (row->kinds == KNHK_REL_EQUALS) return knhk_eq(p, q);
  const uint32_t absent = ~(knhk_meet(p, p) & knhk_meet(q, q));
  if (row->kinds == KNHK_REL_DISJOINT) return absent | ~knhk_eq(p, q);
  const knhk_v8 a = lanes_of(s->val, row->c), b = lanes_of(s->val, row->c >> 32);
  const uint32_t equal_too = row->kinds == KNHK_REL_LE || row->kinds == KNHK_REL_GE;
  return absent | (row->kinds <= KNHK_REL_LE ? below8(a, b, equal_too) : below8(b, a, equal_too));
}

static void judge_pairs(const knhk_shard *s, const knhk_program *program) {
  for (uint32_t i = program->rows[KNHK_R_PAIR]; i < program->rows[KNHK_R_PAIR + 1]; i++) {
    const knhk_row *row = &T->rows[i];
    if (waits(row)) s->regs[T->nglobals + row->out] = (uint8_t)pair8(s, row);
  }
}

static void judge_tests(const knhk_shard *s, const knhk_program *program) {
  context x;
  x.d = NULL; /* inputs whose values are not all exact are no part of shards */
  for (uint32_t i = program->rows[KNHK_R_TEST]; i < program->rows[KNHK_R_TEST + 1]; i++) {
    const knhk_row *row = &T->rows[i];
    const size_t at = 8 * (size_t)(row->c >> 32);
    if (!waits(row)) continue;
    memcpy(x.one.obj, s->obj + at, 64);
    memcpy(x.one.val, s->val + at, 64);
    memcpy(x.one.meta, s->meta + at, 64);
    s->regs[T->nglobals + row->out] = (uint8_t)test_holds(&x, row, &x.one);
  }
}

static void judge_folds(const knhk_batch *b, const knhk_shard *s, const knhk_program *program) {
  knhk_clear(s->regs, T->nglobals);
  for (uint32_t lane = 0; lane < s->n; lane++) {
    const uint8_t *globals = b->globals + (size_t)s->input[lane] * T->nglobals;
    for (uint32_t i = 0; i < T->nglobals; i++) s->regs[i] |= (uint8_t)(globals[i] << lane);
  }
  for (uint32_t i = program->fold; i < program->fold + program->nfold; i++) {
    const knhk_fold *f = &T->folds[i];
    const uint32_t a = f->op == KNHK_B_CONST ? 0u - f->x : s->regs[f->x], c = f->op < KNHK_B_NOT ? s->regs[f->y] : 0;
    const uint32_t made[5] = {a & c, a | c, a & ~c, ~a, a};
    s->regs[f->dst] = (uint8_t)made[f->op];
  }
}

/* Bit l of byte r becomes bit r of byte l. */
static uint64_t turned(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aaull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000cccc0000ccccull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0ull;
  return x ^ t ^ (t << 28);
}

/* Outputs that are false become bits of their input. */
static void judge_outputs(const knhk_batch *b, const knhk_shard *s, const knhk_program *program) {
  const uint8_t *regs = s->regs + T->nglobals, *outs = T->outs + program->fail;
  const uint64_t lanes_in_use = ((1u << s->n) - 1) * 0x0101010101010101ull;
  for (uint32_t i = 0; i < program->nbyte; i++) {
    uint64_t eight;
    memcpy(&eight, regs + 8 * i, 8);
    eight = ~eight & lanes_in_use & (spread(outs[i]) * 0xff);
    if (eight == 0) continue;
    eight = turned(eight);
    for (uint32_t lane = 0; lane < s->n; lane++) b->fail[(size_t)s->input[lane] * T->nfail + program->fail + i] |= (uint8_t)(eight >> (8 * lane));
  }
}

static uint8_t *global_of(const knhk_batch *b, uint32_t input, const knhk_program *program) {
  return b->globals + (size_t)input * T->nglobals + program->global;
}

static int has_folds(const knhk_program *program) { return program->nfold > 0 || program->kind != KNHK_PROGRAM_GUARDS; }

static void judge_shard(const knhk_batch *b, uint32_t number) {
  knhk_shard *s = &b->shard[number];
  const knhk_program *program = &T->programs[number];
  if (s->n == 0) return;
  judge_blocks(s, program, s->regs + T->nglobals);
  judge_tests(s, program);
  judge_pairs(s, program);
  for (uint32_t i = 0; i < s->nknown; i++) put_lane(s, s->known[i].bit, s->known[i].lane, s->known[i].holds);
  if (has_folds(program)) judge_folds(b, s, program);
  if (program->kind == KNHK_PROGRAM_GUARDS) judge_outputs(b, s, program);
  else
    for (uint32_t lane = 0; lane < s->n; lane++) *global_of(b, s->input[lane], program) &= (s->regs[program->output] >> lane) & 1;
  s->n = s->nknown = 0;
}

/* What a program reads of other programs: globals come first. */
static void judge_globals(const knhk_batch *b, uint32_t end) {
  if (T->nglobals == 0) return;
  for (uint32_t i = 0; i < end && T->programs[i].kind != KNHK_PROGRAM_GUARDS; i++) judge_shard(b, i);
}

/* ---- an input ---- */

static void gather_many(context *x, knhk_shard *s, const knhk_program *program, uint32_t node) {
  for (uint32_t m = 0; m < x->nmany; m++) {
    const knhk_value *v = &T->values[program->value + x->d->many[m]];
    for (uint32_t i = v->row; i < v->row + v->nrow; i++) {
      const knhk_row *row = &T->rows[T->value_rows[i]];
      if (again(x, row, x->d->many[m])) continue;
      const knhk_known known = {row->out, (uint16_t)s->n, (uint16_t)(row_holds(x, row, node) != 0)};
      s->known[s->nknown++] = known;
    }
  }
}

/* Values that have an order but no scaled form are compared now. */
static void gather_order(context *x, knhk_shard *s, const knhk_row *row, lanes to) {
  if (to.val[8 * (size_t)(uint32_t)row->c] != 0 && to.val[8 * (size_t)(row->c >> 32)] != 0) return; /* so it is of an absent one, whatever it holds */
  const lane a = taken(to, 8, row->c), b = taken(to, 8, row->c >> 32);
  if (a.obj == 0 || b.obj == 0) return;
  const knhk_known known = {row->out, (uint16_t)s->n, (uint16_t)(related(x, row->kinds, a, b) != 0)};
  s->known[s->nknown++] = known;
}

static void gather_node(context *x, const knhk_batch *b, uint32_t number, uint32_t input, uint32_t node) {
  knhk_shard *s = &b->shard[number];
  const knhk_program *program = &T->programs[number];
  const lanes to = {s->obj + s->n, s->val + s->n, s->meta + s->n};
  take_values(x, program, node, to, 8);
  for (uint32_t i = program->rows[KNHK_R_UNIQUE]; i < program->rows[KNHK_R_KINDS]; i++) {
    const knhk_row *row = &T->rows[i];
    if (!waits(row)) put_lane(s, row->out, s->n, once_holds(x, row, to, 8, node) != 0);
    else if (row->kernel == KNHK_R_PAIR && row->kinds >= KNHK_REL_LT) gather_order(x, s, row, to);
  }
  if (x->nmany > 0) gather_many(x, s, program, node);
  s->input[s->n++] = input;
  if (s->n < 8) return;
  judge_globals(b, number);
  judge_shard(b, number);
}

static uint32_t gather_focus(context *x, const knhk_batch *b, uint32_t number, uint32_t input) {
  const knhk_target *t = &T->targets[T->programs[number].target];
  uint32_t n = 0;
  for (uint32_t node = next_focus(x->d, t, 0); node < x->d->nnode; node = next_focus(x->d, t, node + 1), n++) gather_node(x, b, number, input, node);
  return n;
}

static void gather_forall(context *x, const knhk_batch *b, uint32_t number, uint32_t input) {
  uint8_t *global = global_of(b, input, &T->programs[number]);
  *global = 1;
  const uint32_t n = gather_focus(x, b, number, input);
  *global &= (uint8_t)(n >= T->programs[number].min);
}

int32_t KNHK_NAME(gather)(knhk_batch *b, knhk_delta *d, uint32_t i) {
  context x;
  memset(&x, 0, sizeof x);
  x.d = d;
  d->fail = b->fail + (size_t)i * T->nfail;
  knhk_clear(d->fail, T->nfail);
  for (uint32_t number = 0; number < T->nprograms; number++) {
    const knhk_program *program = &T->programs[number];
    switch (program->kind) {
      case KNHK_PROGRAM_FORALL:
        gather_forall(&x, b, number, i);
        break;
      case KNHK_PROGRAM_UNIQUE:
        run_unique(&x, program);
        *global_of(b, i, program) = d->regs[program->global];
        break;
      default: gather_focus(&x, b, number, i);
    }
  }
  return x.escape != 0 ? KNHK_ESCAPE : KNHK_OK;
}

void KNHK_NAME(flush)(knhk_batch *b) {
  for (uint32_t i = 0; i < T->nprograms; i++) judge_shard(b, i);
}

#undef ROWS
#undef EACH
#undef LANE
