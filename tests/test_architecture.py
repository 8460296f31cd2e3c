"""The house: who imports whom, and what a command loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clipkit"
OWNERS = {
    "h5py": {"store"},
    "torch": {"models", "tiny"},
    "transformers": {"models", "tiny"},
    "matplotlib": {"figures"},
    "pyarrow": {"exchange"},
    "sklearn": {"probes", "clusters", "datasets"},
}
GROUND = {"errors", "console", "files"}
# A room above others: what it may import besides the ground floor.
ABOVE = {
    "tables": set(),
    "store": set(),
    "embed": {"store"},
    "sweeps": {"probes", "metrics", "scores", "store"},
    "datasets": {"shapes"},
    "report": {"metrics", "scores", "store"},
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The room that a module belongs to: store/gate.py is a part of store, metrics.py of probes."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return ROOM_OF.get(first, first)


ROOM_OF = {"metrics": "probes"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_have_one_owner(path: Path) -> None:
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or room(path) in owners or name.startswith("matplotlib.figure"), (
            f"{path.name} imports {name}"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    if here in ("commands", "cli", "__main__", "__init__", "tiny"):
        return
    others = {
        room(PACKAGE / f"{name.split('.')[1]}.py")
        for name in imports(path)
        if name.startswith("clipkit.")
    }
    others = {other for other in others if other != here and other not in GROUND}
    allowed = {ROOM_OF.get(name, name) for name in ABOVE.get(here, set())}
    assert others <= allowed, f"{path.name} imports {others - allowed}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = (
                node.end_lineno - node.lineno - len((ast.get_docstring(node) or "").splitlines())
            )
            signature = node.body[0].lineno - node.lineno  # options stand one a line
            assert lines - signature <= 40, f"{node.name}: {lines - signature} lines"


def loaded(code: str) -> set[str]:
    """The modules in memory after running `code` in a new process."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    found = loaded("from clipkit.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass")
    assert not found & {"numpy", "h5py", "torch", "transformers", "sklearn", "matplotlib", "PIL"}


def test_entropy_loads_no_model_classifier_or_figure(logits_h5: Path) -> None:
    run = f"app(['entropy', {str(logits_h5)!r}])"
    found = loaded(
        f"from clipkit.cli import app\ntry: {run}\nexcept SystemExit as end: assert end.code == 0"
    )
    assert not found & {"torch", "transformers", "sklearn", "matplotlib"}
    assert "h5py" in found
