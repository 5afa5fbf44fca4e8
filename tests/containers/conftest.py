"""Real containers, for who asks: built by buildah, run by podman with runc and by docker-compose over its socket."""

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
    """Let a person ask for the tests of this folder."""
    parser.addoption("--run-containers", action="store_true", help="build and run real containers (Debian, root)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip these tests unless they were asked for and this machine is prepared."""
    if not config.getoption("--run-containers", default=False):
        reason = "real containers are opt-in: `make test-containers` on Debian, as root"
    elif os.getuid() != 0 or not ROOTFS.exists() or not shutil.which("podman"):
        reason = "not prepared: run tests/containers/prepare.sh as root on Debian"
    else:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Return an engine whose storage holds the stand-in for the base image."""
    folder = Path(tempfile.mkdtemp(prefix="ctr-", dir="/tmp"))  # podman takes short paths only
    made = Engine(folder)
    (folder / "networks").mkdir()
    (folder / "containers.conf").write_text(CONFIG.format(folder=folder))
    try:
        container = made.run("buildah", "from", "scratch")
        made.run("buildah", "add", "--quiet", container, ROOTFS, "/")
        made.run("buildah", "config", f"--env=PATH={SEARCHED}", "--cmd=python3", container)
        made.run("buildah", "commit", "--quiet", "--format=docker", "--rm", container, BASE)
        yield made
    finally:
        made.podman("rm", "--all", "--force", "--time=1")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """Return the name of the exporter's image, built by its Dockerfile on the stand-in."""
    engine.run(
        "buildah",
        "build",
        "--format=docker",
        "--pull-never",
        # The builder's way to the package registry is this machine's own, its certificates included.
        "--network=host",
        "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
        f"--build-arg=BASE_IMAGE={BASE}",
        f"--tag={IMAGE}",
        ROOT,
        seconds=600,
    )
    return IMAGE


@pytest.fixture(scope="session")
def stand_ins(engine: Engine) -> dict[str, str]:
    """Return compose's variables for Prometheus' and Alertmanager's images, which are made of Debian's programs."""
    newest = releases()[-1]
    programs = {
        "prometheus": {newest.prometheus: "/bin/prometheus", newest.promtool: "/bin/promtool"},
        "alertmanager": {
            newest.alertmanager: "/bin/alertmanager",
            # Debian's looks for its templates where its package puts them.
            newest.alertmanager.parent.parent / "share/prometheus/alertmanager": "/usr/share/prometheus/alertmanager",
        },
    }
    for name, files in programs.items():
        data = engine.folder / name
        data.mkdir()
        config = (f'--entrypoint=["/bin/{name}"]', "--user=65534:65534", "--cmd=")
        engine.commit(BASE, f"localhost/{name}:test", {**files, data: f"/{name}"}, *config, owner="65534:65534")
    return {f"{name.upper()}_IMAGE": f"localhost/{name}:test" for name in programs}
