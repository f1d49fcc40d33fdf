/* filter.c: Envoy's hooks. A request is judged once, where its end is seen: in headers, body or trailers. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "shim.h"

enum { CHUNKS_ON_STACK = 64 };

static uint8_t boot[16];

/* ---- module and configuration -------------------------------------------------------------------- */

const char *on_program_init(void) { return getrandom(boot, sizeof boot, 0) == (ssize_t)sizeof boot ? "v0.2.0" : NULL; }

static bool define_counters(void *env, shim_config *config, char *err) {
  static const char *const NAMES[SHIM_COUNTERS] = {"knhk_admit", "knhk_deny", "knhk_park", "knhk_refused", "knhk_unavailable", "knhk_ring_full", "knhk_undurable"};
  for (size_t i = 0; i < SHIM_COUNTERS; i++) {
    knhk_buf label = SHIM_TEXT("revision");
    if (cb_http_filter_config_define_counter(env, (knhk_buf){NAMES[i], strlen(NAMES[i])}, &label, 1, &config->counters[i]) != 0)
      return shim_fail(err, "counter %s cannot be defined", NAMES[i]);
  }
  return true;
}

const void *on_http_filter_config_new(void *env, knhk_buf name, knhk_buf conf) {
  (void)name;
  char err[SHIM_ERROR_MAX] = {0};
  shim_config *config = config_make(conf.p, conf.n, boot, cb_get_concurrency(), cb_is_validation_mode(), err);
  if (config != NULL && !define_counters(env, config, err)) {
    config_free(config, true);
    config = NULL;
  }
  if (config == NULL) {
    shim_log(ENVOY_LOG_ERROR, "knhk: configuration refused, the one before stays: %s", err);
  } else {
    shim_log(ENVOY_LOG_INFO, "knhk: %s: stable %s, candidate %s", config->point, config->arms[ARM_STABLE].label, config->arms[ARM_CANDIDATE].label);
  }
  return config;
}

void on_http_filter_config_destroy(const void *config) { config_free((shim_config *)(uintptr_t)config, false); }

/* ---- judging ------------------------------------------------------------------------------------- */

/* The worker of this stream; NULL in a configuration without rings, which must never pass anything. */
static shim_worker *worker_of(const shim_request *request) {
  uint32_t index = cb_http_filter_get_worker_index(request->envoy);
  return index < request->config->nworkers ? &request->config->workers[index] : NULL;
}

bool keep_disposition(shim_request *request, const uint8_t *receipt, shim_leaf leaf) {
  const shim_config *config = request->config;
  shim_ring *ring = &request->worker->ring;
  shim_observation seen = {.time_ns = shim_now_ns(CLOCK_REALTIME), .route = {request->route, strlen(request->route)}};
  size_t o_len = observation_size(config, &seen);
  uint8_t *slot = ring_reserve(ring, record_room(config, o_len));
  request->answered_receipt = slot != NULL;
  if (slot == NULL) return false;
  shim_record record = {.time_ns = seen.time_ns, .o = slot + SHIM_RECORD_HEADER, .o_len = (uint32_t)o_len, .narms = 1, .arms = {leaf}};
  record.arms[0].flags |= config_is_stale(config, seen.time_ns) ? FLAG_STALE : 0;
  if (receipt != NULL) {
    memcpy(record.receipt, receipt, sizeof record.receipt);
  } else {
    ring_next_receipt(ring, record.receipt);
  }
  observation_write(config, &seen, slot + SHIM_RECORD_HEADER);
  ring_commit(ring, slot, record_write(config, &record, slot));
  memcpy(request->receipt, record.receipt, sizeof record.receipt);
  return true;
}

/* A leaf for a request that no pack was asked about; false when there is no room for it. */
static bool keep_refusal(shim_request *request) {
  return keep_disposition(request, NULL, (shim_leaf){.kind = KIND_REFUSED, .verdict = KNHK_DENY, .mode = MODE_ENFORCED});
}

/* 503 when there is no room for the leaf. */
static shim_flow refuse(shim_request *request, shim_reason reason) {
  reply_problem(request, keep_refusal(request) ? reason : REASON_RING_FULL, ARM_STABLE, NULL, 0);
  return FLOW_ANSWERED;
}

/* Another filter, or Envoy itself, has answered before this filter did: 401, 413, a time-out. Its status stays, and the leaf says that no
 * pack was asked. Without room the response has no receipt. */
