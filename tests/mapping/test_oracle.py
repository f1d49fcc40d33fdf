"""The compiled extractor and morph-kgc make the same graph of every sample payload: of everything in it, and by the examples' mappings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mapped import Denied, canonical, lines_of, together
from morph import Job, run
from sample_payloads import EXAMPLES, PAYLOADS, family
from structural import of_json, of_xml

STEP = 1 if int(os.environ.get("KNHK_CASES", "0")) >= 100_000 else 12


def compare(jobs: list[Job], folder: Path) -> int:
    """Number of triples, when both made the same of each job."""
    total, wrong = 0, []
    bound = together({job.name: job.mapping for job in jobs})
    for name, wanted in run(jobs, folder).items():
        job = next(job for job in jobs if job.name == name)
        found = lines_of(bound, job.body, name)
        assert not isinstance(found, Denied), (name, found)
        ours, theirs = canonical(found), canonical(wanted)
        total += len(ours)
        if ours != theirs:
            wrong.append((name, len(ours), len(theirs), sorted(ours - theirs)[:3], sorted(theirs - ours)[:3]))
    assert not wrong, "\n".join(map(str, wrong))
    return total


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_everything_in_a_payload(tmp_path: Path) -> None:
    """Of every twelfth payload; of all of them in long runs (`make cases`)."""
    jobs = []
    for i, path in enumerate(PAYLOADS[::STEP]):
        body, xml = path.read_bytes(), path.suffix == ".xml"
        jobs.append(Job(f"p{i}-{path.parent.name}", of_xml(body) if xml else of_json(body), body, xml))
    assert compare(jobs, tmp_path) > 40 * len(jobs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_payload_by_the_mapping_of_its_family(tmp_path: Path) -> None:
    assert len(PAYLOADS) == 83
    jobs = [
        Job(f"p{i}-{path.parent.name}", (EXAMPLES / f"{family(path)}.ttl").read_text(), path.read_bytes(), path.suffix == ".xml")
        for i, path in enumerate(PAYLOADS)
    ]
    assert compare(jobs, tmp_path) > 500
