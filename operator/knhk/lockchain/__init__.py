"""Policy events, their signed bundles, and receipts that anyone can verify (formats/signed.md). Pure; the arithmetic is
the verifier's."""

from knhk.lockchain.bundles import assemble
from knhk.lockchain.events import PolicyEvent, parse_event, statement
from knhk.lockchain.receipts import Step, Trust, receipt_spec, verify_receipt

__all__ = ["PolicyEvent", "Step", "Trust", "assemble", "parse_event", "receipt_spec", "statement", "verify_receipt"]
