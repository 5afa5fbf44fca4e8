"""The structure of the package: dependencies go one way, and modules stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "exporter"
LAYERS: tuple[set[str], ...] = (
    {"__init__"},
    {"durations", "errors", "log_writer", "logs", "plan", "reading"},
    {"settings", "embedded", "background", "signals", "systemd"},
    {"ollama", "gpu", "state"},
    {"probing"},
    {"metrics"},
    {"web"},
    {"daemon"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""Packages and top-level modules, lowest first. One may import from its own layer and from lower ones."""
LINES_MAX = 400
LINES_MEDIAN_MAX = 150


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name below `exporter`; a package is named by its folder."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of this package that a module imports, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if not f"{name}.".startswith("exporter."):
                continue
            inner = name.removeprefix("exporter").removeprefix(".")
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            yield inner or "__init__"


def layer(module: str) -> int:
    """Return the number of a module's layer."""
    top = module.partition(".")[0]
    return next(number for number, names in enumerate(LAYERS) if top in names)


def graph() -> dict[str, set[str]]:
    """Return what each module imports from this package."""
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def test_every_module_has_a_layer() -> None:
    """Each top-level module and package is in exactly one layer. A new one is added here on purpose."""
    assert sorted({name.partition(".")[0] for name in modules()}) == sorted(chain.from_iterable(LAYERS))


def test_no_import_goes_up() -> None:
    """A module imports nothing from a higher layer."""
    wrong = [f"{name} -> {other}" for name, others in graph().items() for other in others if layer(other) > layer(name)]

    assert wrong == []


def test_packages_of_one_layer_do_not_import_each_other() -> None:
    """Within a layer only a package's own modules are imported, except among the bottom modules."""
    wrong = [
        f"{name} -> {other}"
        for name, others in graph().items()
        for other in others
        if layer(name) == layer(other) > 1 and name.partition(".")[0] != other.partition(".")[0]
    ]

    assert wrong == []


def test_imports_have_no_circle() -> None:
    """The modules can be put in an order in which each imports earlier ones only."""
    order = list(TopologicalSorter(graph()).static_order())  # raises CycleError

    assert len(order) == len(modules())


def test_modules_are_small() -> None:
    """No module has more than 400 lines, and the median is below 150."""
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    code = [count for count in lines.values() if count > 1]

    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}
    assert median(code) < LINES_MEDIAN_MAX
