"""Policy events, their signed bundles and receipts (formats/signed.md). Pure; verifying is the verifier's."""

from knhk.lockchain.bundles import assemble
from knhk.lockchain.events import PolicyEvent, Said, parse_event, statement
from knhk.lockchain.receipts import receipt_labels, receipt_name, receipt_spec
from knhk.lockchain.witnesses import NOTARISED, bundle_of, fits, notarised

__all__ = [
    "NOTARISED",
    "PolicyEvent",
    "Said",
    "assemble",
    "bundle_of",
    "fits",
    "notarised",
    "parse_event",
    "receipt_labels",
    "receipt_name",
    "receipt_spec",
    "statement",
]
