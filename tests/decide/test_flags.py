"""What a flag says of a point, by the words of OpenFeature and flagd."""

from __future__ import annotations

import pytest

from knhk.decide.flags import Evaluated, evaluate, switched
from knhk.model.flags import Flag, Rule

HERE = {"targetingKey": "erp/orders-test", "point": "orders-test", "namespace": "erp", "region": "eu", "mode": "Sidecar"}
ON_OFF = {"on": True, "off": False}


def flag(*rules: Rule, default: str = "off", enabled: bool = True, pinned: dict[str, str] | None = None) -> Flag:
    return Flag("canary", enabled, ON_OFF, default, rules, pinned)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ((), Evaluated("off", False, "STATIC")),
        ((Rule("point", "==", ("orders",), "on"),), Evaluated("off", False, "DEFAULT")),
        ((Rule("point", "==", ("orders", "orders-test"), "on"),), Evaluated("on", True, "TARGETING_MATCH")),
        ((Rule("region", "in", ("us", "eu"), "on"),), Evaluated("on", True, "TARGETING_MATCH")),
        ((Rule("region", "!=", ("us", "eu"), "on"),), Evaluated("off", False, "DEFAULT")),
        ((Rule("targetingKey", "starts_with", ("erp/",), "on"),), Evaluated("on", True, "TARGETING_MATCH")),
        ((Rule("point", "ends_with", ("-prod", "-test"), "on"),), Evaluated("on", True, "TARGETING_MATCH")),
        ((Rule("mode", "==", ("Sidecar",), "off"), Rule("namespace", "==", ("erp",), "on")), Evaluated("off", False, "TARGETING_MATCH")),
    ],
)
def test_the_first_rule_that_holds_counts(rules: tuple[Rule, ...], told: Evaluated) -> None:
    assert evaluate(flag(*rules), HERE) == told


def test_a_disabled_flag_is_no_flag() -> None:
    off = flag(enabled=False)
    assert evaluate(off, HERE) == Evaluated("", True, "DISABLED")
    assert switched([off], HERE).variants == {}
    assert switched([off], HERE).held == ""


def test_a_suspended_flag_leaves_each_point_its_variant() -> None:
    assert evaluate(flag(pinned={"orders-test": "on"}), HERE).variant == "on"
    assert evaluate(flag(pinned={"orders-test": "gone"}), HERE).variant == "off"


def test_a_canary_is_enforced_only_when_every_flag_says_so() -> None:
    one, other = flag(default="on"), Flag("freeze", True, ON_OFF, "off")
    assert switched([one], HERE).held == ""
    both = switched([one, other], HERE)
    assert (both.variants, both.held) == ({"canary": "on", "freeze": "off"}, "FeatureFlag freeze is off at erp/orders-test")
