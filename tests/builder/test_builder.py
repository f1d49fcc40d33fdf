"""The builder's process: signed packs in the registry, for those who may order them, whatever dies in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builder_rig import ROLES, Rig, pack, roles
from registry_between import Between, Reply, Request

from knhk.adapters.certificates import new_authority
from knhk.model.arrows import SignedPack
from knhk.model.faults import Refused, Stalled, Waiting
from knhk.model.oci import PACK
from knhk.packaging.builds import DataOrder, PackOrder
from knhk.packaging.image import tag_of
from knhk_runtime.packstore import PackStore, architecture
from knhk_runtime.pull import pull
from knhk_verify.signed import verify_keys

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300)]
WITHIN_S = 240.0


def ordered(rig: Rig, version: str) -> SignedPack:
    """The pack, ordered again for as long as the builder says so."""
    while True:
        try:
            return rig.builder.pack(PackOrder(pack(version))).result(WITHIN_S)
        except Waiting:
            continue


def test_a_pack_is_built_signed_and_accepted_and_after_a_restart_it_is_known(rig: Rig, tmp_path: Path) -> None:
    build = rig.builder.pack(PackOrder(pack("1.0.0")))
    made = build.result(WITHIN_S)
    assert build.step.startswith("Signed")
    assert made.proof["cases"] >= 20
    pull(rig.registry_url, made.image.digest, tmp_path, auth=None, tls=None)
    keys = verify_keys(rig.signer.keys_json(), rig.signer.root_public())
    assert PackStore(tmp_path).fetch_pack(made.image.digest, architecture(), keys).plan_digest == made.image.plan_digest
    rig.kill()
    rig.start(rig.port)
    again = rig.builder.pack(PackOrder(pack("1.0.0")))
    assert again.result(WITHIN_S) == made
    assert again.step == f"Known: {made.image.digest}"


def test_a_data_bundle_is_built_and_a_pack_is_proven_with_it(rig: Rig, tmp_path: Path) -> None:
    made = rig.builder.data(DataOrder(roles())).result(WITHIN_S)
    pull(rig.registry_url, made.image, tmp_path, auth=None, tls=None)
    keys = verify_keys(rig.signer.keys_json(), rig.signer.root_public())
    assert PackStore(tmp_path).fetch_bundle(made.image, keys)
    signed = rig.builder.pack(PackOrder(pack("2.0.0"), roles())).result(WITHIN_S)
    assert signed.proof["bundle"] == made.digest


def test_all_faults_come_back_in_the_authors_places(rig: Rig) -> None:
    with pytest.raises(Refused) as caught:
        rig.builder.pack(
            PackOrder(pack("3.0.0", shapes="@prefix sh: <http://www.w3.org/ns/shacl#> .\n<x> a sh:NodeShape ; sh:nonsense 1 ."))
        ).result(WITHIN_S)
    assert all(fault.where.startswith("pack.yaml") for fault in caught.value.faults)
    with pytest.raises(Refused):
        rig.builder.data(DataOrder(roles(ROLES.replace("1 .", "")))).result(WITHIN_S)


def test_only_the_operator_may_order(rig: Rig) -> None:
    with pytest.raises(Stalled, match=r"403.*may not order"):
        rig.client("spiffe://knhk.dev/component/knhk-admission").pack(PackOrder(pack("1.0.0"))).result(WITHIN_S)
    with pytest.raises((Stalled, Waiting)):
        rig.client(authority=new_authority(datetime.now(UTC))).pack(PackOrder(pack("1.0.0"))).result(WITHIN_S)


def test_images_that_no_revision_needs_leave_the_registry_and_come_again_when_ordered(rig: Rig) -> None:
    made, kept = ordered(rig, "4.0.0"), ordered(rig, "4.1.0")
    others = {told.digest for told in rig.registry.listed() if told.artifact_type == PACK} - {made.image.digest}
    assert made.image.digest in rig.builder.retire({"erp/orders": others}).result(WITHIN_S)
    assert rig.registry.resolve("erp/orders:4.0.0") is None
    assert {told.digest for told in rig.registry.listed() if told.artifact_type == PACK} == others
    assert rig.registry.resolve("erp/orders:4.1.0") == kept.image.digest
    assert rig.builder.retire({"erp/invoices": []}).result(WITHIN_S) == ()
    assert ordered(rig, "4.0.0") == made
    assert rig.registry.resolve("erp/orders:4.0.0") == made.image.digest


def whole_or_nothing(rig: Rig, version: str) -> None:
    """What the registry lists of a version is all of it; and a tag never names less."""
    digest = rig.registry.resolve(tag_of("erp", "orders", version))
    if digest is not None:
        assert len(rig.registry.referrers(digest)) == 4
        assert digest in {told.digest for told in rig.registry.listed()}


Moment = Callable[[Request], bool]
MOMENTS: dict[str, Moment] = {
    "before the first byte is stored": lambda request: request.method == "POST",
    "among the referrers": lambda request: request.method == "PUT" and "_part-" in request.path,
    "at the commit": lambda request: request.method == "PUT" and "_listed-" in request.path,
    "at the tag": lambda request: request.method == "PUT" and "erp_2F" in request.path,
}


@pytest.mark.failure("operator", "rollout")
@pytest.mark.parametrize(
    ("who", "moment"), [*(("builder", moment) for moment in MOMENTS), *(("worker", moment) for moment in list(MOMENTS)[1:3])]
)
def test_a_builder_that_is_killed_in_any_step_leaves_nothing_half_and_the_next_one_finishes(
    rig: Rig, middle: Between, who: str, moment: str
) -> None:
    """In each step of publishing, by force: listed whole or not at all; ordered again it is there."""
    version = f"5.{list(MOMENTS).index(moment)}.{['builder', 'worker'].index(who)}"
    killed: list[int] = []

    def meddle(request: Request, ask: Callable[[], Reply]) -> Reply | None:
        if killed or not MOMENTS[moment](request):
            return ask()
        reply = ask()  # the registry does it, nobody hears
        for pid in [rig.process.pid] if who == "builder" else rig.workers():
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        return reply

    middle.meddle = meddle
    build = rig.builder.pack(PackOrder(pack(version)))
    with pytest.raises(Waiting):
        build.result(WITHIN_S)
    middle.meddle = None
    assert killed
    whole_or_nothing(rig, version)
    if who == "builder":
        rig.kill()
        rig.start(rig.port)
    made = ordered(rig, version)
    assert rig.registry.resolve(tag_of("erp", "orders", version)) == made.image.digest
    assert len(rig.registry.referrers(made.image.digest)) == 4
