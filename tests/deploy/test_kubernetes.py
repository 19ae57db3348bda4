"""The manifests that kustomize builds from k8s/ are valid and consistent with the images and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from deploy.images import PREFIX, ROOT, stages, understand
from deploy.kustomize import K8S, Manifest, build, build_own

import service
from service.metrics import Metrics
from training.cli import make_parser

OVERLAYS = ("single", "production")
OBSERVED = ("single observed", "production observed")  # with the component, as an overlay of one's own names it
VERSIONS = ("1.30", kubernetes_validate.latest_version())  # of Kubernetes: matchLabelKeys is on by default since 1.27
MADE_BY_HAND = {("Secret", "danmaku-api-keys"), ("Secret", "danmaku-collections")}
STAGES = stages()


@cache
def manifests(overlay: str) -> list[Manifest]:
    """Builds an overlay; `clean` is the job, which stands alone."""
    if overlay == "clean":
        return list(yaml.safe_load_all((K8S / "clean-job.yaml").read_text(encoding="utf-8")))
    name, _, is_observed = overlay.partition(" ")
    if is_observed:
        return build_own({"resources": [f"../{name}"], "components": ["../../components/monitoring"]})
    return build(K8S / "overlays" / name)


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests(overlay) if manifest["kind"] in kinds]


class Pod(NamedTuple):
    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        (one,) = self.spec["containers"]
        return one

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", ())}


def pods(overlay: str) -> list[Pod]:
    templates = [
        (manifest["metadata"]["name"], manifest["spec"]["template"])
        for manifest in of_kind(overlay, "Deployment", "Job")
    ]
    return [Pod(name, template["metadata"]["labels"], template["spec"]) for name, template in templates]


def selected(overlay: str, selector: dict[str, Any]) -> list[Pod]:
    """Returns the pods that a label selector matches."""
    assert selector.keys() <= {"matchLabels"}
    return [pod for pod in pods(overlay) if selector.get("matchLabels", {}).items() <= pod.labels.items()]


every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
everything = pytest.mark.parametrize("overlay", [*OVERLAYS, "clean"])
observed = pytest.mark.parametrize("overlay", OBSERVED)


@pytest.mark.parametrize("overlay", [*OVERLAYS, *OBSERVED, "clean"])
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(overlay: str, version: str) -> None:
    """Validation is strict: an unknown field is an error. Custom resources of operators have no schemas here."""
    known = [each for each in manifests(overlay) if not each["apiVersion"].startswith("monitoring.coreos.com/")]
    assert known
    for manifest in known:
        kubernetes_validate.validate(manifest, version, strict=True)


@everything
def test_every_pod_satisfies_the_restricted_profile(overlay: str) -> None:
    assert pods(overlay)
    for name, _, spec in pods(overlay):
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Returns the values of the container's variables; for a secret, an invented value."""
    given = {}
    for variable in container.get("env", ()):
        match variable:
            case {"value": value}:
                given[variable["name"]] = value
            case {"valueFrom": {"resourceFieldRef": {"resource": resource}}}:
                which, _, what = resource.partition(".")
                given[variable["name"]] = container["resources"][which][what]
            case {"valueFrom": {"secretKeyRef": {"name": "danmaku-api-keys", "key": "hashes"}}}:
                given[variable["name"]] = "0" * 64
            case {"valueFrom": {"secretKeyRef": {"name": "danmaku-collections", "key": "url"}}}:
                given[variable["name"]] = "milvus://user:password@milvus.milvus:19530/danmaku"
            case _:
                raise AssertionError(f"{variable} is of a kind that this test does not know")
    return given


def ours(overlay: str) -> Iterator[tuple[Pod, str]]:
    """Yields the pods of our images, each with the image's target."""
    for pod in pods(overlay):
        name = pod.container["image"].partition(":")[0]
        if name.startswith(PREFIX):
            yield pod, name.removeprefix(PREFIX)


