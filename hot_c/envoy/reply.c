/* reply.c: answers to the client, the receipt for the application, counters. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

typedef struct {
  uint32_t status;
  int counter;
  const char *slug, *title;
} shim_answer;

static const shim_answer ANSWERS[REASON_COUNT] = {
    [REASON_UNMATCHED] = {403, SHIM_REFUSED, "unmatched", "No policy covers this route"},
    [REASON_QUERY] = {403, SHIM_REFUSED, "query", "This route takes no query"},
    [REASON_UPGRADE] = {403, SHIM_REFUSED, "upgrade", "Protocol upgrades and tunnels are not allowed"},
    [REASON_ENCODING] = {415, SHIM_REFUSED, "content-encoding", "Content encodings are not accepted"},
    [REASON_MEDIA] = {415, SHIM_REFUSED, "media-type", "This route does not take this media type"},
    [REASON_REPEATED] = {400, SHIM_REFUSED, "repeated-header", "A header that may occur once was repeated"},
    [REASON_BODY] = {400, SHIM_REFUSED, "body", "This route takes no body"},
    [REASON_TOO_LARGE] = {413, SHIM_REFUSED, "too-large", "The body is larger than 1 MiB"},
    [REASON_ATTRIBUTE] = {400, SHIM_REFUSED, "attribute", "The path or a verified attribute cannot be judged"},
    [REASON_PEER] = {403, SHIM_REFUSED, "peer", "The peer certificate has more than one identity"},
    [REASON_DECISION] = {403, SHIM_REFUSED, "decision-invalid", "The decision is unknown, expired, used, or of another request"},
    [REASON_NO_POLICY] = {403, SHIM_REFUSED, "no-policy", "No policy is in force here yet"},
    [REASON_DENIED] = {403, SHIM_DENIED, "denied", "Denied by policy"},
    [REASON_OBSERVED] = {200, SHIM_ADMITTED, "observed", "Admitted; the next policy would deny"},
    [REASON_PARKED] = {202, SHIM_PARKED, "parked", "The decision is still being made; repeat the request with it"},
    [REASON_RING_FULL] = {503, SHIM_RING_FULL, "ring-full", "Receipts cannot be kept at the moment"},
    [REASON_AGENT_SILENT] = {503, SHIM_UNAVAILABLE, "agent-silent", "Receipts have not been collected for too long"},
    [REASON_UNWITNESSED] = {503, SHIM_UNAVAILABLE, "unwitnessed", "Receipts have not been witnessed for too long"},
    [REASON_UNDURABLE] = {503, SHIM_UNDURABLE, "receipt-not-durable", "The receipt did not become as durable as the policy wants in time"},
    [REASON_FAULT] = {503, SHIM_UNAVAILABLE, "fault", "The policy could not be evaluated"},
};

void reply_count(const shim_request *request, int counter, size_t arm) {
  const char *label = request->config->arms[arm].label;
  knhk_buf value = {label, strlen(label)};
  cb_http_filter_increment_counter(request->envoy, request->config->counters[counter], &value, 1, 1);
}

static knhk_hdr field(knhk_buf key, knhk_buf value) { return (knhk_hdr){key.p, key.n, value.p, value.n}; }

static void send(shim_request *request, uint32_t status, knhk_buf body, bool parked) {
  char hex[32];
  knhk_hdr headers[4];
  size_t n = 0;
  shim_hex(request->receipt, sizeof request->receipt, hex);
  headers[n++] = field(SHIM_TEXT("content-type"), SHIM_TEXT("application/problem+json"));
  headers[n++] = field(SHIM_TEXT("cache-control"), SHIM_TEXT("no-store"));
  if (request->answered_receipt) headers[n++] = field(SHIM_TEXT("knhk-receipt"), (knhk_buf){hex, sizeof hex});
  if (parked) headers[n++] = field(SHIM_TEXT("knhk-decision"), (knhk_buf){hex, sizeof hex});
  request->phase = PHASE_DONE;
  cb_http_send_response(request->envoy, status, headers, n, body, SHIM_TEXT("knhk"));
}

void reply_raw(shim_request *request, uint32_t status, knhk_buf body) { send(request, status, body, false); }

/* The members that depend on the reason, each with a leading comma. */
static int details(const shim_request *request, shim_reason reason, size_t arm, const char *hex, char *out, size_t cap) {
  int n = request->answered_receipt ? snprintf(out, cap, ",\"receipt\":\"%.32s\"", hex) : 0;
  if (reason == REASON_PARKED)
    n += snprintf(out + n, cap - (size_t)n, ",\"decision\":\"%.32s\",\"retryAfterMs\":%u", hex, request->config->park_timeout_ms);
  if (reason == REASON_DENIED || reason == REASON_OBSERVED) n += snprintf(out + n, cap - (size_t)n, ",\"pack\":\"%s\"", request->config->arms[arm].label);
  return n;
}

/* Writes the document to the worker's `out`. */
static knhk_buf compose(shim_request *request, shim_reason reason, size_t arm, const char *violations, size_t violations_len) {
  const shim_answer *answer = &ANSWERS[reason];
  char hex[32], more[512], *out = request->worker->out;
  shim_hex(request->receipt, sizeof request->receipt, hex);
  int extra = details(request, reason, arm, hex, more, sizeof more);
  size_t n = (size_t)snprintf(out, SHIM_OUT_BYTES / 4, "{\"type\":\"%s%s\",\"title\":\"%s\",\"status\":%u%.*s", request->config->problem_base,
                              answer->slug, answer->title, answer->status, extra, more);
  if (reason == REASON_DENIED || reason == REASON_OBSERVED) {
    memcpy(out + n, ",\"violations\":", 14);
    memmove(out + n + 14, violations, violations_len);
    n += 14 + violations_len;
  }
  out[n++] = '}';
  return (knhk_buf){out, n};
}

void reply_composed(shim_request *request, shim_reason reason, size_t arm, knhk_buf document) {
  const shim_answer *answer = &ANSWERS[reason];
  reply_count(request, answer->counter, reason == REASON_OBSERVED ? ARM_STABLE : arm);
  send(request, answer->status, document, reason == REASON_PARKED);
}

void reply_problem(shim_request *request, shim_reason reason, size_t arm, const char *violations, size_t violations_len) {
  reply_composed(request, reason, arm, compose(request, reason, arm, violations, violations_len));
}

bool reply_compose(shim_request *request, shim_reason reason, size_t arm, const char *violations, size_t violations_len) {
  knhk_buf document = compose(request, reason, arm, violations, violations_len);
  char *kept = malloc(document.n);
  if (kept != NULL) memcpy(kept, document.p, document.n);
  request->problem = (knhk_buf){kept, kept == NULL ? 0 : document.n};
  return kept != NULL;
}

void reply_admit(shim_request *request, size_t arm) {
  char hex[32];
  shim_hex(request->receipt, sizeof request->receipt, hex);
  request->phase = PHASE_DONE;
  request->answered_receipt = request->admitted = true;
  cb_http_set_header(request->envoy, ENVOY_HEADER_REQUEST, SHIM_TEXT("knhk-receipt"), (knhk_buf){hex, sizeof hex});
  if (request->resumed) cb_http_set_header(request->envoy, ENVOY_HEADER_REQUEST, SHIM_TEXT("knhk-decision"), (knhk_buf){NULL, 0});
  reply_count(request, SHIM_ADMITTED, arm);
}
