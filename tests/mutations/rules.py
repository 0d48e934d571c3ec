"""Every rule, in the order of the reference."""

from __future__ import annotations

from tests.mutations import (
    rules_cluster,
    rules_images,
    rules_lifecycle,
    rules_network,
    rules_runtime,
)
from tests.mutations.model import Rule

SECTIONS: dict[str, tuple[Rule, ...]] = {
    "What a container finds": rules_runtime.RULES,
    "How pods and containers come and go": rules_lifecycle.RULES,
    "Images": rules_images.RULES,
    "The network on loopback": rules_network.RULES,
    "Through the kubelet and the API server": rules_cluster.RULES,
}

RULES: tuple[Rule, ...] = tuple(one for rules in SECTIONS.values() for one in rules)
