"""What the chart's pods may do, what they are told, and how they end: held against the services' own code."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.allocator.app import create_app
from services.allocator.settings import Settings as AllocatorSettings
from services.kit.serve import DRAIN_S, NOTICE_S
from services.prior_api.settings import Settings as PriorSettings
from tests.helm.charts import (
    ALONE,
    CASES,
    DATABASE_SECRET,
    DEFAULT,
    EVERYTHING,
    GPU,
    NAMESPACE,
    RELEASE,
    environment,
    one,
    pod,
    pods,
    render,
)

PREFIXES = {
    "allocator": "ROLLOUT_BUDGET_ALLOCATOR_",
    "migrate": "ROLLOUT_BUDGET_ALLOCATOR_",
    "prior": "ROLLOUT_BUDGET_PRIOR_",
    "test": "none",
}
SECRET_SETTINGS = [
    {name for name, field in settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    for settings in (AllocatorSettings, PriorSettings)
]
HIDDEN = dict(
    zip(PREFIXES, [SECRET_SETTINGS[0], SECRET_SETTINGS[0], SECRET_SETTINGS[1] | {"keys"}, set()], strict=True)
)
OF_THE_ALLOCATOR = {"database_url", "pepper", "admin_key", "prior_key"}
NEEDED: dict[str, set[str]] = {
    "allocator": OF_THE_ALLOCATOR,
    "migrate": OF_THE_ALLOCATOR,
    "prior": {"database_url", "service_keys"},
    "test": set(),
    "prior link": {"prior_key"},
}
KEYS = {"pepper": "p" * 64, "admin-key": "rb_" + "a" * 64, "prior-key": "rb_" + "k" * 64}
SECRETS = {
    **{(secret, name): value for secret in ("our-keys", f"{RELEASE}-rollout-budget") for name, value in KEYS.items()},
    (DATABASE_SECRET, "allocator-url"): "postgresql://a:secret-a@db/allocator",
    (DATABASE_SECRET, "prior-url"): "postgresql://p:secret-p@db/prior",
}


@pytest.mark.parametrize("case", CASES)
def test_no_pod_has_more_rights_than_it_needs(case: str) -> None:
    """Not root, nothing to write but /tmp and claims, no capability, no token, bounded memory: Kubernetes' restricted level."""
    found = list(pods(render(*CASES[case])))
    assert {"allocator", "test"} <= {component for component, _, _ in found}
    for component, _, spec in found:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
        assert all(
            volume.keys() & {"emptyDir", "persistentVolumeClaim", "projected"} for volume in spec.get("volumes", ())
        )
        for part in spec["containers"]:
            assert part["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, component
            assert part["resources"]["limits"]["memory"]
            assert part["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("case", CASES)
def test_no_secret_stands_in_a_pod(case: str) -> None:
    """What a service holds for a secret comes out of a Secret, in a file that the pod's own group alone may read."""
    for component, _, spec in pods(render(*CASES[case])):
        named = {variable["name"] for variable in spec["containers"][0].get("env", ())}
        assert not named & {f"{PREFIXES[component]}{name.upper()}" for name in HIDDEN[component]}
        files = {name for name in HIDDEN[component] if f"{PREFIXES[component]}{name.upper()}_FILE" in named}
        assert files >= NEEDED[component] - (NEEDED["prior link"] if case == "alone" else set())
        for volume in spec.get("volumes", ()):
            if "projected" in volume:
                assert volume["projected"]["defaultMode"] == 0o440
                assert {
                    item["path"] for one in volume["projected"]["sources"] for item in one["secret"]["items"]
                } == files


@pytest.mark.parametrize("case", CASES)
def test_the_services_take_their_settings(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each variable is a setting that the service knows, each value one that it takes, in production mode."""
    objects = render(*CASES[case])
    for name, value in environment(pod(objects, "allocator"), SECRETS, tmp_path).items():
        monkeypatch.setenv(name, value)
    allocator = AllocatorSettings()
    assert (allocator.mode, allocator.host, allocator.port) == ("production", "0.0.0.0", 8100)  # noqa: S104  in a pod
    assert allocator.url == SECRETS[DATABASE_SECRET, "allocator-url"]
    assert allocator.pepper is not None
    assert allocator.pepper.get_secret_value() == KEYS["pepper"]
    if case == "alone":
        assert allocator.prior_url is None
        return
    (tmp_path / "prior").mkdir()
    for name, value in environment(pod(objects, "prior"), SECRETS, tmp_path / "prior").items():
        monkeypatch.setenv(name, value)
    prior = PriorSettings()
    assert (prior.mode, prior.database) == ("production", SECRETS[DATABASE_SECRET, "prior-url"])
    assert allocator.prior_key in prior.service_keys
    service = one(objects, "Service", "-prior")
    assert allocator.prior_url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert (prior.encoder, prior.heads, prior.hub) == (
        ("minilm", ["gp"], False)
        if case in {"default", "scaled"}
        else ("v0:Now-Join-Us/Generalist-Value-Model-V0", ["tabicl", "gp"], True)
    )


def test_settings_of_the_operators_arrive_as_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Large whole numbers stay whole, a false wins over the GPU's true, and a list is JSON."""
    values = (*EVERYTHING, "prior.settings.hub=false", "prior.settings.heads={gp,tabpfn}")
    objects = render(*values)
    for component in ("allocator", "prior"):
        for name, value in environment(pod(objects, component), SECRETS, tmp_path).items():
            monkeypatch.setenv(name, value)
    allocator, prior = AllocatorSettings(), PriorSettings()
    assert (allocator.requests_per_s, allocator.max_body_bytes) == (500, 67_108_864)
    assert (prior.context_rows, prior.hub, prior.heads, prior.device) == (512, False, ["gp", "tabpfn"], "cuda")


@pytest.mark.parametrize("case", CASES)
def test_a_service_of_the_chart_sets_no_setting(case: str) -> None:
    """For each Service a pod would get variables such as ROLLOUT_BUDGET_PRIOR_PORT=tcp://..., which are no settings."""
    for _, _, spec in pods(render(*CASES[case])):
        assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("component", ["allocator", "prior"])
def test_probes_ask_what_the_service_answers(component: str) -> None:
    """On the port that it listens on; a database that is away restarts nothing."""
    (part,) = pod(render(*DEFAULT), component)["containers"]
    ports = {port["name"]: port["containerPort"] for port in part["ports"]}
    (listens,) = (one["value"] for one in part["env"] if one["name"] == f"{PREFIXES[component]}PORT")
    paths = {name: part[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    assert {part[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {"http"}
    assert ports == {"http": int(listens)}
    served = create_app(AllocatorSettings.model_construct()).openapi()["paths"]
    assert set(paths.values()) <= served.keys()


@pytest.mark.parametrize(("component", "values"), [("allocator", DEFAULT), ("prior", DEFAULT), ("prior", GPU)])
def test_a_pod_that_ends_loses_no_request(component: str, values: tuple[str, ...]) -> None:
    """Grace covers the pause, the notice and the drain; the notice covers the probes that turn a replica unready."""
    deployment = one(render(*values), "Deployment", f"-{component}")
    spec = deployment["spec"]["template"]["spec"]
    part = spec["containers"][0]
    pause_s = part["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= pause_s + NOTICE_S + DRAIN_S + 10
    ready = part["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < NOTICE_S
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    assert rolling == ({"maxSurge": 0, "maxUnavailable": 1} if values is GPU else {"maxSurge": 1, "maxUnavailable": 0})


def test_the_gpu_is_asked_for_where_it_is_wanted() -> None:
    """As a limit, with the image and the claims that go with it; and not otherwise."""
    gpu = pod(render(*GPU), "prior")
    assert gpu["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
    assert gpu["containers"][0]["image"].startswith("rollout-budget-prior-gpu:")
    assert gpu["runtimeClassName"] == "nvidia"
    startup = gpu["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 900
    mounted = {mount["name"]: mount["mountPath"] for mount in gpu["containers"][0]["volumeMounts"]}
    assert mounted == {"tmp": "/tmp", "hub": "/hub", "secrets": "/run/secrets/rollout-budget"}  # noqa: S108  the path in the container
    assert {volume["name"] for volume in gpu["volumes"]} == mounted.keys()
    assert {"name": "HF_HOME", "value": "/hub"} in gpu["containers"][0]["env"]
    for values in (DEFAULT, EVERYTHING):
        for component, _, spec in pods(render(*values)):
            asked = "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"]
            assert asked is (component == "prior" and values is EVERYTHING)


def test_everything_comes_from_one_registry_and_lands_in_one_namespace() -> None:
    """Images of both services, of the job and of the test; pull secrets in every pod."""
    for _, _, spec in pods(render(*EVERYTHING)):
        assert spec["containers"][0]["image"].startswith("registry.example/rl/rollout-budget-")
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert {thing["metadata"].get("namespace", NAMESPACE) for thing in render(*ALONE)} == {NAMESPACE}
