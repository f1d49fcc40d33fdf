"""The guard of a pod: what injection adds and what a gateway is made of, from one template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from knhk_templates.kubernetes import render

USER: Final = 64_201  # of the guard's processes; an application may not have it
DRAIN_S: Final = 5


@dataclass(frozen=True)
class Surroundings:
    """What every guard of a cluster is told: its image, and where exchange, registry, log and key service are (URLs); there may be no key
    service ("")."""

    image: str
    exchange: str = "https://knhk-exchange.knhk-system.svc:8443"
    registry: str = "https://registry.knhk-system.svc"
    log: str = "https://knhk-log.knhk-system.svc:8445"
    keys: str = ""


@dataclass(frozen=True)
class Guard:
    """Label, containers (agent, Envoy) and volumes of a guarded pod, as an API server stores them."""

    labels: Mapping[str, str]
    containers: tuple[Mapping[str, Any], ...]
    volumes: tuple[Mapping[str, Any], ...]


def guard_of(point: str, spec: Mapping[str, Any], around: Surroundings, *, native: bool) -> Guard:
    """The guard of the point with this name and spec. `native`: for a pod that has an application beside it. The port at which the
    application must listen on loopback is held on the pod's own address, so that it cannot listen on all of them."""
    port, own = int(spec["listen"]["port"]), int(spec.get("upstream", {}).get("port", 0))
    (found,) = render(
        "guard",
        point=point,
        port=port,
        hold=own if native and own != port else 0,
        native=native,
        image=around.image,
        exchange=around.exchange,
        registry=around.registry,
        log=around.log,
        keys=around.keys,
        serves="admission" in spec,
        user=USER,
        drain_s=DRAIN_S,
    )
    return Guard(found["labels"], tuple(found["containers"]), tuple(found["volumes"]))
