/* park.c: what R1 cannot decide goes to the agent (formats/agent.md). Only 200, 202 and 410 with the header that the agent alone
 * sets are its word: Envoy reports a time-out or a dead agent as an answer of 504 or 503. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { STATE_DECIDE = 1, STATE_DECIDED = 2, STATE_UNAVAILABLE = 3, STATE_REFUSED = 4 };
enum { HEAD_BYTES = 48, ARM_BYTES = 28, ANSWER_HEAD = 28, PROBLEM_MAX = 192 << 10 };

static uint8_t *put_be(uint8_t *at, uint64_t value, size_t n) {
  for (size_t i = 0; i < n; i++) at[i] = (uint8_t)(value >> (8 * (n - 1 - i)));
  return at + n;
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t n) {
  if (n != 0) memcpy(at, bytes, n);
  return at + n;
}

static unsigned state_of(const shim_leaf *leaf) {
  static const uint8_t STATES[] = {[KIND_DECISION] = STATE_DECIDED, [KIND_PARK] = STATE_DECIDE, [KIND_UNAVAILABLE] = STATE_UNAVAILABLE, [KIND_REFUSED] = STATE_REFUSED};
  return STATES[leaf->kind];
}

static size_t message_size(const shim_record *record) {
  size_t n = HEAD_BYTES + 4 + record->o_len;
  for (int i = 0; i < record->narms; i++) n += ARM_BYTES + record->arms[i].a_len;
  return n;
}

static uint8_t durability_of(const shim_request *request) { return request->config->arms[request->parked.record.enforced].durability; }

/* Writes the message and lets the record's O and A point into it: the ring slot they were built in may be used again. */
static void write_message(const shim_request *request, shim_parked *parked) {
  shim_record *record = &parked->record;
  uint8_t *at = put(parked->message, "KNPK", 4);
  at = put_be(put_be(put_be(at, 1, 1), record->narms, 1), durability_of(request), 1);
  at = put_be(at, 0, 1);
  at = put_be(put(at, record->receipt, 16), record->cluster, 8);
  at = put(at, request->decision, 16);
  for (int i = 0; i < record->narms; i++) {
    shim_leaf *leaf = &record->arms[i];
    at = put_be(put_be(put(at, leaf->pack, 20), leaf->flags, 1), leaf->mode, 1);
    at = put_be(put_be(at, state_of(leaf), 2), leaf->a_len, 4);
    memcpy(at, leaf->a, leaf->a_len);
    leaf->a = at;
    at += leaf->a_len;
  }
  at = put_be(at, record->o_len, 4);
  memcpy(at, record->o, record->o_len);
  record->o = at;
}

int agent_call(shim_request *request, knhk_buf path, knhk_buf body, uint64_t timeout_ms) {
  knhk_hdr headers[] = {{":method", 7, "POST", 4}, {":path", 5, path.p, path.n}, {"host", 4, "knhk-agent", 10},
                        {"content-type", 12, "application/octet-stream", 24}};
  knhk_buf cluster = {request->config->agent_cluster, strlen(request->config->agent_cluster)};
  uint64_t id = 0;
  request->calling = true;
  int code = cb_http_filter_http_callout(request->envoy, &id, cluster, headers, sizeof headers / sizeof *headers,
                                         body, timeout_ms);
  request->calling = false;
  return code;
}

/* A verdict is answered when its leaves are as durable as the pack wants: on the agent's disk they are anyway. */
static int call(shim_request *request) {
  const shim_config *config = request->config;
  const shim_parked *parked = &request->parked;
  uint64_t settling_ms = durability_of(request) > DURABLE_DISK ? config->durable_timeout_ms : 0;
  return agent_call(request, SHIM_TEXT("/park"), (knhk_buf){(const char *)parked->message, parked->len}, config->park_timeout_ms + settling_ms);
}

/* Writes the parked record to the ring, its enforced leaf changed to this; false when the ring is full. */
static bool keep(shim_request *request, uint8_t kind, uint8_t verdict) {
  shim_ring *ring = &request->worker->ring;
  shim_record *record = &request->parked.record;
  shim_leaf *leaf = &record->arms[record->enforced];
  leaf->kind = kind;
  leaf->verdict = verdict;
  leaf->a_len = 0;
  if (kind != KIND_PARK) leaf->klass = KNHK_CLASS_NONE;
  uint8_t *slot = ring_reserve(ring, record_room(request->config, record->o_len));
  if (slot == NULL) return false;
  ring_commit(ring, slot, record_write(request->config, record, slot));
  request->answered_receipt = true;
  return true;
}

/* As `keep`, the enforced arm alone: the packs were not compared in the end, so the judge of rollouts gets no pair that a client could
 * make fail at will. */
static bool keep_one(shim_request *request, uint8_t kind, uint8_t verdict) {
  shim_record *record = &request->parked.record;
  record->arms[0] = record->arms[record->enforced];
  record->enforced = 0;
  record->narms = 1;
  return keep(request, kind, verdict);
}

/* The agent did not know the decision. */
static void refuse(shim_request *request) {
  const size_t arm = request->parked.record.enforced;
  bool kept = keep_one(request, KIND_REFUSED, KNHK_DENY);
  reply_problem(request, kept ? REASON_DECISION : REASON_RING_FULL, arm, NULL, 0);
}

/* No word from the agent: its leaves may be missing, so ours go to the ring; the first of the two that reaches the log wins. A pack that
 * has decided, and waited for a decision id only, is not counted as one that could not. */
