/* records.h: what an outbox holds (formats/frame.md), as columns of the Δ log (formats/delta.md).
 *
 * Frames are bytes that another process wrote: every length in them is bounded before use. Functions keep no state, and hash by what
 * drain.h chose. Numbers in frames are big-endian, in columns the host's.
 */
#ifndef KNHK_RECORDS_H
#define KNHK_RECORDS_H

#include "drain.h"

#define KNHK_FRAME_LEAST 162 /* bytes of the shortest frame of a record */
#define KNHK_DIGEST_SIZE 16  /* of what tells a leaf from another with its key */

/* reasons why a scan ends, beside 0 (the end, or a frame that is not whole yet) */
#define KNHK_FRAME_ALTERED (-1)  /* the next frame does not match its CRC, or is longer than 64 MiB */
#define KNHK_FRAME_NO_RECORD (-2) /* the next frame holds no record */

typedef struct {
  /* room given by the caller, for `cap` records: len / KNHK_FRAME_LEAST is enough */
  uint32_t *starts;  /* cap + 1: where each frame begins in data, and where the last ends */
  uint32_t *firsts;  /* cap + 1: number of its first leaf, and of all leaves */
  uint64_t *times;   /* time_ns of its first leaf */
  uint64_t *weights; /* bytes of its frame, and 4 for each guard that failed: about what its rows take */
  uint8_t *keys;     /* 2 × cap of KNHK_KEY_SIZE, in the order of leaves */
  uint32_t cap;
  /* results */
  uint32_t nrecords, nleaves;
  uint64_t observed, acted; /* bytes of O and of A, each as often as a row has it */
} knhk_scanned;

/* The records at the start of data, of which len is below 2³¹. */
int32_t knhk_records_scan(const uint8_t *data, size_t len, knhk_scanned *s);

typedef struct {
  int32_t *offsets; /* rows + 1 */
  uint8_t *data;
  uint8_t *valid;   /* 1, or 0 where it is null; NULL: it never is */
} knhk_text_column;

enum {
  KNHK_COLUMN_RECEIPT = 0, KNHK_COLUMN_PACK, KNHK_COLUMN_ROUTE, KNHK_COLUMN_ACTOR, KNHK_COLUMN_KEY, KNHK_COLUMN_BUNDLE, KNHK_COLUMN_EVALUATOR,
  KNHK_COLUMN_LEAF, KNHK_COLUMN_SALT, KNHK_COLUMN_OBSERVATION, KNHK_COLUMN_ACTION, KNHK_COLUMN_SUBJECT, KNHK_COLUMNS
};
#define KNHK_ROW_SEALED 64
#define KNHK_ROW_ERASED 128

typedef struct {
  /* room given by the caller, for the leaves, and for O and A as knhk_scanned has counted them: receipt 32 a row, pack 40, key 16, bundle,
   * evaluator and subject 64, leaf 118, salt 16; route, actor and observation `observed`, action `acted`, failing 8 × `acted` numbers */
  int64_t *time_us, *time_ns; /* as the table has them */
  int64_t *at;                /* where the frame begins in data */
  int64_t *slot;              /* number of the region × 2³² + hours since 1970 */
  uint8_t *kind, *klass, *verdict, *mode, *flags; /* of the leaf; flags with KNHK_ROW_SEALED and KNHK_ROW_ERASED */
  int32_t *guards, *failing_offsets, *failing;    /* null where `judged` is 0; failing_offsets: rows + 1 */
  uint8_t *judged;
  uint8_t *holds;   /* 1 when O and A are what the leaf commits to, or nobody can tell without a key */
  uint8_t *keys;    /* KNHK_KEY_SIZE each */
  uint8_t *digests; /* KNHK_DIGEST_SIZE each: SHA-256 of the leaf, cut */
  knhk_text_column text[KNHK_COLUMNS];
  uint32_t *refused; /* room for all records: numbers of those of which a part is not as its page says; they have no row */
  /* results */
  uint32_t nrows, nrefused;
} knhk_columns;

/* Rows of whole frames of records that a scan has found, a row for each leaf. */
void knhk_records_columns(const uint8_t *data, const uint32_t *starts, uint32_t nrecords, knhk_columns *c);

#endif /* KNHK_RECORDS_H */