@every_overlay
def test_the_command_line_accepts_what_a_pod_starts_and_probes(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for pod, target in ours(overlay):
        stage, container = STAGES[target], pod.container
        given = stage.variables | variables(container)
        words = [*stage.entrypoint, *container.get("args", stage.command)]
        for name, value in given.items():
            words = [word.replace(f"$({name})", value) for word in words]
        understand(words, given, monkeypatch)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            match container[probe]:
                case {"exec": {"command": command}}:
                    understand(command, {}, monkeypatch)
                case {"httpGet": {"path": path, "port": port}}:
                    assert path in ("/healthz", "/readyz")
                    assert port in pod.ports


def test_the_command_line_accepts_what_the_job_starts() -> None:
    ((pod, target),) = ours("clean")
    assert target == "training"
    program, *arguments = [*pod.container["command"], *pod.container["args"]]
    assert program == "danmaku-train"
    parsed = make_parser().parse_args([word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in arguments])
    assert parsed.command == "clean"


@every_overlay
def test_pods_listen_where_their_image_says(overlay: str) -> None:
    for pod, target in ours(overlay):
        assert set(STAGES[target].ports) <= set(pod.ports.values())


@every_overlay
def test_images_have_a_version(overlay: str) -> None:
    for pod, _ in ours(overlay):
        assert pod.container["image"].endswith(f":{service.__version__}")
    assert all(":" in pod.container["image"] for pod in pods(overlay))


@every_overlay
def test_services_target_ports_of_pods(overlay: str) -> None:
    for manifest in of_kind(overlay, "Service"):
        found = selected(overlay, {"matchLabels": manifest["spec"]["selector"]})
        assert len(found) == 1, manifest["metadata"]["name"]
        for port in manifest["spec"]["ports"]:
            assert found[0].ports[port["targetPort"]] == port["port"]


@every_overlay
def test_references_exist(overlay: str) -> None:
    """Covers targets of autoscalers and disruption budgets, claims, secrets, and the host and port of every URL."""
    there = {(each["kind"], each["metadata"]["name"]) for each in manifests(overlay)} | MADE_BY_HAND
    ports = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for each in of_kind(overlay, "Service")
    }
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in there
        (scaled,) = [each for each in of_kind(overlay, target["kind"]) if each["metadata"]["name"] == target["name"]]
        assert "replicas" not in scaled["spec"], "to apply it would undo what the autoscaler did"
    for budget in of_kind(overlay, "PodDisruptionBudget", "NetworkPolicy"):
        selector = budget["spec"].get("selector") or budget["spec"]["podSelector"]
        assert selected(overlay, selector), budget["metadata"]["name"]
    for pod in pods(overlay):
        for volume in pod.spec.get("volumes", ()):
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in there
        for variable in pod.container.get("env", ()):
            if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert ("Secret", secret["name"]) in there
            url = urlsplit(variable.get("value", ""))
            if url.scheme in ("redis", "bert+dns"):
                host, *numbers = url.netloc.split(":")
                assert {int(number) for number in numbers} <= ports[host]


