"""The chart, rendered by the real Helm; its objects judged by Kubernetes' own schemas, its rules by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import certifi
import kubernetes_validate  # type: ignore[import-untyped] # it has no annotations
import pytest
import yaml
from support.chart import (
    CASES,
    CHART,
    KUBE_VERSION,
    KUBERNETES,
    MONITORING,
    ROOT,
    Object,
    alert_annotations,
    exporter_container,
    helm,
    one,
    pods,
    render,
    template,
    violations,
    workload,
)
from support.programs import releases

from exporter import __version__
from exporter.settings import load_settings
from exporter.settings.reference import FLAGS


def test_lint_is_content() -> None:
    """`helm lint --strict` warns of nothing."""
    outcome = helm("lint", "--strict", CHART)
    assert outcome.returncode == 0, outcome.stdout
    assert "WARNING" not in outcome.stdout


@pytest.mark.parametrize("case", CASES)
def test_every_example_is_what_kubernetes_takes(case: str) -> None:
    """Every object keeps the strict schema of two Kubernetes versions, and every pod the restricted standard.

    The one exception is the example that asks for the host's process list and network.
    """
    objects = render(case)
    assert {entry["metadata"].get("namespace", "probes") for entry in objects} <= {"probes", "elsewhere", "monitoring"}
    for entry in objects:
        assert len(entry["metadata"]["name"]) <= 63
        for version in KUBERNETES if entry["kind"] not in MONITORING else ():
            kubernetes_validate.validate(entry, version, strict=True)
    for pod in pods(objects):
        assert violations(pod) <= ({"hostPID", "hostNetwork"} if case == "daemonset-host" else set())
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"][:1]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_pod_that_is_not_restricted_is_seen() -> None:
    """The check above finds each thing that the standard forbids."""
    pod: Object = {
        "hostPID": True,
        "volumes": [{"name": "x", "hostPath": {"path": "/"}}],
        "containers": [{"ports": [{"hostPort": 1}]}],
    }
    assert violations(pod) == {
        *("hostPID", "hostPath", "runAsNonRoot", "seccompProfile"),
        *("allowPrivilegeEscalation", "capabilities", "hostPort"),
    }


@pytest.mark.parametrize("case", CASES)
def test_every_reference_is_met(case: str) -> None:
    """The Service finds the workload's pods and no others, mounts have their volumes, named ports exist."""
    objects = render(case)
    template_ = workload(objects)["spec"]["template"]
    selector = one(objects, "Service")["spec"]["selector"].items()
    assert selector <= template_["metadata"]["labels"].items()
    assert not selector <= one(objects, "Pod")["metadata"]["labels"].items()
    assert workload(objects)["spec"]["selector"]["matchLabels"].items() == selector
    volumes = {volume["name"] for volume in template_["spec"]["volumes"]}
    assert {mount["name"] for mount in exporter_container(objects)["volumeMounts"]} == volumes
    assert one(objects, "Service")["spec"]["ports"][0]["targetPort"] == exporter_container(objects)["ports"][0]["name"]


