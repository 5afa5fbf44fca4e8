"""Fixtures of tests with real containers: images built by buildah, run by podman and by docker-compose."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers.engine import BASE, CONFIG, IMAGE, SEARCHED, Engine
from support.programs import CACHE, releases

ROOT = Path(__file__).parent.parent.parent
ROOTFS = CACHE.parent / "containers/python-3.13-trixie"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that enables the tests of this folder."""
    parser.addoption("--run-containers", action="store_true", help="build and run real containers (Debian, root)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip these tests unless they are enabled and this machine is prepared."""
    if not config.getoption("--run-containers", default=False):
        reason = "containers are not enabled; run `make test-containers` on Debian as root"
    elif os.getuid() != 0 or not ROOTFS.exists() or not shutil.which("podman"):
        reason = "this machine is not prepared; run tests/containers/prepare.sh on Debian as root"
    else:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Return an engine whose storage contains the substitute for the base image."""
    folder = Path(tempfile.mkdtemp(prefix="ctr-", dir="/tmp"))  # podman accepts short paths only
    engine = Engine(folder)
    (folder / "networks").mkdir()
    (folder / "containers.conf").write_text(CONFIG.format(folder=folder))
    try:
        container = engine.run("buildah", "from", "scratch")
        engine.run("buildah", "add", "--quiet", container, ROOTFS, "/")
        engine.run("buildah", "config", f"--env=PATH={SEARCHED}", "--cmd=python3", container)
        engine.run("buildah", "commit", "--quiet", "--format=docker", "--rm", container, BASE)
        yield engine
    finally:
        engine.podman("rm", "--all", "--force", "--time=1")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """Return the name of the exporter's image, built from its Dockerfile on the substitute."""
    engine.run(
        "buildah",
        "build",
        "--format=docker",
        "--pull-never",
        # The build reaches the package registry as this machine does, with its certificates.
        "--network=host",
        "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
        f"--build-arg=BASE_IMAGE={BASE}",
        f"--tag={IMAGE}",
        ROOT,
        seconds=600,
    )
    return IMAGE


@pytest.fixture(scope="session")
def substitutes(engine: Engine) -> dict[str, str]:
    """Return the compose variables of the Prometheus and Alertmanager images, made of Debian's programs."""
    newest = releases()[-1]
    programs = {
        "prometheus": {newest.prometheus: "/bin/prometheus", newest.promtool: "/bin/promtool"},
        "alertmanager": {
            newest.alertmanager: "/bin/alertmanager",
            # Debian's program reads its templates from this path.
            newest.alertmanager.parent.parent / "share/prometheus/alertmanager": "/usr/share/prometheus/alertmanager",
        },
    }
    for name, files in programs.items():
        data = engine.folder / name
        data.mkdir()
        config = (f'--entrypoint=["/bin/{name}"]', "--user=65534:65534", "--cmd=")
        engine.commit(BASE, f"localhost/{name}:test", {**files, data: f"/{name}"}, *config, owner="65534:65534")
    return {f"{name.upper()}_IMAGE": f"localhost/{name}:test" for name in programs}