static void keep_foreign_answer(shim_request *request) {
  int counter = SHIM_RING_FULL;
  if (request->worker == NULL) request->worker = worker_of(request);
  if (request->worker == NULL) return;
  if (request->phase == PHASE_WAITING) {
    counter = durable_abandon(request) ? SHIM_UNDURABLE : SHIM_RING_FULL;
  } else if (request->phase == PHASE_PARKED) {
    counter = park_abandon(request) ? SHIM_UNAVAILABLE : SHIM_RING_FULL;
  } else if (keep_refusal(request)) {
    counter = SHIM_REFUSED;
  }
  request->phase = PHASE_DONE;
  reply_count(request, counter, ARM_STABLE);
}

/* The guards that fail in that arm, as JSON; O and A are read where they lie in the ring, which only this thread writes. */
static knhk_buf violations_of(const shim_request *request, const shim_record *record, size_t number) {
  const shim_arm *arm = &request->config->arms[number];
  const knhk_pack *api = arm->pack->api;
  const shim_leaf *leaf = &record->arms[number];
  char *violations = request->worker->out + SHIM_OUT_BYTES / 2;
  int64_t n = api->explain(arm->binding, record->o, record->o_len, leaf->a, leaf->a_len, violations, SHIM_OUT_BYTES / 2, request->worker->scratch, api->scratch_size(record->o_len));
  if (n < 2 || n > SHIM_OUT_BYTES / 2) {
    n = 2;
    memcpy(violations, "[]", 2);
  }
  return (knhk_buf){violations, (size_t)n};
}

static bool decided(const shim_record *record, size_t arm, int verdict) {
  return arm < record->narms && record->arms[arm].kind == KIND_DECISION && record->arms[arm].verdict == verdict;
}

/* What the enforced leaf means for the client; REASON_NONE: the request goes on. arm: whose word that is. */
static shim_reason meaning(const shim_request *request, const shim_record *record, size_t *arm) {
  const shim_leaf *leaf = &record->arms[record->enforced];
  *arm = record->enforced;
  if (request->tells_candidate && record->enforced == ARM_STABLE && decided(record, ARM_STABLE, KNHK_ADMIT) && decided(record, ARM_CANDIDATE, KNHK_DENY)) {
    *arm = ARM_CANDIDATE;
    return REASON_OBSERVED;
  }
  if (decided(record, record->enforced, KNHK_ADMIT)) return REASON_NONE;
  if (leaf->kind == KIND_DECISION) return REASON_DENIED;
  if (leaf->kind == KIND_REFUSED) return request->config->arms[record->enforced].pack != NULL ? REASON_UNMATCHED : REASON_NO_POLICY;
  return REASON_FAULT;
}

/* Answers, now that the record is in the ring; one whose pack wants more waits, with its problem document made while O and A are there. */
static shim_flow answer(shim_request *request, const shim_record *record, bool waits) {
  size_t arm;
  const shim_reason reason = meaning(request, record, &arm);
  const bool tells = reason == REASON_DENIED || reason == REASON_OBSERVED;
  const knhk_buf violations = tells ? violations_of(request, record, arm) : (knhk_buf){NULL, 0};
  if (waits && (!tells || reply_compose(request, reason, arm, violations.p, violations.n))) {
    request->reason = (uint8_t)reason;
    request->arm = (uint8_t)arm;
    return durable_wait(request, record);
  }
  if (waits) {
    reply_problem(request, REASON_FAULT, arm, NULL, 0);
  } else if (reason != REASON_NONE) {
    reply_problem(request, reason, arm, violations.p, violations.n);
  } else {
    reply_admit(request, arm);
    return FLOW_PASS;
  }
  return FLOW_ANSWERED;
}

/* The agent is silent, or the log without witnesses: no pack is asked, each request leaves UNAVAILABLE as long as there is room. */
static void make_unavailable(const shim_config *config, shim_record *record) {
  record->narms = 1;
  record->arms[0] = (shim_leaf){.kind = KIND_UNAVAILABLE, .mode = MODE_ENFORCED, .flags = config_is_stale(config, record->time_ns) ? FLAG_STALE : 0};
  memcpy(record->arms[0].pack, config->arms[ARM_STABLE].digest, sizeof record->arms[0].pack);
}

