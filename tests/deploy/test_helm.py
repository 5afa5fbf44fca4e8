"""The chart, rendered by Helm; its objects are checked with the Kubernetes schemas, its rules with promtool."""

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
from support.configurations import load_file
from support.programs import releases

from exporter import __version__
from exporter.settings.reference import FLAGS


def test_helm_lint_finds_nothing() -> None:
    """`helm lint --strict` reports no error and no warning."""
    outcome = helm("lint", "--strict", CHART)
    assert outcome.returncode == 0, outcome.stdout
    assert "WARNING" not in outcome.stdout


@pytest.mark.parametrize("case", CASES)
def test_objects_are_valid_and_pods_restricted(case: str) -> None:
    """Every object has a valid schema in two Kubernetes versions, and every pod follows the restricted standard.

    The only exception is the example that enables hostPID and hostNetwork.
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


@pytest.mark.parametrize("case", CASES)
def test_references_between_objects_resolve(case: str) -> None:
    """The Service selects the workload's pods only, mounts have their volumes, and named ports exist."""
    objects = render(case)
    template_ = workload(objects)["spec"]["template"]
    selector = one(objects, "Service")["spec"]["selector"].items()
    assert selector <= template_["metadata"]["labels"].items()
    assert not selector <= one(objects, "Pod")["metadata"]["labels"].items()
    assert workload(objects)["spec"]["selector"]["matchLabels"].items() == selector
    volumes = {volume["name"] for volume in template_["spec"]["volumes"]}
    assert {mount["name"] for mount in exporter_container(objects)["volumeMounts"]} == volumes
    assert one(objects, "Service")["spec"]["ports"][0]["targetPort"] == exporter_container(objects)["ports"][0]["name"]