static void leave(shim_request *request) {
  const size_t arm = request->parked.record.enforced;
  bool decided = request->parked.record.arms[arm].kind == KIND_DECISION;
  bool kept = (decided ? keep_one : keep)(request, KIND_PARK, 0);
  reply_problem(request, kept ? REASON_PARKED : REASON_RING_FULL, arm, NULL, 0);
}

bool park_abandon(shim_request *request) { return keep_one(request, KIND_UNAVAILABLE, 0); }

static shim_flow settle(shim_request *request) {
  size_t arm = request->parked.record.enforced;
  request->answered_receipt = request->outcome == PARK_ADMIT || request->outcome == PARK_DENY || request->outcome == PARK_LATER;
  if (request->undurable && !durable_missed(request, arm)) return FLOW_ANSWERED;
  switch (request->outcome) {
    case PARK_ADMIT:
      reply_admit(request, arm);
      return FLOW_PASS;
    case PARK_DENY:
      reply_count(request, SHIM_DENIED, arm);
      reply_raw(request, 403, request->problem);
      return FLOW_ANSWERED;
    case PARK_LATER:
      reply_problem(request, REASON_PARKED, arm, NULL, 0);
      return FLOW_ANSWERED;
    case PARK_INVALID:
      refuse(request);
      return FLOW_ANSWERED;
    default:
      leave(request);
      return FLOW_ANSWERED;
  }
}

shim_flow park(shim_request *request, const shim_record *record) {
  shim_parked *parked = &request->parked;
  parked->record = *record;
  memcpy(request->receipt, record->receipt, sizeof request->receipt);
  parked->len = message_size(record);
  parked->message = malloc(parked->len);
  if (parked->message == NULL) {
    reply_problem(request, REASON_FAULT, record->enforced, NULL, 0);
    return FLOW_ANSWERED;
  }
  write_message(request, parked);
  request->phase = PHASE_PARKED;
  request->outcome = PARK_NONE;
  if (call(request) != 0 && request->outcome == PARK_NONE) request->outcome = PARK_UNANSWERED;
  return request->outcome == PARK_NONE ? FLOW_HOLD : settle(request);
}

/* ---- the answer ---------------------------------------------------------------------------------- */

static bool has_field(const knhk_hdr *headers, size_t n, knhk_buf key, knhk_buf value) {
  for (size_t i = 0; i < n; i++) {
    if (shim_equal((knhk_buf){headers[i].key, headers[i].key_len}, key)) return shim_equal((knhk_buf){headers[i].value, headers[i].value_len}, value);
  }
  return false;
}

bool agent_said(int result, const knhk_hdr *headers, size_t n, knhk_buf status) {
  return result == ENVOY_CALLOUT_OK && has_field(headers, n, SHIM_TEXT("x-knhk-agent"), SHIM_TEXT("1")) && has_field(headers, n, SHIM_TEXT(":status"), status);
}

/* All chunks as one malloc'ed text of at most PROBLEM_MAX bytes; NULL when it is longer or memory is short. */
static uint8_t *join(const knhk_buf *chunks, size_t n, size_t *len) {
  *len = 0;
  for (size_t i = 0; i < n; i++) *len += chunks[i].n;
  uint8_t *text = *len <= PROBLEM_MAX ? malloc(*len + 1) : NULL, *at = text;
  for (size_t i = 0; text != NULL && i < n; i++) at = put(at, chunks[i].p, chunks[i].n);
  return text;
}

static uint32_t get32(const uint8_t *at) { return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]; }

static int read_verdict(shim_request *request, const uint8_t *text, size_t len) {
  if (len < ANSWER_HEAD || memcmp(text, "KNPA\1", 5) != 0 || text[6] > 1 || text[7] != 0) return PARK_UNANSWERED;
  if (memcmp(text + 8, request->receipt, 16) != 0 || get32(text + 24) != len - ANSWER_HEAD) return PARK_UNANSWERED;
  if (text[5] != KNHK_ADMIT && text[5] != KNHK_DENY) return PARK_UNANSWERED;
  request->undurable = text[6] == 1;
  if (text[5] == KNHK_ADMIT) return PARK_ADMIT;
  char *problem = malloc(len - ANSWER_HEAD + 1);
  if (problem == NULL) return PARK_UNANSWERED;
  memcpy(problem, text + ANSWER_HEAD, len - ANSWER_HEAD);
  request->problem = (knhk_buf){problem, len - ANSWER_HEAD};
  return PARK_DENY;
}

static int outcome_of(shim_request *request, int result, const knhk_hdr *headers, size_t n, const knhk_buf *chunks, size_t nchunks) {
  if (agent_said(result, headers, n, SHIM_TEXT("202"))) return PARK_LATER;
  if (agent_said(result, headers, n, SHIM_TEXT("410"))) return request->resumed ? PARK_INVALID : PARK_UNANSWERED;
  if (!agent_said(result, headers, n, SHIM_TEXT("200"))) return PARK_UNANSWERED;
  size_t len;
  uint8_t *text = join(chunks, nchunks, &len);
  int outcome = text == NULL ? PARK_UNANSWERED : read_verdict(request, text, len);
  free(text);
  return outcome;
}

void park_done(shim_request *request, int result, const knhk_hdr *headers, size_t n, const knhk_buf *chunks, size_t nchunks) {
  if (request->phase != PHASE_PARKED || request->outcome != PARK_NONE) return;
  request->outcome = (uint8_t)outcome_of(request, result, headers, n, chunks, nchunks);
  if (!request->calling && settle(request) == FLOW_PASS) cb_http_filter_continue_decoding(request->envoy);
}
