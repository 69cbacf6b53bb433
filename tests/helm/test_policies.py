"""Who may speak to whom, of the policies that the chart renders: each line of the table below, and nothing else."""

from __future__ import annotations

import pytest

from tests.helm.charts import ALONE, DEFAULT, EVERYTHING, GPU, Object, pods, render
from tests.helm.policies import Place, passes

TRAINER = Place(namespace="rl-team", namespace_labels={"rollout-budget/trainers": "true"})
STRANGER = Place(namespace="rl-other")
NEIGHBOUR = Place(labels={"app.kubernetes.io/name": "else"})
PROMETHEUS = Place(namespace="monitoring")
CONTROLLER = Place(namespace="ingress-nginx")
DNS = Place(namespace="kube-system")
POSTGRES, OTHER_HOST = Place(address="10.1.2.3"), Place(address="10.9.9.9")


def places(objects: list[Object]) -> tuple[list[Object], dict[str, Place]]:
    """Return the policies, and the chart's pods by component."""
    return [thing for thing in objects if thing["kind"] == "NetworkPolicy"], {
        component: Place(
            labels=metadata["labels"],
            ports={port["name"]: port["containerPort"] for one in spec["containers"] for port in one.get("ports", ())},
        )
        for component, metadata, spec in pods(objects)
    }


def test_by_default_only_what_has_to_pass_passes() -> None:
    """Trainers of labelled namespaces reach the allocator, the allocator alone the prior, everybody DNS and PostgreSQL."""
    policies, at = places(render(*DEFAULT))
    allocator, prior, migrate, test = (at[name] for name in ("allocator", "prior", "migrate", "test"))
    reaches_allocator = {name for name, source in (NAMED | at).items() if passes(policies, source, allocator, 8100)}
    reaches_prior = {name for name, source in (NAMED | at).items() if passes(policies, source, prior, 8101)}
    assert reaches_allocator == {"trainer", "prometheus", "test"}
    assert reaches_prior == {"allocator", "prometheus"}
    for source, database in ((allocator, True), (prior, True), (migrate, True), (test, False)):
        assert passes(policies, source, POSTGRES, 5432) is database
        assert passes(policies, source, DNS, 53, "UDP")
        assert not passes(policies, source, OTHER_HOST, 443)
        assert not passes(policies, source, STRANGER, 8080)
    assert not passes(policies, TRAINER, allocator, 22)
    assert not passes(policies, STRANGER, migrate, 8100)


NAMED = {
    "trainer": TRAINER,
    "stranger": STRANGER,
    "neighbour": NEIGHBOUR,
    "prometheus": PROMETHEUS,
    "ingress controller": CONTROLLER,
}


def test_what_is_asked_for_passes_too() -> None:
    """Ingress, an address for PostgreSQL, a collector of traces, and the hub for a prior service that may download."""
    policies, at = places(render(*EVERYTHING))
    assert passes(policies, CONTROLLER, at["allocator"], 8100)
    assert not passes(policies, CONTROLLER, at["prior"], 8101)
    for component in ("allocator", "prior", "migrate"):
        assert passes(policies, at[component], POSTGRES, 5432)
        assert not passes(policies, at[component], OTHER_HOST, 5432)
        assert passes(policies, at[component], OTHER_HOST, 4318) is (component != "migrate")
    assert passes(policies, at["prior"], OTHER_HOST, 443)
    assert not passes(policies, at["allocator"], OTHER_HOST, 443)


@pytest.mark.parametrize(
    ("values", "hub"), [(GPU, True), ((*GPU, "prior.settings.hub=false"), False), (DEFAULT, False)]
)
def test_the_hub_is_reached_only_where_the_settings_allow_downloads(values: tuple[str, ...], hub: bool) -> None:  # noqa: FBT001  pytest's
    """By the settings in force: the GPU's own allow them, an operator's come first."""
    policies, at = places(render(*values))
    assert passes(policies, at["prior"], OTHER_HOST, 443) is hub


def test_without_policies_there_are_none() -> None:
    """For clusters that keep their own."""
    assert places(render(*ALONE))[0] == []


def test_the_policy_of_the_migrations_is_there_before_them() -> None:
    """At an install hooks run before everything else of the chart: the job could not reach PostgreSQL in a closed namespace."""
    hooks = {
        (thing["kind"], thing["metadata"]["annotations"]["helm.sh/hook-weight"])
        for thing in render(*DEFAULT)
        if "pre-install" in thing["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    }
    assert sorted(hooks, key=lambda hook: int(hook[1])) == [("Secret", "-10"), ("NetworkPolicy", "-5"), ("Job", "0")]
