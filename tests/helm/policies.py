"""What network policies let through, by the rules of Kubernetes: a plain reading of them, for assertions.

A pod that some policy selects for a direction receives, or sends, what one of these policies lists, and nothing else; any
other pod everything. A connection needs both of its ends. Knows matchLabels and ipBlocks without exceptions: the chart
renders no others, and what is not known here is an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.helm.charts import NAMESPACE, Object

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """An end of a connection: a pod, or where `address` is given something outside the cluster."""

    labels: Labels = field(default_factory=dict)
    namespace: str = NAMESPACE
    namespace_labels: Labels = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str | None = None

    @property
    def namespace_has(self) -> Labels:
        """Labels of the namespace, with the one that every namespace has."""
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def passes(policies: list[Object], source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection comes through, out of `source` and into `target`."""
    knock = _Knock(target.ports, port, protocol)
    return _lets(policies, "Egress", source, target, knock) and _lets(policies, "Ingress", target, source, knock)


@dataclass(frozen=True)
class _Knock:
    names: Mapping[str, int]
    port: int
    protocol: str

    def at(self, rule: Object) -> bool:
        """Whether a rule is about this port."""
        return "ports" not in rule or any(
            self.port == (self.names.get(one["port"]) if isinstance(one["port"], str) else one["port"])
            and one.get("protocol", "TCP") == self.protocol
            for one in rule["ports"]
        )


def _lets(policies: list[Object], direction: str, here: Place, there: Place, knock: _Knock) -> bool:
    if here.address is not None or here.namespace != NAMESPACE:
        return True  # the chart's policies are of its own namespace
    bound = [
        policy["spec"]
        for policy in policies
        if _selects(policy["spec"]["podSelector"], here.labels) and direction in policy["spec"]["policyTypes"]
    ]
    peers, rules = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    return not bound or any(
        knock.at(rule) and (peers not in rule or any(_peer(peer, there) for peer in rule[peers]))
        for spec in bound
        for rule in spec.get(rules, ())
    )


def _peer(peer: Object, there: Place) -> bool:
    if "ipBlock" in peer:
        (block,) = peer["ipBlock"].values()
        return there.address is not None and ipaddress.ip_address(there.address) in ipaddress.ip_network(block)
    if there.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], there.namespace_has):
            return False
    elif there.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), there.labels)


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    assert selector.keys() <= {"matchLabels"}, selector
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