def test_deployment_never_runs_two_pods() -> None:
    """The Deployment has one replica, also during a rollout: a second one would probe every server again."""
    spec = one(render("deployment"), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_daemonset_probes_its_own_node() -> None:
    """The target has the name and address of the node; the GPUs are visible but not requested as a resource."""
    objects = render("daemonset")
    config = yaml.safe_load(one(objects, "ConfigMap")["data"]["config.yml"])
    assert config["targets"] == [
        {"name": "${NODE_NAME}", "url": "http://${HOST_IP}:11434", "local": True, "models": ["llama3.1"]}
    ]
    environment = {entry["name"]: entry for entry in exporter_container(objects)["env"]}
    assert environment["NODE_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert environment["HOST_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"]["value"] == "utility"
    resources = exporter_container(objects)["resources"]
    assert {name for kind in resources.values() for name in kind} == {"cpu", "memory"}
    (pod, _) = pods(objects)
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_memory_is_limited() -> None:
    """By default the exporter may take 256 MiB and as much CPU as there is; values replace the limits."""
    for case in ("deployment", "daemonset"):
        assert exporter_container(render(case))["resources"] == {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "256Mi"},
        }
    assert exporter_container(render("pod"))["resources"]["limits"] == {"memory": "512Mi"}


def test_node_selectors_are_merged() -> None:
    """The general and the DaemonSet's node selector are merged, and a default label can be removed with null."""
    (pod, _) = pods(render("daemonset-local-service"))
    assert pod["nodeSelector"] == {"example.org/gpu": "yes", "kubernetes.io/arch": "amd64"}
    assert pod["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert "runtimeClassName" not in pod


def test_changed_configuration_restarts_the_pods() -> None:
    """The checksum annotation changes with the configuration, and with nothing else."""

    def checksum(*words: str) -> str:
        objects = render("targets", *words)
        value: str = workload(objects)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return value

    assert checksum() == checksum("--set=podLabels.x=y")
    assert checksum() != checksum("--set=config.interval=6m")


@pytest.mark.parametrize("case", [case for case in CASES if case != "existing-secret"])
def test_exporter_accepts_the_configuration(case: str, tmp_path: Path) -> None:
    """The exporter accepts the rendered configuration with the variables and secrets of a pod."""
    objects = render(case)
    text = one([entry for entry in objects if "config.yml" in entry.get("data", {})], "ConfigMap")["data"]["config.yml"]
    for name in ("gpu-a/token", "gpu-b/password", "gpu-b/ca.crt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hidden")
    shutil.copy(certifi.where(), tmp_path / "gpu-b/ca.crt")
    (tmp_path / "config.yml").write_text(text.replace("/etc/ollama-throughput-exporter/secrets", str(tmp_path)))
    environ = {"NODE_NAME": "node-1", "HOST_IP": "192.0.2.7", "SITE": "a"}
    plans = load_file(tmp_path / "config.yml", environ=environ).plans()
    if workload(objects)["kind"] == "DaemonSet":
        (plan,) = plans
        assert (plan.name, plan.local) == ("node-1", True)
        assert "$" not in plan.url
    else:
        assert {plan.name for plan in plans} <= {"gpu-a", "gpu-b", "a-gpu-a"}


def test_exporter_has_the_flags() -> None:
    """Every flag in the arguments of the container is a flag of the exporter."""
    known = {flag.option for flag in FLAGS}
    for case in CASES:
        used = {argument.partition("=")[0] for argument in exporter_container(render(case))["args"]}
        assert used <= known, case


def test_secrets_are_mounted() -> None:
    """Secrets are mounted where the configuration refers to them; the chart renders no Secret."""
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


def test_port_and_path_are_consistent() -> None:
    """The configured port and path reach the exporter, the pod, the Service and the network policy."""
    objects = render("network")
    container = exporter_container(objects)
    assert {"--web.listen-address=:9900", "--web.telemetry-path=/custom/metrics"} <= set(container["args"])
    assert container["ports"][0]["containerPort"] == 9900
    assert one(objects, "Service")["spec"]["ports"][0]["port"] == 9100
    (rule,) = one(objects, "NetworkPolicy")["spec"]["ingress"]
    assert (rule["ports"][0]["port"], len(rule["from"])) == ("metrics", 1)


def test_image_name() -> None:
    """The global registry overrides the image's, the digest overrides the tag, and the default tag is the version."""
    digest = "sha256:" + "0123456789abcdef" * 4
    named = render("names")
    assert exporter_container(named)["image"] == f"registry.example.org/ml/ollama-throughput-exporter@{digest}"
    assert pods(named)[0]["imagePullSecrets"] == [{"name": "pull-secret"}]
    assert pods(named)[0]["serviceAccountName"] == "existing"
    assert exporter_container(render("pod"))["image"] == "registry.example.org/ollama-throughput-exporter:latest"
    assert exporter_container(render("deployment"))["image"] == f"ollama-throughput-exporter:{__version__}"


def test_custom_resources_are_off_by_default() -> None:
    """ServiceMonitor, PrometheusRule and dashboards are off by default, so that the chart needs no CRDs."""
    kinds = {entry["kind"] for entry in render("deployment")}
    assert kinds == {"ServiceAccount", "ConfigMap", "Service", "Deployment", "Pod"}


def test_service_monitor() -> None:
    """The ServiceMonitor selects the Service by its labels and scrapes the named port as configured."""
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
    """The PrometheusRule contains the shipped rules, which promtool accepts; every dashboard is complete."""
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
    assert all(len(json.dumps(entry)) < 1_000_000 for entry in found), "a ConfigMap contains at most 1 MiB"


def test_values_replace_the_links_of_alerts() -> None:
    """The values runbookUrl and dashboardUrl replace the shipped addresses; anchors and variables stay."""
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


def test_chart_files_equal_the_shipped_ones() -> None:
    """The chart's copies of rules and dashboards equal the originals; `make chart` copies them."""
    shipped = {"rules.yml": ROOT / "deploy/prometheus/rules.yml"}
    shipped |= {f"dashboards/{path.name}": path for path in (ROOT / "grafana/dashboards").glob("*.json")}
    copies = {str(path.relative_to(CHART / "files")): path for path in (CHART / "files").rglob("*") if path.is_file()}
    assert copies.keys() == shipped.keys()
    for name, path in shipped.items():
        assert copies[name].read_bytes() == path.read_bytes(), name


def test_extra_values_are_rendered() -> None:
    """Extra arguments, environment, volumes, containers and manifests, which are templates, are in the objects."""
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
    ("words", "key"),
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
        ([], "config.targets"),
        (["--set=mode=DaemonSet", "--set=config.targets[0].url=http://a:1"], "config.targets"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_invalid_values_are_rejected(words: list[str], key: str) -> None:
    """A misspelt key, a wrong type or contradicting values fail the installation with the name of the key."""
    outcome = template(*words)
    assert outcome.returncode != 0
    assert key in outcome.stderr


def test_notes_contain_the_next_steps(tmp_path: Path) -> None:
    """The notes contain the test command, the label that pod security requires, and the values that enable alerts."""
    # Helm prints notes only with a cluster, so they are rendered as a field of an object.
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


def test_values_in_the_documentation_render(tmp_path: Path) -> None:
    """The values in the Kubernetes guide render unchanged."""
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/how-to/deploy-on-kubernetes.md").read_text(), re.DOTALL)
    assert len(shown) == 2
    for text in shown:
        (tmp_path / "values.yml").write_text(text)
        outcome = template("--values", tmp_path / "values.yml")
        assert outcome.returncode == 0, outcome.stderr
        assert "image: registry.example.org/ollama-throughput-exporter:" in outcome.stdout


def test_chart_has_the_version_of_the_package() -> None:
    """The versions of chart and application are the version of the package."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_every_value_has_an_example() -> None:
    """Every top-level key of the values is set by an example, so that every branch of the templates is rendered."""
    values = yaml.safe_load((CHART / "values.yaml").read_text()).keys()
    used = {key for case in CASES for key in yaml.safe_load((CHART / f"ci/{case}-values.yaml").read_text())}
    assert len(CASES) >= 12
    # These change single fields of the pod only; the schema checks them.
    assert values - used <= {"automountServiceAccountToken", "podSecurityContext", "securityContext", "readinessProbe"}
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert values == schema["properties"].keys()