def test_only_gateways_reach_workers_and_redis() -> None:
    """Everything else is denied by default."""
    policies = [policy["spec"] for policy in of_kind("production", "NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies

    (gateway,) = selected("production", {"matchLabels": {"app.kubernetes.io/component": "gateway"}})
    for pod in pods("production"):
        rules = [
            rule
            for policy in policies
            if pod in selected("production", policy["podSelector"])
            for rule in policy.get("ingress", ())
        ]
        served = {port for name, port in pod.ports.items() if name != "metrics"}
        assert {port["port"] for rule in rules for port in rule["ports"]} == served
        if pod != gateway:
            callers = [caller["podSelector"] for rule in rules for caller in rule["from"]]
            assert [selected("production", caller) for caller in callers] == [[gateway]]


def test_a_gateway_may_call_the_services_in_its_configuration() -> None:
    (gateway,) = selected("production", {"matchLabels": {"app.kubernetes.io/component": "gateway"}})
    reached = {
        (pod.name, port["port"])
        for policy in of_kind("production", "NetworkPolicy")
        if gateway in selected("production", policy["spec"]["podSelector"])
        for rule in policy["spec"].get("egress", ())
        for to in rule["to"]
        if "podSelector" in to
        for pod in selected("production", to["podSelector"])
        for port in rule["ports"]
    }

    assert reached == {("workers", 5555), ("workers", 5556), ("redis-cache", 6379)}


def test_a_gateway_may_call_milvus_in_its_namespace() -> None:
    """The address is that of a secret, because it has a password."""
    (gateway,) = selected("production", {"matchLabels": {"app.kubernetes.io/component": "gateway"}})
    collections = urlsplit(variables(gateway.container)["DANMAKU_COLLECTIONS"])
    namespaces = {
        (to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for policy in of_kind("production", "NetworkPolicy")
        if gateway in selected("production", policy["spec"]["podSelector"])
        for rule in policy["spec"].get("egress", ())
        for to in rule["to"]
        if to.get("namespaceSelector")
        for port in rule["ports"]
    }

    assert collections.scheme == "milvus"
    assert namespaces == {(str(collections.hostname).split(".")[1], collections.port)}


def test_a_single_gateway_keeps_collections_on_its_volume() -> None:
    (pod,) = pods("single")
    mounts = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
    collections = STAGES["gateway"].variables["DANMAKU_COLLECTIONS"]

    assert collections.removeprefix("sqlite://") in mounts
    assert "/tmp" in mounts


@observed
def test_the_operator_finds_what_to_scrape(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    scraped = {
        (service["metadata"]["name"], endpoint["port"])
        for monitor in of_kind(overlay, "ServiceMonitor")
        for endpoint in monitor["spec"]["endpoints"]
        for service in services
        if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    }

    assert scraped == {("gateway", "metrics"), ("workers", "metrics")} & {
        (service["metadata"]["name"], port["name"]) for service in services for port in service["spec"]["ports"]
    }


def test_prometheus_may_reach_only_the_metrics_ports() -> None:
    let_in = {
        port["port"]
        for policy in of_kind("production observed", "NetworkPolicy")
        for rule in policy["spec"].get("ingress", ())
        for caller in rule.get("from", ())
        if "namespaceSelector" in caller
        for port in rule["ports"]
    }
    pods = [
        *selected("production observed", {"matchLabels": {"app.kubernetes.io/component": "worker"}}),
        *selected("production observed", {"matchLabels": {"app.kubernetes.io/component": "gateway"}}),
    ]

    assert let_in == {pod.ports["metrics"] for pod in pods}


@observed
def test_rules_and_dashboards_are_those_of_monitoring(overlay: str) -> None:
    """`make k8s-rules` regenerates the rules."""
    rules = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "monitoring" / "rules").glob("*.yml")}
    dashboards = {path.name for path in (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")}
    (config,) = of_kind(overlay, "ConfigMap")

    assert {each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "PrometheusRule")} == {
        f"danmaku-{name}": yaml.safe_load(text) for name, text in rules.items()
    }
    assert config["data"].keys() == dashboards
    assert all(json.loads(text)["uid"] for text in config["data"].values())
    assert config["metadata"]["labels"] == {"grafana_dashboard": "1"}


def test_workers_are_scaled_by_an_existing_metric() -> None:
    """The adapter derives the autoscaler's metric from one that a gateway exports."""
    (scaler,) = [
        each
        for each in of_kind("production observed", "HorizontalPodAutoscaler")
        if each["metadata"]["name"] == "workers"
    ]
    by_processor, by_wait = scaler["spec"]["metrics"]
    values = yaml.safe_load((K8S / "components" / "monitoring" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = values["rules"]["external"]
    told = Metrics().text().decode()

    assert by_processor["resource"]["name"] == "cpu"
    assert by_wait["external"]["metric"]["name"] == rule["name"]["as"]
    for name in (rule["seriesQuery"], *re.findall(r"danmaku_\w+", rule["metricsQuery"])):
        assert f"\n{name} " in told, name
