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


@pytest.mark.parametrize(
    "code",
    [
        "import clipkit; assert {'read', 'load_model'} <= set(dir(clipkit))",
        running("--help"),
        running("embed", "--help"),
    ],
    ids=["import clipkit", "clipkit --help", "clipkit embed --help"],
)
def test_nothing_heavy_is_loaded(code):
    assert not loaded_modules(code) & HEAVY


@pytest.mark.long
def test_entropy_loads_no_model_classifier_or_plot(tmp_path):
    logits = write_feature_file(tmp_path / "logits.h5", "logits")
    modules = loaded_modules(running("entropy", logits))
    assert not modules & {"torch", "transformers", "sklearn", "matplotlib"}
    assert "h5py" in modules


@pytest.mark.long
@pytest.mark.parametrize("classifier", ["logreg", "knn"])
def test_a_probe_loads_scikit_learn_only_if_it_fits_with_it(classifier, tmp_path):
    images = write_feature_file(tmp_path / "images.h5")
    modules = loaded_modules(running("probe", images, "--classifier", classifier))
    assert not modules & {"torch", "sklearn", "scipy.stats", "matplotlib"}


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
