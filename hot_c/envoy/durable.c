/* durable.c: a decision whose pack wants more than the ring (formats/agent.md). Its leaf is committed as every other, so there is one; the
 * answer alone waits, for the agent to say that the leaf is on its disk, in the log, in k regions. No word in time: what the point says
 * for failures, and a leaf of its own that tells it. */
#include <string.h>

#include "shim.h"

enum { MESSAGE_BYTES = 32, AT_SEQUENCE = 8, MISSED = 0x80 };

bool durable_waits(const shim_config *config, const shim_record *record) {
  return config->arms[record->enforced].durability != DURABLE_RING && record->arms[record->enforced].kind == KIND_DECISION;
}

/* Of a request that waits: whose decision it is, which the arm that speaks need not be. */
static size_t enforced_of(const shim_request *request) { return request->reason == REASON_OBSERVED ? ARM_STABLE : request->arm; }

/* The leaf of a request whose receipt R is not as durable as it must be: under R with the top bit of its sequence set. */
static bool keep_missed(shim_request *request, size_t arm, bool goes_on) {
  const shim_config *config = request->config;
  uint8_t receipt[sizeof request->receipt];
  shim_leaf leaf = {.kind = KIND_UNAVAILABLE, .mode = MODE_ENFORCED};
  leaf.flags = (uint8_t)((goes_on ? FLAG_FAIL_OPEN : 0) | (arm == ARM_CANDIDATE ? FLAG_CANDIDATE : 0));
  memcpy(leaf.pack, config->arms[arm].digest, sizeof leaf.pack);
  memcpy(receipt, request->receipt, sizeof receipt);
  receipt[AT_SEQUENCE] |= MISSED;
  return keep_disposition(request, receipt, leaf);
}

bool durable_missed(shim_request *request, size_t arm) {
  uint8_t decided[sizeof request->receipt];
  const bool open = request->config->fail_open;
  memcpy(decided, request->receipt, sizeof decided);
  const bool kept = keep_missed(request, arm, open);
  if (open && kept) {
    memcpy(request->receipt, decided, sizeof decided);
    reply_count(request, SHIM_UNDURABLE, arm);
    return true;
  }
  reply_problem(request, kept ? REASON_UNDURABLE : REASON_RING_FULL, arm, NULL, 0);
  return false;
}

bool durable_abandon(shim_request *request) { return keep_missed(request, enforced_of(request), false); }

static shim_flow settle(shim_request *request) {
  if (request->outcome != WAIT_DURABLE && !durable_missed(request, enforced_of(request))) return FLOW_ANSWERED;
  if (request->reason == REASON_NONE) {
    reply_admit(request, request->arm);
    return FLOW_PASS;
  }
  reply_composed(request, (shim_reason)request->reason, request->arm, request->problem);
  return FLOW_ANSWERED;
}

/* Whether the agent judges the arm that is not enforced before the record's leaves are made. */
static bool is_open(const shim_record *record) { return record->narms == SHIM_ARMS && record->arms[1 - record->enforced].kind == KIND_PARK; }

/* KNDU, formats/agent.md. */
static void write_message(const shim_request *request, const shim_record *record, uint8_t message[MESSAGE_BYTES]) {
  memset(message, 0, MESSAGE_BYTES);
  memcpy(message, "KNDU\1", 5);
  message[5] = request->config->arms[record->enforced].durability;
  message[6] = is_open(record);
  memcpy(message + 8, request->receipt, sizeof request->receipt);
  const uint64_t position = __builtin_bswap64(request->worker->ring.head);
  memcpy(message + 24, &position, sizeof position);
}

shim_flow durable_wait(shim_request *request, const shim_record *record) {
  uint8_t message[MESSAGE_BYTES];
  write_message(request, record, message);
  request->phase = PHASE_WAITING;
  request->outcome = WAIT_NONE;
  if (agent_call(request, SHIM_TEXT("/durable"), (knhk_buf){(const char *)message, sizeof message}, request->config->durable_timeout_ms) != 0 &&
      request->outcome == WAIT_NONE)
    request->outcome = WAIT_MISSED;
  return request->outcome == WAIT_NONE ? FLOW_HOLD : settle(request);
}

void durable_done(shim_request *request, int result, const knhk_hdr *headers, size_t n) {
  if (request->phase != PHASE_WAITING || request->outcome != WAIT_NONE) return;
  request->outcome = agent_said(result, headers, n, SHIM_TEXT("204")) ? WAIT_DURABLE : WAIT_MISSED;
  if (!request->calling && settle(request) == FLOW_PASS) cb_http_filter_continue_decoding(request->envoy);
}
