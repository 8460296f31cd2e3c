"""What an import and a command load. `lint-imports` holds the layers."""

import subprocess
import sys

import pytest
from factories import write_feature_file

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
@pytest.mark.parametrize("words", [("textembed", "generic16"), ("embed", "shapes", "--limit", "2")])
def test_a_clip_embeds_without_transformers(words, tmp_path):
    modules = loaded_modules(running(*words, "--model", "tiny", "-o", tmp_path / "features.h5"))
    assert "torch" in modules
    assert not modules & {"transformers", "torchvision", "torch._dynamo", "sympy"}


def test_the_api_is_loaded_on_first_use():
    import clipkit
    from clipkit import datasets, features, models

    api = (features.FeatureFile, datasets.load, models.load, features.read, features.write)
    names = ("FeatureFile", "load_dataset", "load_model", "read", "write")
    assert tuple(getattr(clipkit, name) for name in names) == api
    assert set(clipkit.__all__) == {*names, "__version__"}
    with pytest.raises(AttributeError, match="'clipkit' has no attribute 'nothing'"):
        clipkit.nothing  # noqa: B018
