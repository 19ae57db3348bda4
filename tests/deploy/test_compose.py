"""docker-compose.yml is valid and consistent with the images, the command line and monitoring/."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions
from deploy.images import PREFIX, ROOT, stages, understand

import service as danmaku

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
STAGES = stages()


def test_the_file_is_valid() -> None:
    compose = PyOptions(apply_merge=True).from_yaml(TEXT)

    compose.validate()
    assert set(compose.service_names()) == set(SERVICES)


def test_the_services_are_those_for_a_laptop() -> None:
    """The genuine server and Milvus start only on request."""
    always = {name for name, service in SERVICES.items() if "profiles" not in service}

    assert always == {"gateway", "worker-1", "worker-2", "redis", "prometheus", "grafana"}
    assert SERVICES["bert-serving-server"]["profiles"] == ["classic"]
    assert SERVICES["milvus"]["profiles"] == ["milvus"]


@pytest.mark.parametrize("name", OURS)
def test_the_command_line_accepts_what_a_service_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = OURS[name]
    target = service["build"]["target"]
    stage = STAGES[target]

    assert service["image"] == f"{PREFIX}{target}:{danmaku.__version__}"
    variables = stage.variables | service.get("environment", {})
    understand([*stage.entrypoint, *service.get("command", stage.command)], variables, monkeypatch)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_privileges_and_listens_on_this_machine_only(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_cannot_fill_the_disk_or_the_memory(name: str) -> None:
    service = SERVICES[name]

    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])


def test_only_the_gateway_reaches_the_cache() -> None:
    reaching = {name for name, service in SERVICES.items() if "cache" in service.get("networks", ["default"])}

    assert reaching == {"gateway", "redis"}
    assert FILE["networks"]["cache"]["internal"] is True
    assert SERVICES["redis"]["networks"] == ["cache"]


def test_nobody_can_log_in_to_grafana() -> None:
    environment = SERVICES["grafana"]["environment"]

    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_third_party_services_have_a_health_check() -> None:
    """Our images have their own."""
    assert [name for name, service in SERVICES.items() if name not in OURS and "healthcheck" not in service] == []


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_and_awaited_services_exist(name: str) -> None:
    service = SERVICES[name]
    sources = [mount.split(":")[0] for mount in service.get("volumes", ())]

    assert [path for path in sources if path.startswith(".") and not (ROOT / path).exists()] == []
    assert {volume for volume in sources if not volume.startswith(".")} <= FILE["volumes"].keys()
    assert set(service.get("depends_on", ())) <= SERVICES.keys()


def test_a_gateway_calls_services_that_exist() -> None:
    variables = SERVICES["gateway"]["environment"]
    workers = variables["DANMAKU_ENCODER"].removeprefix("bert://").split(",")
    cache = re.fullmatch(r"redis://(.*):6379/0", variables["DANMAKU_CACHE"])

    assert {*workers, cache[1]} <= SERVICES.keys()


def test_collections_are_on_a_volume() -> None:
    (mount,) = SERVICES["gateway"]["volumes"]

    assert mount.endswith(STAGES["gateway"].variables["DANMAKU_COLLECTIONS"].removeprefix("sqlite://"))


def test_prometheus_looks_for_services_where_they_listen() -> None:
    """It uses the port of the gateway's image and the port in the workers' arguments."""
    jobs = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    looked_for = {f"{each['names'][0]}:{each['port']}" for job in jobs for each in job.get("dns_sd_configs", ())}
    looked_for |= {target for job in jobs for each in job.get("static_configs", ()) for target in each["targets"]}
    told = {
        f"{name}:{word.removeprefix('-metrics_port=')}"
        for name, service in OURS.items()
        for word in service.get("command", ())
        if word.startswith("-metrics_port=")
    }

    assert looked_for == told | {f"gateway:{STAGES['gateway'].ports[0]}"}


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioning = ROOT / "monitoring" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "danmaku.yaml").read_text())["providers"]
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]

    assert source["url"] == "http://prometheus:9090"
    assert provider["options"]["path"] in mounted