static shim_flow decide(shim_request *request, const shim_observation *seen, knhk_buf sticky) {
  const shim_config *config = request->config;
  shim_ring *ring = &request->worker->ring;
  const bool silent = !ring_drained(ring, config->grace_s), failing = silent || ring_unwitnessed(ring);
  size_t o_len = observation_size(config, seen);
  uint8_t *slot = ring_reserve(ring, record_room(config, o_len));
  if (slot == NULL) {
    reply_problem(request, REASON_RING_FULL, ARM_STABLE, NULL, 0);
    return FLOW_ANSWERED;
  }
  shim_record record = {.time_ns = seen->time_ns, .o = slot + SHIM_RECORD_HEADER, .o_len = (uint32_t)o_len};
  ring_next_receipt(ring, record.receipt);
  observation_write(config, seen, slot + SHIM_RECORD_HEADER);
  if (failing && !config->fail_open) {
    make_unavailable(config, &record);
  } else {
    judge(config, request->worker, slot, sticky, failing ? FLAG_FAIL_OPEN : 0, &record);
    const shim_leaf *leaf = &record.arms[record.enforced];
    bool admitted = leaf->kind == KIND_DECISION && leaf->verdict == KNHK_ADMIT;
    if (leaf->kind == KIND_PARK || (request->resumed && admitted)) return park(request, &record);
  }
  ring_commit(ring, slot, record_write(config, &record, slot));
  memcpy(request->receipt, record.receipt, sizeof record.receipt);
  request->answered_receipt = true;
  if (failing && !config->fail_open) {
    reply_problem(request, silent ? REASON_AGENT_SILENT : REASON_UNWITNESSED, ARM_STABLE, NULL, 0);
    return FLOW_ANSWERED;
  }
  return answer(request, &record, !silent && durable_waits(config, &record));
}

static shim_flow judge_body(shim_request *request, const knhk_buf *chunks, size_t n) {
  shim_observation seen = {.time_ns = shim_now_ns(CLOCK_REALTIME), .route = {request->route, strlen(request->route)}, .chunks = chunks, .nchunks = n};
  knhk_buf sticky = {NULL, 0};
  for (size_t i = 0; i < n; i++) seen.body_len += chunks[i].n;
  if (seen.body_len > SHIM_BODY_MAX) return refuse(request, REASON_TOO_LARGE);
  if (seen.body_len > 0 && !request->body_allowed) return refuse(request, REASON_BODY);
  shim_reason reason = observe_attributes(request, &seen, &sticky);
  return reason == REASON_NONE ? decide(request, &seen, sticky) : refuse(request, reason);
}

/* kinds: which of Envoy's buffers hold the body, in order. */
static shim_flow end(shim_request *request, const int *kinds, size_t nkinds) {
  knhk_buf on_stack[CHUNKS_ON_STACK], *chunks = on_stack;
  size_t count[2] = {0, 0};
  for (size_t i = 0; i < nkinds; i++) count[i] = cb_http_get_body_chunks_size(request->envoy, kinds[i]);
  size_t n = count[0] + count[1];
  if (n > CHUNKS_ON_STACK) chunks = n <= SHIM_BODY_MAX ? malloc(n * sizeof *chunks) : NULL;
  if (chunks == NULL) return refuse(request, REASON_TOO_LARGE);
  size_t filled = 0;
  for (size_t i = 0; i < nkinds; i++) {
    if (count[i] != 0 && cb_http_get_body_chunks(request->envoy, kinds[i], chunks + filled)) filled += count[i];
  }
  shim_flow flow = filled == n ? judge_body(request, chunks, n) : refuse(request, REASON_ATTRIBUTE);
  if (chunks != on_stack) free(chunks);
  return flow;
}

/* ---- one request --------------------------------------------------------------------------------- */

const void *on_http_filter_new(const void *config, void *f) {
  shim_request *request = calloc(1, sizeof *request);
  if (request == NULL) return NULL;
  request->config = config;
  request->envoy = f;
  return request;
}

void on_http_filter_destroy(const void *m) {
  shim_request *request = (shim_request *)(uintptr_t)m;
  free((char *)(uintptr_t)request->problem.p);
  free(request->parked.message);
  free(request);
}

int on_http_filter_request_headers(void *f, const void *m, bool eos) {
  shim_request *request = (shim_request *)(uintptr_t)m;
  request->worker = worker_of(request);
  if (request->worker == NULL) {
    request->phase = PHASE_DONE;
    cb_http_send_response(f, 503, NULL, 0, SHIM_TEXT("{}"), SHIM_TEXT("knhk_no_worker"));
    return ENVOY_HEADERS_STOP;
  }
  shim_reason reason = observe_headers(request, eos);
  if (reason != REASON_NONE) {
    refuse(request, reason);
    return ENVOY_HEADERS_STOP;
  }
  if (!eos) return ENVOY_HEADERS_STOP;
  return end(request, NULL, 0) == FLOW_PASS ? ENVOY_HEADERS_CONTINUE : ENVOY_HEADERS_STOP;
}

