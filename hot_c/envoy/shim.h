/* shim.h: the Envoy HTTP filter of an enforcement point, inside.
 *
 * config.c   filter_config JSON -> shim_config (packs, bundle, rings)
 * packs.c    shared objects by digest, opened once, counted
 * residency.c  what is kept in memory, and which predicates are hot
 * ring.c     producer side of formats/ring.md
 * consent.c  what the subject of a request consents to
 * observe.c  verified attributes and body -> O (formats/observation.md)
 * judge.c    O -> leaves of both arms
 * park.c     the agent's verdict over http_callout (formats/agent.md)
 * durable.c  a decision whose pack wants more than the ring waits for the agent's word
 * reply.c    answers, counters
 * filter.c   Envoy's hooks
 *
 * Threads: config_new runs on Envoy's main thread, config_destroy on any, everything about one request on one worker.
 * A shim_config is read-only after config_new but for workers[i], which belongs to worker i.
 */
#ifndef KNHK_SHIM_H
#define KNHK_SHIM_H

#include "../include/knhk_pack.h"
#include "abi.h"

enum {
  SHIM_ATTRS_MAX = 64,
  SHIM_NAME_MAX = 63,
  SHIM_VALUE_MAX = 4096,
  SHIM_BODY_MAX = 1 << 20,
  SHIM_ROUTE_MAX = 255,
  SHIM_TEXT_BYTES = SHIM_ATTRS_MAX * (SHIM_NAME_MAX + 1 + SHIM_VALUE_MAX), /* decoded path captures of one request */
  SHIM_OUT_BYTES = 256 << 10,                        /* problem documents */
  SHIM_O_MAX = 512 + SHIM_ROUTE_MAX + SHIM_ATTRS_MAX * (6 + SHIM_NAME_MAX + SHIM_VALUE_MAX) + SHIM_BODY_MAX,
  SHIM_A_MAX = 128 << 10,                            /* A_MAX of src/drain.c: a larger one would break the ring for its reader */
  SHIM_RECORD_HEADER = 128,
  SHIM_ARMS = 2,
  SHIM_RANGES_MAX = 8,
  SHIM_PURPOSES_MAX = 32,
  SHIM_ERROR_MAX = 512
};

enum { KIND_DECISION = 1, KIND_PARK = 2, KIND_UNAVAILABLE = 3, KIND_REFUSED = 4 };
enum { MODE_ENFORCED = 1, MODE_OBSERVED = 2 };
enum { FLAG_CANDIDATE = 1, FLAG_STALE = 2, FLAG_FAIL_OPEN = 16 };
enum { ARM_STABLE = 0, ARM_CANDIDATE = 1 };
enum { DURABLE_RING, DURABLE_DISK, DURABLE_LOG, DURABLE_REGION };
enum { PART_BUNDLE = SHIM_ARMS, SHIM_PARTS }; /* the parts before are the packs of the arms */

/* sha256.zig */
void knhk_sha256(const uint8_t *data, size_t len, uint8_t *out);

/* ---- small values ------------------------------------------------------------------------------ */

#define SHIM_TEXT(literal) ((knhk_buf){"" literal, sizeof(literal) - 1})

