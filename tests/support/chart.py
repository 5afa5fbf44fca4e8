"""The chart, rendered by Helm, and accessors for its objects."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it has no annotations
import pytest
import yaml
from support.programs import find_program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/ollama-throughput-exporter"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KUBERNETES = ("1.30", kubernetes_validate.latest_version())
KUBE_VERSION = f"--kube-version={KUBERNETES[0]}.0"
MONITORING = {"ServiceMonitor", "PrometheusRule"}

Object = dict[str, Any]


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Helm, or skip without it."""
    program = find_program("helm")
    if program is None:
        pytest.skip("helm not found. Install Helm 3, or Go and run `make programs`.")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)


def template(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Render the chart as release `here` in namespace `probes`."""
    return helm("template", "here", CHART, "--namespace=probes", KUBE_VERSION, *words)


@cache
def render(case: str, *words: str) -> list[Object]:
    """Return the objects of one of the value files in ci/. The result is cached: do not modify it."""
    outcome = template("--values", CHART / f"ci/{case}-values.yaml", *words)
    assert outcome.returncode == 0, outcome.stderr
    # libyaml parses rules and dashboards twenty times as fast.
    return [entry for entry in yaml.load_all(outcome.stdout, yaml.CSafeLoader) if entry]


def one(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (found,) = [entry for entry in objects if entry["kind"] == kind]
    return found


def workload(objects: list[Object]) -> Object:
    """Return the Deployment or DaemonSet."""
    (found,) = [entry for entry in objects if entry["kind"] in {"Deployment", "DaemonSet"}]
    return found


def pods(objects: list[Object]) -> list[Object]:
    """Return the specification of every pod of the objects."""
    return [
        entry["spec"]["template"]["spec"] if entry["kind"] != "Pod" else entry["spec"]
        for entry in objects
        if entry["kind"] in {"Deployment", "DaemonSet", "Pod"}
    ]


def exporter_container(objects: list[Object]) -> Object:
    """Return the container of the exporter."""
    container: Object = workload(objects)["spec"]["template"]["spec"]["containers"][0]
    assert container["name"] == "exporter"
    return container


def violations(pod: Object) -> set[str]:
    """Return the fields by which a pod violates the `restricted` pod security standard.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    found = {key for key in ("hostPID", "hostIPC", "hostNetwork") if pod.get(key)}
    context = pod.get("securityContext", {})
    if not context.get("runAsNonRoot"):
        found.add("runAsNonRoot")
    if context.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        found.add("seccompProfile")
    for volume in pod.get("volumes", []):
        allowed = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        found |= volume.keys() - {"name"} - allowed
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            found.add("allowPrivilegeEscalation")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.add("capabilities")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.add("hostPort")
    return found


def alert_annotations(rules: Object) -> list[dict[str, str]]:
    """Return the annotations of every alert of a rule file."""
    return [rule["annotations"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
