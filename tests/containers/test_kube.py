"""The Deployment of the chart, run by `podman play kube` in place of a cluster."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx
import pytest
from containers.engine import Engine
from support.programs import find_program, free_port

pytestmark = pytest.mark.timeout(900)
CHART = Path(__file__).parent.parent.parent / "deploy/helm/ollama-throughput-exporter"


def test_pod_of_the_chart_runs(engine: Engine, image: str) -> None:
    """The rendered objects start a pod that is ready, uses its ConfigMap, and has the rendered restrictions."""
    helm = find_program("helm")
    if helm is None:
        pytest.skip("helm not found. Install Helm 3, or Go and run `make programs`.")
    registry, _, _ = image.partition("/")
    port = free_port()
    values = [f"--values={CHART}/ci/deployment-values.yaml", f"--set=image.registry={registry},containerPort={port}"]
    shown = [f"--show-only=templates/{name}.yaml" for name in ("configmap", "deployment")]
    manifest = engine.folder / "kube.yaml"
    command = [str(helm), "template", "here", str(CHART), "--kube-version=1.30.0", *values, *shown]
    manifest.write_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    engine.podman("play", "kube", "--network=podman", manifest)
    try:
        (name,) = engine.podman("ps", "--format={{.Names}}", "--filter=name=pod-0-exporter").split()
        deadline = time.monotonic() + 60
        text = ""
        while 'ollama_probe_up{target="gpu-a"} 0' not in text:
            assert time.monotonic() < deadline, text + engine.logs(name)
            time.sleep(0.5)
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            except httpx.TransportError:
                continue
        assert httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False).status_code == httpx.codes.OK
        status = engine.podman("exec", name, "cat", "/proc/1/status")
        assert "Uid:\t65532\t65532\t65532\t65532" in status
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        with pytest.raises(AssertionError, match="Read-only file system"):
            engine.podman("exec", name, "touch", "/x")
    finally:
        engine.podman("play", "kube", "--down", manifest)
