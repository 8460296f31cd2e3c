"""What an import and a command load, and which names exist. `lint-imports` holds the layers."""

import subprocess
import sys
from pathlib import Path

import pytest
from factories import write_feature_file
from imports import inside, longest_chain, read_imports

ROOT = Path(__file__).parents[1]
HEAVY = {"numpy", "h5py", "torch", "transformers", "sklearn", "scipy", "matplotlib", "PIL"}


@pytest.mark.long
def test_no_circle_of_files_and_no_longer_chain_of_imports():
    imports = read_imports()
    assert len(longest_chain(imports)) <= 17  # it refuses a circle
    assert len(longest_chain(inside(imports, "clipkit.features"))) <= 6


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


HELPS = {
    "clipkit --help": running("--help"),
    "clipkit embed --help": running("embed", "--help"),
    "clipkit --version": running("--version"),
}
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
        *HELPS.values(),
    ],
    ids=["import clipkit", *HELPS],
)
def test_nothing_heavy_is_loaded(code):
    modules = loaded_modules(code)
    assert not modules & HEAVY


@pytest.mark.parametrize("code", HELPS.values(), ids=HELPS)
def test_help_loads_typer_and_rich_alone_and_completion_no_rich(code):
    known = "import typer.rich_utils" if "--help" in code else "import typer"
    others = loaded_modules(code) - loaded_modules(known)
    packages = {name.partition(".")[0] for name in others} - sys.stdlib_module_names
    # Typer imports pydantic when it parses a value; Rich, its emoji for a help
    assert packages - {"typer", "rich"} == {"clipkit"}
    assert "--help" in code or "rich" not in packages


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
    from clipkit.analysis import question
    from clipkit.base import pictures
    from clipkit.embedding import in_memory

    api = (features.FeatureFile, in_memory.embed, datasets.load, models.load)
    api += (features.from_array, features.read, features.write)
    api += (question.Analysis, question.Input)
    names = ("FeatureFile", "embed", "load_dataset", "load_model", "from_array", "read", "write")
    names += ("Analysis", "Input")
    assert tuple(getattr(clipkit, name) for name in names) == api
    drawn = {*pictures.TYPES} - {"Sheet"}  # which needs the images of a data set
    assert {*names, *drawn} <= set(clipkit.__all__)
    assert {getattr(clipkit, name).__name__ for name in drawn} == drawn
    assert all(hasattr(clipkit, name) for name in clipkit.__all__)
    assert {name for name in dir(clipkit) if name.islower() and name[0] != "_"} >= {*names[1:7]}
    assert not {"annotations", "lazy_names", "clipkit"} & {*dir(clipkit)}  # how it is made
    with pytest.raises(AttributeError, match="'clipkit' has no attribute 'nothing'"):
        clipkit.nothing  # noqa: B018


# Each `nonsense` is an error for a type checker, and no other name is.
NAMES = """\
import clipkit
from clipkit import analysis, models
from clipkit.analysis.probe import evaluation
from clipkit import probes

clipkit.read("img.h5").splits, clipkit.write, clipkit.load_model, clipkit.load_dataset
analysis.names, evaluation.ProbeSpec, models.load, probes.sweep
clipkit.entropy  # a question
clipkit.read("img.h5").nonsense
analysis.nonsense
evaluation.nonsense
models.nonsense
probes.nonsense
"""


NATURAL = """\
from pathlib import Path

import numpy as np
import torch

import clipkit
from clipkit import report
from clipkit.analysis.align import alignment
from clipkit.analysis.attributes import recalls
from clipkit.analysis.compare import comparison
from clipkit.analysis.probe import evaluation
from clipkit.analysis.nearest import neighbours
from clipkit.analysis.retrieve import retrieval
from clipkit.analysis.zeroshot import classification
from clipkit.features import splitting

X = np.zeros((4, 2), np.float32)
table = {"id": ["a"], "colour": ["red"]}
reveal_type(clipkit.read("img.h5"))  # FeatureFile
reveal_type(clipkit.from_array(X, labels=["a", "b", "a", "b"]))  # FeatureFile
reveal_type(clipkit.embed([X], model="tiny"))  # FeatureFile
reveal_type(clipkit.load_model("tiny", tower="text"))  # Encoder
reveal_type(clipkit.load_dataset("shapes"))  # Dataset
reveal_type(retrieval.retrieve("img.h5", Path("txt.h5"), k=5))  # FeatureFile
reveal_type(alignment.align([X, torch.zeros(4, 2)], k=2))  # FeatureFile
reveal_type(neighbours.nearest(X, clipkit.read("img.h5")))  # FeatureFile
reveal_type(recalls.measure("img.h5", table=table, columns="colour"))  # FeatureFile
reveal_type(classification.evaluate("logits.h5").runs["acc1"])  # ndarray
reveal_type(evaluation.evaluate("logits.h5", Cs=1).result)  # FeatureFile
reveal_type(comparison.compare(["a.h5", "b.h5"], by="table.csv"))  # FeatureFile
reveal_type(splitting.split("img.h5", {"test": 0.2}))  # FeatureFile
reveal_type(report.of_files("a.h5"))  # Page
retrieval.retrieve(3, "txt.h5")  # wrong
neighbours.nearest("img.h5", k="3")  # wrong
recalls.measure("img.h5", table=3)  # wrong
"""


def check_types(code, tmp_path):
    """Return what mypy says of each line of a program. Its cache is that of `make lint`."""
    (tmp_path / "program.py").write_text(code)
    line = [sys.executable, "-m", "mypy", "--hide-error-codes", str(tmp_path / "program.py")]
    found = subprocess.run(line, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    return [(int(said.split(":")[1]), said) for said in found[:-1]], found[-1]


@pytest.mark.long
def test_a_type_checker_finds_a_misspelt_name(tmp_path):
    found, summary = check_types(NAMES, tmp_path)
    expected = [number for number, code in enumerate(NAMES.splitlines(), 1) if "nonsense" in code]
    assert [number for number, _ in found] == expected
    assert all(said.endswith('has no attribute "nonsense"') for _, said in found)
    assert summary == "Found 5 errors in 1 file (checked 1 source file)"


@pytest.mark.long
def test_a_type_checker_knows_what_natural_arguments_are(tmp_path):
    said_of = dict(check_types(NATURAL, tmp_path)[0])
    for number, code in enumerate(NATURAL.splitlines(), 1):
        _, _, expected = code.partition("  # ")
        if expected == "wrong":
            assert "incompatible type" in said_of.pop(number), code
        elif expected:
            revealed = said_of.pop(number).split('"')[1]
            assert revealed.partition("[")[0].rpartition(".")[2] == expected, code
    assert said_of == {}
