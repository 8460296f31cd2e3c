"""What an import and a command load, and which names exist. `lint-imports` holds the layers."""

import subprocess
import sys
from pathlib import Path

import pytest
from factories import write_feature_file

ROOT = Path(__file__).parents[1]
HEAVY = {"numpy", "h5py", "torch", "transformers", "sklearn", "scipy", "matplotlib", "PIL"}


def loaded_modules(code):
    """Return the modules in memory after `code` has run in a new process."""
    code += "\nimport sys; print(); print(*sys.modules)"
    line = [sys.executable, "-c", code]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def running(*words):
    """Return the code that runs a command."""
    line = [str(word) for word in words]
    return (
        f"from clipkit.cli import app\ntry: app({line})\nexcept SystemExit as e: assert not e.code"
    )


HELPS = {"clipkit --help": running("--help"), "clipkit --version": running("--version")}
HELPS["completion"] = """
from typer.main import get_command
from typer import Context
from clipkit.cli import COMMANDS, app
group = get_command(app)
context = Context(group)
assert [item.value for item in group.shell_complete(context, "")] == list(COMMANDS)
"""


@pytest.mark.parametrize(
    "code",
    [
        "import clipkit; assert {'read', 'load_model'} <= set(dir(clipkit))",
        running("embed", "--help"),
        *HELPS.values(),
    ],
    ids=["import clipkit", "clipkit embed --help", *HELPS],
)
def test_nothing_heavy_is_loaded(code):
    modules = loaded_modules(code)
    assert not modules & HEAVY
    assert not modules & {"rich.console", "typer.rich_utils"}


@pytest.mark.parametrize("code", HELPS.values(), ids=HELPS)
def test_help_and_completion_load_no_library_beside_typer_and_build_no_command(code):
    others = loaded_modules(code) - loaded_modules("import typer")
    packages = {name.partition(".")[0] for name in others} - sys.stdlib_module_names
    # Typer imports pydantic when it builds a command
    assert packages - {"typer"} == {"clipkit"}


@pytest.mark.long
def test_entropy_loads_no_model_classifier_or_plot(tmp_path):
    logits = write_feature_file(tmp_path / "logits.h5", "logits")
    modules = loaded_modules(running("entropy", logits))
    assert not modules & {"torch", "transformers", "sklearn", "matplotlib"}
    assert "h5py" in modules


@pytest.mark.long
@pytest.mark.parametrize("words", [("textembed", "generic16"), ("embed", "shapes", "--limit", "2")])
def test_a_clip_embeds_without_transformers(words, tmp_path):
    modules = loaded_modules(running(*words, "--model", "tiny", "-o", tmp_path / "features.h5"))
    assert "torch" in modules
    assert not modules & {"transformers", "torchvision", "torch._dynamo", "sympy"}


def test_the_api_is_loaded_on_first_use():
    import clipkit
    from clipkit import datasets, features, models
    from clipkit.embedding import in_memory

    api = (features.FeatureFile, in_memory.embed, datasets.load, models.load)
    api += (features.read, features.write)
    names = ("FeatureFile", "embed", "load_dataset", "load_model", "read", "write")
    assert tuple(getattr(clipkit, name) for name in names) == api
    assert set(clipkit.__all__) == {*names, "__version__"}
    with pytest.raises(AttributeError, match="'clipkit' has no attribute 'nothing'"):
        clipkit.nothing  # noqa: B018


# Each `nonsense` is an error for a type checker, and no other name is.
NAMES = """\
import clipkit
from clipkit import analysis, models
from clipkit.analysis import evaluation, probes

clipkit.read("img.h5").splits, clipkit.write, clipkit.load_model, clipkit.load_dataset
analysis.evaluation.evaluate, evaluation.ProbeSpec, models.load, probes.sweep
clipkit.nonsense
clipkit.read("img.h5").nonsense
analysis.nonsense
evaluation.nonsense
models.nonsense
probes.nonsense
"""


@pytest.mark.long
def test_a_type_checker_finds_a_misspelt_name(tmp_path):
    """The checker's cache is that of `make lint`."""
    (tmp_path / "names.py").write_text(NAMES)
    line = [sys.executable, "-m", "mypy", "--hide-error-codes", str(tmp_path / "names.py")]
    found = subprocess.run(line, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    expected = [number for number, code in enumerate(NAMES.splitlines(), 1) if "nonsense" in code]
    assert [int(line.split(":")[1]) for line in found[:-1]] == expected
    assert all(line.endswith('has no attribute "nonsense"') for line in found[:-1])
    assert found[-1] == "Found 6 errors in 1 file (checked 1 source file)"