/* Writes n bytes in lower-case hexadecimal; out has room for 2n bytes, no NUL is written. */
void shim_hex(const uint8_t *bytes, size_t n, char *out);
/* Reads exactly 2n lower-case hexadecimal digits; false when text is anything else. */
bool shim_unhex(const char *text, size_t len, uint8_t *out, size_t n);
bool shim_equal(knhk_buf a, knhk_buf b);
/* Keeps the first message: err has SHIM_ERROR_MAX bytes. Returns false, for `return shim_fail(…)`. */
bool shim_fail(char *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
void shim_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t shim_now_ns(int clock);

/* ---- packs ------------------------------------------------------------------------------------- */

typedef struct {
  void *at; /* on a page boundary */
  size_t len;
} shim_range;

typedef struct shim_pack shim_pack; /* one open shared object, counted */
struct shim_pack {
  char sha256[65];
  void *library;
  const knhk_pack *api;
  const knhk_variant *variant;
  const knhk_heat *heat; /* NULL: it counts none */
  shim_range ranges[SHIM_RANGES_MAX]; /* its segments */
  size_t nranges;
  unsigned references;
  shim_pack *next;
};

/* Opens path (named HEX.so by its own sha256) or takes the one that is open; NULL and err on any doubt. */
shim_pack *pack_open(const char *path, const char *sha256, char *err);
/* Gives one reference back; NULL is allowed. Any thread. */
void pack_close(shim_pack *pack);
/* Maps a file named HEX+suffix by its own sha256, read-only; the caller unmaps. NULL and err when it is not that file. */
const uint8_t *verified_map(const char *path, const char *sha256, const char *suffix, size_t *len, char *err);

/* True when nobody but the owner of this process or root may write the file. */
struct stat;
bool file_is_private(const struct stat *s);

/* ---- ring -------------------------------------------------------------------------------------- */

typedef struct {
  uint8_t *map;
  int fd, bell; /* bell: of the folder, or -1 */
  uint64_t capacity, head, sequence, born_ns;
  uint8_t source[8];
  char path[512];
} shim_ring;

/* Creates and populates BOOT-GENERATION-WORKER.ring in dir; false and err when it cannot, and nothing is left behind. */
bool ring_create(shim_ring *ring, const char *dir, const uint8_t boot[16], uint64_t generation, uint32_t worker, uint64_t capacity, char *err);
/* Room for a record of at most max bytes, or NULL (counted in the header) when there is none. One reservation at a time; an
 * uncommitted one costs nothing. The pointer is 64-byte aligned. */
uint8_t *ring_reserve(shim_ring *ring, size_t max);
/* Publishes the reserved record with its true length, and wakes the agent if it sleeps. */
void ring_commit(shim_ring *ring, uint8_t *record, size_t len);
/* True when the agent drained within grace_s seconds, or since the ring was made. */
bool ring_drained(const shim_ring *ring, uint32_t grace_s);
/* True while the agent says that the log's checkpoints lack witnesses for longer than the point allows. */
bool ring_unwitnessed(const shim_ring *ring);
void ring_next_receipt(shim_ring *ring, uint8_t receipt[16]);
/* Counts a judgement whose pack was not resident. */
void ring_count_absent(shim_ring *ring);
enum { RING_HEAT_MAX = 216 };
/* Names the packs whose heat the header holds; zeros: none. */
void ring_name_packs(shim_ring *ring, const uint8_t stable[20], const uint8_t candidate[20]);
/* Counts one more sample of the arm and gives its counters, RING_HEAT_MAX of them, of which only this thread writes. */
uint64_t *ring_heat(shim_ring *ring, int arm);
/* Marks the ring closed and unmaps it; the agent removes the file. unlink: nobody has seen it, remove it here. */
void ring_close(shim_ring *ring, bool remove_file);

/* ---- consents ----------------------------------------------------------------------------------- */

typedef struct {
  char subject[SHIM_NAME_MAX + 1]; /* attribute that names the subject */
  char names[SHIM_PURPOSES_MAX][SHIM_NAME_MAX + 1]; /* consent.NAME, a bit each */
  size_t npurposes; /* 0: nothing is asked */
  const uint8_t *map; /* written by the agent all the time, word by word */
  size_t len, slots;
} shim_consents;

/* Maps the table; false and err when it is none. */
bool consents_open(shim_consents *consents, const char *path, char *err);
void consents_close(shim_consents *consents);

/* ---- configuration ------------------------------------------------------------------------------ */

typedef struct {
  char name[SHIM_NAME_MAX + 1];
  char filter_state[128];
} shim_source;

typedef struct {
  shim_pack *pack;        /* NULL: no pack */
  uint8_t digest[20];     /* zeros: no pack */
  char label[256];        /* name@version, or "none" */
  uint8_t durability;     /* what a receipt of its decisions must survive before the answer */
  void *binding_memory;
  const knhk_binding *binding;
} shim_arm;

typedef struct {
  shim_ring ring;
  uint8_t *memory; /* scratch, then text, then out */
  uint8_t *scratch;
  char *text, *out;
  uint64_t look_ns;        /* when to look again what is resident */
  bool here[SHIM_ARMS];    /* as of the last look */
  uint32_t judged;
} shim_worker;

enum { SHIM_ADMITTED, SHIM_DENIED, SHIM_PARKED, SHIM_REFUSED, SHIM_UNAVAILABLE, SHIM_RING_FULL, SHIM_UNDURABLE, SHIM_COUNTERS };

typedef struct {
  char point[256], region[64], ring_dir[400], agent_cluster[128], problem_base[128];
  uint16_t region_index;
  uint64_t ring_bytes, not_after_ns;
  uint32_t weight, park_timeout_ms, durable_timeout_ms, grace_s;
  bool baseline_admit, canary, judge_candidate, stale, fail_open;
  uint8_t salt[32];
  size_t salt_len;
  uint8_t bundle_digest[32], evaluator[32];
  shim_arm arms[SHIM_ARMS];
  int sticky; /* index into sources, or -1 */
  size_t nsources;
  shim_source sources[SHIM_ATTRS_MAX];
  const uint8_t *bundle;
  size_t bundle_len;
  shim_range bundle_range;
  uint64_t resident_bytes;     /* budget; 0: none */
  bool park_absent;            /* what a pack that is not resident must decide is parked */
  uint8_t preload[SHIM_PARTS]; /* parts, the first to be read first */
  bool kept[SHIM_PARTS];       /* within the budget and read */
  shim_consents consents;
  size_t scratch_bytes;
  size_t counters[SHIM_COUNTERS];
  uint32_t nworkers;
  shim_worker *workers;
} shim_config;

/* Parses and opens all that the JSON names; NULL and err when anything is wrong, and nothing stays open. Makes no rings when
 * validating. boot: chosen once per loaded module. */
shim_config *config_make(const char *json, size_t len, const uint8_t boot[16], uint32_t workers, bool validating, char *err);
/* config_read (parse.c): the JSON alone, packs and bundle opened; config_make adds rings. */
bool config_read(shim_config *config, const char *json, size_t len, char *err);
void config_free(shim_config *config, bool unseen);

/* ---- residency ----------------------------------------------------------------------------------- */

/* Finds the segments of a pack that was opened. */
void residency_find(shim_pack *pack);
/* Reads what the configuration keeps, in its order and within its budget, so that no request waits for a page. */
void residency_load(shim_config *config);
/* Whether the arm's pack and the bundle are in memory, as of a look at most a second ago; counts when they are not. */
bool residency_here(const shim_config *config, shim_worker *worker, int arm, uint64_t now_ns);
/* Counts what the decision of that arm, the last on this worker's scratch, has touched. */
void heat_sample(const shim_config *config, shim_worker *worker, int arm);

/* ---- observation --------------------------------------------------------------------------------- */

typedef struct {
  knhk_buf name, value;
} shim_attribute;

typedef struct {
  uint64_t time_ns;
  knhk_buf route;
  shim_attribute attributes[SHIM_ATTRS_MAX];
  size_t nattributes;
  const knhk_buf *chunks;
  size_t nchunks, body_len;
} shim_observation;

size_t observation_size(const shim_config *config, const shim_observation *seen);
/* Writes exactly observation_size bytes. */
void observation_write(const shim_config *config, const shim_observation *seen, uint8_t *out);

/* ---- leaves, records ------------------------------------------------------------------------------ */

typedef struct {
  uint8_t pack[20];
  uint8_t kind, klass, verdict, mode, flags;
  const uint8_t *a;
  uint32_t a_len, duration_ns; /* duration of the pack's decision; in the ring, never in a leaf */
} shim_leaf;

typedef struct {
  uint8_t receipt[16];
  uint64_t time_ns, cluster;
  const uint8_t *o;
  uint32_t o_len;
  uint8_t narms, enforced; /* enforced: index of the arm whose verdict counts */
  shim_leaf arms[SHIM_ARMS];
} shim_record;

/* Largest slot that a request with this O may need. */
size_t record_room(const shim_config *config, size_t o_len);
/* Fills the header and, unless they are there already, O and A; returns the length. */
size_t record_write(const shim_config *config, const shim_record *record, uint8_t *slot);
/* Judges O, which stands at slot + 128, with every arm that is to judge; A follow O in place. */
void judge(const shim_config *config, shim_worker *worker, uint8_t *slot, knhk_buf sticky, uint8_t extra_flags, shim_record *record);
bool config_is_stale(const shim_config *config, uint64_t now_ns);

/* ---- requests -------------------------------------------------------------------------------------- */

typedef struct {
  uint8_t *message; /* as posted to the agent; O and A of record point into it */
  size_t len;
  shim_record record;
} shim_parked;

enum { PARK_NONE, PARK_ADMIT, PARK_DENY, PARK_LATER, PARK_INVALID, PARK_UNANSWERED };
enum { WAIT_NONE, WAIT_DURABLE, WAIT_MISSED };
enum { PHASE_OPEN, PHASE_PARKED, PHASE_WAITING, PHASE_DONE };

typedef struct {
  const shim_config *config;
  void *envoy;
  shim_worker *worker; /* NULL until the first hook */
  uint8_t phase, outcome;
  bool calling;          /* inside http_callout */
  bool resumed;          /* carries a decision id */
  bool undurable;        /* the agent's verdict came, and its leaf is not as durable as it must be */
  uint8_t reason, arm;   /* while it waits for its leaf: what is answered then, by which arm */
  bool admitted;         /* nothing else may let a body pass */
  bool answered_receipt; /* the receipt has a leaf: show it on the response */
  bool tells_candidate;  /* the caller may know what the candidate says of an admitted request */
  uint8_t receipt[16], decision[16];
  knhk_buf problem; /* malloc'ed: the problem document of the agent, or of a denial that waits for its leaf */
  char route[SHIM_ROUTE_MAX + 1];
  bool body_allowed;
  shim_parked parked;
} shim_request;

typedef enum { FLOW_PASS, FLOW_HOLD, FLOW_ANSWERED } shim_flow;

/* Collects attributes; returns the reason to refuse, or REASON_NONE. text has SHIM_TEXT_BYTES. */
typedef enum {
  REASON_NONE, REASON_UNMATCHED, REASON_QUERY, REASON_UPGRADE, REASON_ENCODING, REASON_MEDIA, REASON_REPEATED, REASON_BODY,
  REASON_TOO_LARGE, REASON_ATTRIBUTE, REASON_PEER, REASON_DECISION, REASON_NO_POLICY, REASON_DENIED, REASON_OBSERVED, REASON_PARKED,
  REASON_RING_FULL, REASON_AGENT_SILENT, REASON_UNWITNESSED, REASON_UNDURABLE, REASON_FAULT, REASON_COUNT
} shim_reason;

/* Keeps names ascending; REASON_ATTRIBUTE when there is no room, a name twice, or the value is no attribute value. */
shim_reason observe_insert(shim_observation *seen, shim_attribute attribute);
/* Adds consent.NAME for each purpose, as of seen->time_ns; the other attributes are there already. */
shim_reason observe_consents(const shim_consents *consents, shim_observation *seen);
shim_reason observe_attributes(const shim_request *request, shim_observation *seen, knhk_buf *sticky);
/* Checks the headers against the route's metadata and keeps what the end of the body needs. */
shim_reason observe_headers(shim_request *request, bool eos);

/* arm: whose verdict it is. REASON_OBSERVED: admitted, and this is what the arm that is not enforced says. */
void reply_problem(shim_request *request, shim_reason reason, size_t arm, const char *violations, size_t violations_len);
/* The same in two steps: the document, malloc'ed by the caller's leave into request->problem (false: no memory), and the answer with it. */
bool reply_compose(shim_request *request, shim_reason reason, size_t arm, const char *violations, size_t violations_len);
void reply_composed(shim_request *request, shim_reason reason, size_t arm, knhk_buf document);
void reply_raw(shim_request *request, uint32_t status, knhk_buf body);
void reply_count(const shim_request *request, int counter, size_t arm);
/* Shows the receipt to the application and hides the decision id from it. */
void reply_admit(shim_request *request, size_t arm);

/* A record of one leaf for a request that no pack answers for: over an O of route and time alone. receipt: NULL takes the ring's next.
 * Shows that receipt on the response; false, and shows none, when the ring is full. */
bool keep_disposition(shim_request *request, const uint8_t *receipt, shim_leaf leaf);

/* POST to the agent; the answer comes to callout_done, which may run before this returns. Not 0: there will be none. */
int agent_call(shim_request *request, knhk_buf path, knhk_buf body, uint64_t timeout_ms);
/* Whether this is the agent's own word, with this status. */
bool agent_said(int result, const knhk_hdr *headers, size_t n, knhk_buf status);

/* Hands the record to the agent; the flow is HOLD, or what an immediate failure made of it. */
shim_flow park(shim_request *request, const shim_record *record);
/* Envoy answered while the request was parked: the agent's word counts no more. False when the ring is full. */
bool park_abandon(shim_request *request);
void park_done(shim_request *request, int result, const knhk_hdr *headers, size_t n, const knhk_buf *chunks, size_t nchunks);

/* Whether the enforced decision of this record must survive more than the ring does before it is answered. */
bool durable_waits(const shim_config *config, const shim_record *record);
/* The record is committed and nothing after it; reason, arm and problem say what is to be answered. The flow is as of `park`. */
shim_flow durable_wait(shim_request *request, const shim_record *record);
void durable_done(shim_request *request, int result, const knhk_hdr *headers, size_t n);
/* Too late for that: leaves what says so. True when the request goes on as decided all the same; else it is answered. */
bool durable_missed(shim_request *request, size_t arm);
/* Envoy answered while the request waited. False when the ring is full. */
bool durable_abandon(shim_request *request);

#endif /* KNHK_SHIM_H */
