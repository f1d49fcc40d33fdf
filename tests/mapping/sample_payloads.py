"""Sample payloads, and which of the examples' mappings is that of each."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
PAYLOADS = sorted(p for p in (HERE / "payloads").glob("*/*") if p.suffix in (".json", ".xml"))
EXAMPLES = HERE.parents[1] / "examples" / "mappings"
FAMILIES = [  # the first that fits the beginning of a payload's path
    ("erp/gobl", "gobl"), ("erp/sap", "sap"), ("erp/netsuite", "netsuite"), ("erp/xero", "xero"), ("crm/", "salesforce"),
    ("ats/greenhouse-harvest-get-list-jobs", "greenhouse-jobs"), ("ats/greenhouse", "greenhouse"), ("ats/lever", "lever"),
    ("fhir/", "fhir"),    ("epcis/", "epcis"), ("iso20022/", "iso20022"),
]  # fmt: skip


def family(path: Path) -> str:
    name = f"{path.parent.name}/{path.name}"
    found = next(mapping for begins, mapping in FAMILIES if name.startswith(begins))
    return f"{found}-json" if found == "iso20022" and path.suffix == ".json" else found