int on_http_filter_request_body(void *f, const void *m, bool eos) {
  static const int ALL[] = {ENVOY_BODY_BUFFERED, ENVOY_BODY_RECEIVED};
  static const int STATUS[] = {[FLOW_PASS] = ENVOY_BODY_CONTINUE, [FLOW_HOLD] = ENVOY_BODY_STOP_AND_BUFFER, [FLOW_ANSWERED] = ENVOY_BODY_STOP_NO_BUFFER};
  shim_request *request = (shim_request *)(uintptr_t)m;
  if (request->phase == PHASE_DONE) return request->admitted ? ENVOY_BODY_CONTINUE : ENVOY_BODY_STOP_NO_BUFFER;
  if (!eos || request->phase != PHASE_OPEN) return ENVOY_BODY_STOP_AND_BUFFER;
  bool whole = cb_http_received_buffered_request_body(f);
  return STATUS[end(request, ALL, whole ? 1 : 2)];
}

int on_http_filter_request_trailers(void *f, const void *m) {
  static const int BUFFERED[] = {ENVOY_BODY_BUFFERED};
  shim_request *request = (shim_request *)(uintptr_t)m;
  (void)f;
  if (request->phase != PHASE_OPEN) return request->admitted ? ENVOY_TRAILERS_CONTINUE : ENVOY_TRAILERS_STOP;
  return end(request, BUFFERED, 1) == FLOW_PASS ? ENVOY_TRAILERS_CONTINUE : ENVOY_TRAILERS_STOP;
}

int on_http_filter_response_headers(void *f, const void *m, bool eos) {
  shim_request *request = (shim_request *)(uintptr_t)m;
  char hex[32];
  (void)eos;
  if (request->phase != PHASE_DONE) keep_foreign_answer(request);
  shim_hex(request->receipt, sizeof request->receipt, hex);
  cb_http_set_header(f, ENVOY_HEADER_RESPONSE, SHIM_TEXT("knhk-receipt"), request->answered_receipt ? (knhk_buf){hex, sizeof hex} : (knhk_buf){NULL, 0});
  return ENVOY_HEADERS_CONTINUE;
}

void on_http_filter_http_callout_done(void *f, const void *m, uint64_t id, int result, knhk_hdr *headers, size_t n, knhk_buf *chunks, size_t nchunks) {
  (void)f;
  (void)id;
  shim_request *request = (shim_request *)(uintptr_t)m;
  if (request->phase == PHASE_WAITING) {
    durable_done(request, result, headers, n);
  } else {
    park_done(request, result, headers, n, chunks, nchunks);
  }
}

/* ---- hooks that a filter must export and that this one has no use for ------------------------------- */

int on_http_filter_response_body(void *f, const void *m, bool eos) { return (void)f, (void)m, (void)eos, ENVOY_BODY_CONTINUE; }
int on_http_filter_response_trailers(void *f, const void *m) { return (void)f, (void)m, ENVOY_TRAILERS_CONTINUE; }
void on_http_filter_stream_complete(void *f, const void *m) { (void)f, (void)m; }
void on_http_filter_http_stream_headers(void *f, const void *m, uint64_t id, knhk_hdr *headers, size_t n, bool eos) { (void)f, (void)m, (void)id, (void)headers, (void)n, (void)eos; }
void on_http_filter_http_stream_data(void *f, const void *m, uint64_t id, const knhk_buf *chunks, size_t n, bool eos) { (void)f, (void)m, (void)id, (void)chunks, (void)n, (void)eos; }
void on_http_filter_http_stream_trailers(void *f, const void *m, uint64_t id, knhk_hdr *headers, size_t n) { (void)f, (void)m, (void)id, (void)headers, (void)n; }
void on_http_filter_http_stream_complete(void *f, const void *m, uint64_t id) { (void)f, (void)m, (void)id; }
void on_http_filter_http_stream_reset(void *f, const void *m, uint64_t id, int reason) { (void)f, (void)m, (void)id, (void)reason; }
void on_http_filter_scheduled(void *f, const void *m, uint64_t id) { (void)f, (void)m, (void)id; }
void on_http_filter_downstream_above_write_buffer_high_watermark(void *f, const void *m) { (void)f, (void)m; }
void on_http_filter_downstream_below_write_buffer_low_watermark(void *f, const void *m) { (void)f, (void)m; }