def test_deployment_runs_one_and_never_two() -> None:
    """A central exporter is not doubled, not even while it is rolled out: each copy would probe every server."""
    spec = one(render("deployment"), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_daemonset_measures_its_own_node() -> None:
    """On each GPU node the target has the node's name and address, and the cards are visible without being taken."""
    objects = render("daemonset")
    config = yaml.safe_load(one(objects, "ConfigMap")["data"]["config.yml"])
    assert config["targets"] == [
        {"name": "${NODE_NAME}", "url": "http://${HOST_IP}:11434", "local": True, "models": ["llama3.1"]}
    ]
    environment = {entry["name"]: entry for entry in exporter_container(objects)["env"]}
    assert environment["NODE_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert environment["HOST_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"]["value"] == "utility"
    assert "resources" not in exporter_container(objects)
    (pod, _) = pods(objects)
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_node_selection_adds_up() -> None:
    """General and DaemonSet selectors are joined, and the preset one can be dropped."""
    (pod, _) = pods(render("daemonset-local-service"))
    assert pod["nodeSelector"] == {"example.org/gpu": "yes", "kubernetes.io/arch": "amd64"}
    assert pod["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert "runtimeClassName" not in pod


def test_a_changed_configuration_rolls_the_pods() -> None:
    """The checksum changes with the configuration and with nothing else."""

    def checksum(*words: str) -> str:
        objects = render("targets", *words)
        value: str = workload(objects)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return value

    assert checksum() == checksum("--set=podLabels.x=y")
    assert checksum() != checksum("--set=config.interval=6m")


@pytest.mark.parametrize("case", [case for case in CASES if case != "existing-secret"])
def test_the_exporter_takes_every_configuration(case: str, tmp_path: Path) -> None:
    """What the chart writes is accepted with the variables and secrets that a pod has, and means what it should."""
    objects = render(case)
    text = one([entry for entry in objects if "config.yml" in entry.get("data", {})], "ConfigMap")["data"]["config.yml"]
    for name in ("gpu-a/token", "gpu-b/password", "gpu-b/ca.crt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hidden")
    shutil.copy(certifi.where(), tmp_path / "gpu-b/ca.crt")
    (tmp_path / "config.yml").write_text(text.replace("/etc/ollama-throughput-exporter/secrets", str(tmp_path)))
    environ = {"NODE_NAME": "node-1", "HOST_IP": "192.0.2.7", "SITE": "a"}
    plans = load_settings(config_file=tmp_path / "config.yml", flags={}, environ=environ).plans()
    if workload(objects)["kind"] == "DaemonSet":
        (plan,) = plans
        assert (plan.name, plan.local) == ("node-1", True)
        assert "$" not in plan.url
    else:
        assert {plan.name for plan in plans} <= {"gpu-a", "gpu-b", "a-gpu-a"}


def test_the_exporter_knows_the_flags() -> None:
    """Each flag that a pod is started with is one of the exporter's."""
    known = {flag.option for flag in FLAGS}
    for case in CASES:
        used = {argument.partition("=")[0] for argument in exporter_container(render(case))["args"]}
        assert used <= known, case


def test_secrets_are_mounted_not_copied() -> None:
    """Secrets are referred to by name and mounted where the configuration says; the ConfigMap names files only."""
    objects = render("secrets")
    assert not [entry for entry in objects if entry["kind"] == "Secret"]
    mounts = {mount["mountPath"]: mount["name"] for mount in exporter_container(objects)["volumeMounts"]}
    volumes = {v["name"]: v.get("secret", {}).get("secretName") for v in pods(objects)[0]["volumes"]}
    text = one(objects, "ConfigMap")["data"]["config.yml"]
    for name in ("gpu-a", "gpu-b"):
        path = f"/etc/ollama-throughput-exporter/secrets/{name}"
        assert volumes[mounts[path]] == name
        assert f"{path}/" in text
    whole = render("existing-secret")
    assert pods(whole)[0]["volumes"][0]["secret"]["secretName"] == "exporter-config"
    assert not [entry for entry in whole if entry["kind"] == "ConfigMap"]


def test_port_and_path_are_told_to_everybody() -> None:
    """Another port and path reach the exporter, the pod, the Service and the network policy."""
    objects = render("network")
    container = exporter_container(objects)
    assert {"--web.listen-address=:9900", "--web.telemetry-path=/custom/metrics"} <= set(container["args"])
    assert container["ports"][0]["containerPort"] == 9900
    assert one(objects, "Service")["spec"]["ports"][0]["port"] == 9100
    (rule,) = one(objects, "NetworkPolicy")["spec"]["ingress"]
    assert (rule["ports"][0]["port"], len(rule["from"])) == ("metrics", 1)


def test_image_is_named_as_asked() -> None:
    """The global registry counts before the image's own, the digest before the tag; neither set means the version."""
    digest = "sha256:" + "0123456789abcdef" * 4
    named = render("names")
    assert exporter_container(named)["image"] == f"registry.example.org/ml/ollama-throughput-exporter@{digest}"
    assert pods(named)[0]["imagePullSecrets"] == [{"name": "pull-secret"}]
    assert pods(named)[0]["serviceAccountName"] == "existing"
    assert exporter_container(render("pod"))["image"] == "registry.example.org/ollama-throughput-exporter:latest"
    assert exporter_container(render("deployment"))["image"] == f"ollama-throughput-exporter:{__version__}"


def test_nothing_of_an_operator_is_made_unasked() -> None:
    """Monitors, rules and dashboards are off by default, so that the chart installs without their definitions."""
    kinds = {entry["kind"] for entry in render("deployment")}
    assert kinds == {"ServiceAccount", "ConfigMap", "Service", "Deployment", "Pod"}


def test_service_monitor() -> None:
    """The monitor selects the Service by its labels and scrapes the named port as configured."""
    objects = render("monitoring")
    monitor = one(objects, "ServiceMonitor")
    assert monitor["metadata"]["namespace"] == "monitoring"
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert monitor["spec"] == {
        "jobLabel": "app.kubernetes.io/name",
        "targetLabels": ["team"],
        "selector": {"matchLabels": one(objects, "Service")["spec"]["selector"]},
        "namespaceSelector": {"matchNames": ["probes"]},
        "sampleLimit": 5000,
        "endpoints": [
            {
                "port": "metrics",
                "path": "/metrics",
                "interval": "30s",
                "scrapeTimeout": "5s",
                "scheme": "http",
                "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
                "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "python_.+", "action": "drop"}],
            }
        ],
    }
    (endpoint,) = one(render("monitoring-daemonset"), "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"insecureSkipVerify": True})


def test_rules_and_dashboards_are_the_shipped_ones(tmp_path: Path) -> None:
    """The PrometheusRule holds the shipped rules, which promtool takes; each dashboard arrives whole and labelled."""
    objects = render("monitoring")
    spec = one(objects, "PrometheusRule")["spec"]
    assert spec == yaml.load((ROOT / "deploy/prometheus/rules.yml").read_text(), yaml.CSafeLoader)
    (tmp_path / "rules.yml").write_text(json.dumps(spec))
    for release in releases():
        subprocess.run([release.promtool, "check", "rules", tmp_path / "rules.yml"], check=True, timeout=60)
    boards = {path.name: json.loads(path.read_text()) for path in (ROOT / "grafana/dashboards").glob("*.json")}
    found = [entry for entry in objects if entry["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {name: json.loads(text) for entry in found for name, text in entry["data"].items()} == boards
    assert all(entry["metadata"]["annotations"] == {"grafana_folder": "Ollama"} for entry in found)
    assert all(len(json.dumps(entry)) < 1_000_000 for entry in found), "a ConfigMap holds at most 1 MiB"


def test_links_in_alerts_lead_where_the_user_says() -> None:
    """Runbook and dashboard addresses of the values take the place of the shipped ones; anchors and variables stay."""
    shipped, linked = (one(render(case), "PrometheusRule")["spec"] for case in ("monitoring", "monitoring-daemonset"))
    text = json.dumps(linked)
    assert "example.com" not in text
    assert "localhost" not in text
    for before, after in zip(alert_annotations(shipped), alert_annotations(linked), strict=True):
        runbook, dashboard = after["runbook_url"], after["dashboard_url"]
        assert runbook == "https://wiki.example.org/runbook#" + before["runbook_url"].partition("#")[2]
        page, _, variables = before["dashboard_url"].partition("?")
        assert dashboard == after["dashboard_url"].partition("?")[0] + f"?{variables}" * bool(variables)
        assert dashboard.startswith("https://grafana.example.org/d/ollama-throughput"), page


def test_copies_in_the_chart_are_fresh() -> None:
    """What the chart packs is what the project ships: run `make chart` after a change of rules or dashboards."""
    shipped = {"rules.yml": ROOT / "deploy/prometheus/rules.yml"}
    shipped |= {f"dashboards/{path.name}": path for path in (ROOT / "grafana/dashboards").glob("*.json")}
    copies = {str(path.relative_to(CHART / "files")): path for path in (CHART / "files").rglob("*") if path.is_file()}
    assert copies.keys() == shipped.keys()
    for name, path in shipped.items():
        assert copies[name].read_bytes() == path.read_bytes(), name


def test_extras_are_placed() -> None:
    """What a user adds arrives: arguments, environment, volumes, containers and whole objects, which are templates."""
    objects = render("extra")
    container = exporter_container(objects)
    assert container["args"][-1] == "--log.level=debug"
    assert container["env"] == [{"name": "SITE", "value": "a"}]
    assert container["envFrom"] == [{"configMapRef": {"name": "more"}}]
    (pod, _) = pods(objects)
    assert [entry["name"] for entry in pod["initContainers"]] == ["wait"]
    assert [entry["name"] for entry in pod["containers"]] == ["exporter", "proxy"]
    assert "here-extra" in {entry["metadata"]["name"] for entry in objects}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--set=mode=StatefulSet"], "mode"),
        (["--set=containerport=1"], "containerport"),
        (["--set=containerPort=http"], "containerPort"),
        (["--set=service.type=ExternalName"], "service"),
        (["--set=serviceMonitor.enabled=yes please"], "serviceMonitor"),
        (["--set=serviceMonitor.interval=1 minute"], "interval"),
        (["--set=config.intervall=5m"], "intervall"),
        (["--set=config.interval=5"], "interval"),
        (["--set=config.targets[0].name=a"], "url"),
        (["--set=config.targets[0].url=http://a:1", "--set=config.targets[0].models=all"], "models"),
        (["--set=mode=DaemonSet", "--set=daemonSet.target.name=a"], "name"),
        (["--set=image.digest=latest"], "digest"),
        (["--set=secrets={a,a}"], "secrets"),
        ([], "config.targets: name at least one Ollama server"),
        (["--set=mode=DaemonSet", "--set=config.targets[0].url=http://a:1"], "leave config.targets empty"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_mistakes_are_refused(words: list[str], complaint: str) -> None:
    """A misspelt key, a wrong type or a contradiction stops the installation and names the key."""
    outcome = template(*words)
    assert outcome.returncode != 0
    assert complaint in outcome.stderr


def test_notes_name_the_next_steps(tmp_path: Path) -> None:
    """After the installation a person reads how to test it, what the namespace must allow and what is still missing."""
    # Helm shows notes only to who has a cluster: here they are rendered as the data of an object.
    chart = shutil.copytree(CHART, tmp_path / "chart")
    notes = (chart / "templates/NOTES.txt").rename(chart / "templates/_notes.tpl")
    notes.write_text('{{ define "notes" }}' + notes.read_text() + "{{ end }}")
    (chart / "templates/notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | quote }}\n')
    values = CHART / "ci/daemonset-host-values.yaml"
    outcome = helm(
        "template", "here", chart, "--namespace=probes", "--values", values, KUBE_VERSION, "-s=templates/notes.yaml"
    )
    assert outcome.returncode == 0, outcome.stderr
    text = yaml.safe_load(outcome.stdout)["text"]
    assert "helm test here --namespace probes" in text
    assert "kubectl label namespace probes pod-security.kubernetes.io/enforce=privileged" in text
    assert "serviceMonitor.enabled=true" in text
    assert "prometheusRule.enabled=true" in text


def test_values_in_the_readme_render(tmp_path: Path) -> None:
    """The value files that deploy/README.md shows are taken as they stand."""
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "deploy/README.md").read_text(), re.DOTALL)
    assert len(shown) == 2
    for text in shown:
        (tmp_path / "values.yml").write_text(text)
        outcome = template("--values", tmp_path / "values.yml")
        assert outcome.returncode == 0, outcome.stderr
        assert "image: registry.example.org/ollama-throughput-exporter:" in outcome.stdout


def test_chart_carries_the_version() -> None:
    """Chart and application have the package's version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_an_example_for_each_feature() -> None:
    """Every top-level key of the values is set by one of the examples, so that every branch is rendered."""
    values = yaml.safe_load((CHART / "values.yaml").read_text()).keys()
    used = {key for case in CASES for key in yaml.safe_load((CHART / f"ci/{case}-values.yaml").read_text())}
    assert len(CASES) >= 12
    # What only strengthens or switches a fixed line of the pod is left to the schema.
    assert values - used <= {"automountServiceAccountToken", "podSecurityContext", "securityContext", "readinessProbe"}
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert values == schema["properties"].keys()
