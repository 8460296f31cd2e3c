"""What all commands share: options after the command, a batch job's log, details, completion."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import write_feature_file
from shell import clipkit, fails, ok
from typer.main import get_command

from clipkit import analysis, cli, features, probes
from clipkit.base import console, tables
from clipkit.commands._command import EVERYWHERE
from clipkit.models import hub


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command, also those of sub-apps, by its words."""
    for name, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        yield name, command
        for picture, sub_command in getattr(command, "commands", {}).items():
            yield f"{name} {picture}", sub_command


@pytest.fixture
def embed_words(tiny_clip_dir, tmp_path) -> list[object]:
    """A short run of embed."""
    options = ("--limit", 5, "--precision", "fp32", "-o", tmp_path / "img.h5")
    return ["embed", "digits", "-m", tiny_clip_dir, *options]


# -- options after the command ---------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2, 100])
def test_quiet_may_stand_anywhere(embed_words, place):
    embed_words.insert(place, "--quiet" if place % 2 else "-q")
    assert ok(*embed_words).stderr == ""


@pytest.mark.parametrize(
    ("words", "common"),
    [
        ("entropy -q x.h5", "quiet"),
        ("plot confusion x.h5 --title -q", ""),
        ("plot --title confusion -v entropy x.h5", "verbose"),
        ("plot -fqo x.png entropy x.h5", "quiet"),
        ("entropy -t -q", ""),
        ("entropy --temperature=1 -q", "quiet"),
        ("entropy -tq x.h5", ""),
        ("entropy -ftv x.h5", ""),
        ("entropy -fvt 1 --debug", "verbose debug"),
        ("textembed -- -q", ""),
        ("textembed -o -- -q", "quiet"),
        ("logits - - -q", "quiet"),
    ],
)
def test_a_common_option_is_taken_where_it_is_no_value(words, common):
    context = get_command(cli.app).make_context("clipkit", [], resilient_parsing=True)
    left = words.split()
    while hasattr(context.command, "commands"):
        _, command, left = context.command.resolve_command(context, left)
        context = command.make_context(command.name, left, parent=context, resilient_parsing=True)
        left = [*context._protected_args, *context.args]
    assert [name for name in EVERYWHERE if context.params[name]] == common.split()


def test_no_command_has_a_common_option_of_its_own():
    for name, command in commands():
        names = {parameter.name for parameter in command.params}
        assert not names.intersection(EVERYWHERE), name


def test_quiet_and_verbose_exclude_each_other(logits_h5):
    assert "expected -q or -v, got both" in fails("entropy", logits_h5, "-qv", exit_code=2)


def test_debug_after_the_command_shows_the_traceback():
    assert "Traceback" in clipkit("entropy", "no.h5", "--debug").stderr


# -- a batch job's log and details -----------------------------------------------------------------


def test_embed_logs_what_it_will_do_and_its_end(embed_words, tiny_clip_dir, tmp_path):
    first, last = ok(*embed_words).stderr.splitlines()
    model = f"{tiny_clip_dir} on cpu in fp32"
    assert first == f"clipkit: embedding digits: 10 images with {model} to {tmp_path / 'img.h5'}"
    assert re.fullmatch(r"clipkit: embedding digits: 10 images in \d+ s", last)


def test_an_announced_log_has_its_next_line_only_when_it_is_due(monkeypatch, capsys):
    def work():
        with console.progress("work", "rows", 2, "9 rows") as update:
            update(5, 11)
            raise ValueError("stop")

    monkeypatch.setattr(console, "FIRST_LINE_SECONDS", 0.0)
    with pytest.raises(ValueError, match="stop"):
        work()
    first, last = capsys.readouterr().err.splitlines()
    assert first == "clipkit: work: 9 rows"
    assert last.startswith("clipkit: work: stopped at 5 of 11 rows after ")


def test_verbose_names_the_model_and_times_the_stages(embed_words, tiny_clip_dir):
    model, tower, opening, threads, *_, end = ok(*embed_words, "-v").stderr.splitlines()
    weights = tiny_clip_dir / "model.safetensors"
    assert re.fullmatch(rf"clipkit: model \S+: {weights}, sha256:[0-9a-f]{{64}}", model)
    assert re.match(r"clipkit: image tower on cpu in fp32, (\w+, )?\d+ threads? of PyTorch", tower)
    assert opening.startswith("clipkit: embedding digits: 10 images with ")
    assert re.search(r"\d+ threads decode images, 64 images in a batch", threads)
    stages = ["reading the data set", "loading the model", "embedding digits", "reading files"]
    stages.append("writing files")
    pattern = "".join(rf"{stage} [\d.]+ s, " for stage in stages)
    assert re.fullmatch(
        rf"clipkit: took [\d.]+ s: {pattern}all else [\d.]+ s; peak memory [\d,]+ MiB", end
    )


def test_every_command_reports_its_stages_if_asked(logits_h5):
    report = ok("entropy", logits_h5, "-v")
    assert report.stdout == ok("entropy", logits_h5).stdout
    assert "reading files" in report.stderr.splitlines()[-1]


# -- help and completion ---------------------------------------------------------------------------


def test_the_help_groups_the_commands():
    text = ok("--help").stdout
    places = [text.index(f"╭─ {group} ─") for group in cli.GROUPS]
    assert places == sorted(places)
    assert list(cli.GROUPS) == ["Encode", "Measure", "Understand", "Files"]


@pytest.mark.parametrize(
    "command", [name for name, _ in commands() if not name.startswith("null ")]
)
def test_the_help_has_an_example_and_names_every_option(command):
    text = ok(*command.split(), "--help").stdout
    *_, heading, empty, example, last = text.splitlines()[:-1]
    assert (heading.strip(), empty.strip(), last.strip()) == ("Example:", "", "")
    assert example.startswith(" clipkit ")
    for parameter in dict(commands())[command].params:
        if not parameter.hidden:
            assert parameter.opts[0] in text or parameter.metavar in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [[], ["probe"], ["plot"], ["plot", "layers"]])
def test_a_help_has_colours_on_a_terminal_alone_and_fits_it(words, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    plain = ok(*words, "--help").stdout
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= width
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", True)
    coloured = ok(*words, "--help").stdout
    assert re.search("\x1b\\[1m *clipkit ", coloured)  # the example
    assert re.sub("\x1b\\[[0-9;]+m", "", coloured) == plain


def test_an_option_takes_the_same_kind_of_value_in_all_commands():
    kinds: dict[str, set[str]] = {}
    for command, entry in commands():
        for parameter in entry.params:
            name = parameter.opts[0]
            is_own = (command, name) == ("embed", "--at")
            if name.startswith("-") and not parameter.hidden and not is_own:
                kind = "" if parameter.is_flag else parameter.metavar or "N"
                kinds.setdefault(name, set()).add(re.split(r"[|,[]", kind)[0])
    kinds["--output"] -= {"FOLDER"}  # of start
    kinds["--control"] -= {"FOLDER", "LOGITS"}  # of a control's results, images or logits
    assert not {name: values for name, values in kinds.items() if len(values) > 1}


def test_a_function_has_the_default_seed_of_the_commands():
    seeds = set()
    for package in (analysis, features):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                is_record = inspect.isclass(value) and dataclasses.is_dataclass(value)
                if inspect.isfunction(value) or is_record:
                    parameter = inspect.signature(value).parameters.get("seed")
                    seeds.add(parameter and parameter.default)
    assert seeds == {42, inspect.Parameter.empty, None}


def complete(line: str, folder: Path, shell: str = "bash", **variables: str) -> list[str]:
    """Return what a shell would offer at the end of a line, with nothing on standard error."""
    env = {
        **os.environ,
        "_CLIPKIT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        **variables,
    }
    run = [Path(sys.executable).parent / "clipkit"]
    ended = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clipkit plot conf", ["confidence", "confusion"]),
        ("clipkit probe --classifier ", list(probes.CLASSIFIERS)),
        ("clipkit entropy --format ", list(tables.FORMATS)),
        ("clipkit embed -q tiny", ["tiny-imagenet"]),
        ("clipkit embed digits -v -m tiny", ["tiny", "tiny-llava"]),
        ("clipkit embed digits --device c", ["cpu", "cuda"]),
        ("clipkit embed shapes --split ", ["train", "test"]),
        ("clipkit embed photos --split ", ["train", "val"]),
        ("clipkit entropy x.h5 -o img.h5 -t ", []),
        ("clipkit zeroshot img.h5 --split ", ["test", "train"]),
        ("clipkit textembed generic4", ["generic415"]),
        ("clipkit textembed --template op", ["openai-cifar", "openai-imagenet"]),
        ("clipkit textembed --classes attr", ["attributes/shapes"]),
        ("clipkit list pi", ["pictures"]),
        ("clipkit textembed --captions shapes --split ", ["train", "test"]),
        ("clipkit zeroshot damaged.h5 --split ", []),
        ("clipkit attributes img.h5 --metric r", ["recall", "r2"]),
        ("clipkit probe img.h5 --table table.csv --attribute ", ["colour", "size"]),
        ("clipkit probe img.h5 --table table.csv --attribute colour*", ["colour*size"]),
        ("clipkit probe img.h5 --table quoted.tsv --attribute ", ["colour"]),
        ("clipkit probe img.h5 --table damaged.h5 --attribute ", []),
        ("clipkit split img.h5 --table=shapes --attribute ou", ["outline"]),
        ("clipkit choose img.h5 --columns ang", ["angle"]),
        ("clipkit choose img.h5 --columns angle,cei", ["angle,ceiling"]),
        ("clipkit zeroshot fifo --split ", []),
        ("clipkit no-such-command --split ", list(cli.COMMANDS)),
        ('clipkit zeroshot "img.h5 --split ', []),
    ],
)
def test_completion_offers_values_and_never_complains(tmp_path, line, expected):
    write_feature_file(tmp_path / "img.h5")
    (tmp_path / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "table.csv").write_text("id,colour,size\n0,red,1\n")
    (tmp_path / "quoted.tsv").write_text('id\tcolour\n"0"\tred\n\t\n')  # notes on both rows
    os.mkfifo(tmp_path / "fifo")
    for name in ("train", "val", "cats"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    attempts = (complete(line, tmp_path) for _ in range(5))
    if expected:  # a busy machine may need longer than a completion may take
        attempts = filter(None, attempts)
    assert next(attempts, []) == expected


@pytest.mark.long
def test_completion_offers_models_that_were_fetched_before_and_works_in_zsh(tmp_path):
    (tmp_path / "models--org--clip-x").mkdir()
    line = "clipkit embed digits --model org"
    assert complete(line, tmp_path, HF_HUB_CACHE=str(tmp_path)) == ["org/clip-x"]
    assert '"knn"' in " ".join(complete("clipkit probe --classifier k", tmp_path, "zsh"))


def test_completion_knows_the_data_sets_and_imports_nothing_heavy():
    assert "tiny" in hub.KNOWN
    script = (
        "import sys; from clipkit import cli; from clipkit.commands import _completion as c; "
        "c.models(), c.datasets(); "
        "print([m for m in ('numpy', 'torch', 'h5py', 'PIL', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_every_option_that_names_a_split_completes_it():
    for command, entry in commands():
        for parameter in entry.params:
            if parameter.name in ("split", "fit_split", "eval_split"):
                assert parameter._custom_shell_complete is not None, f"{command}: {parameter.name}"


MISTYPED = (
    ("embed shapes --model nosuch", "unknown model 'nosuch'"),
    ("embed shapes --model ./none", "cannot read ./none: there is no such folder"),
    ("textembed --model Vit-B32 x.txt", "did you mean ViT-B/32"),
    ("embed shapes --device gpu", "unknown device 'gpu'; hint: did you mean cuda?"),
    ("embed shapes --device GPU:1", "did you mean cuda?"),
    ("embed shapes --precision fp8", "unknown precision 'fp8'"),
    ("info nosuch", "unknown model 'nosuch'"),
    ("probe x.h5 --classifier svn", "unknown classifier 'svn'; hint: did you mean svm?"),
    ("probe x.h5 --features prob", "hint: did you mean probs?"),
    ("probe x.h5 --columns acc1,foo", "unknown column of probe 'foo'; hint: known: C, acc1, "),
    ("probe x.h5 --columns acc1x", "did you mean acc1"),
    ("zeroshot x.h5 --columns acc", "unknown column of zeroshot 'acc'; hint: did you mean acc"),
    ("probe x.h5 -C 1e-3:1e2", "a range is LOW..HIGH:N, for N values: 1e-3..1e2:6"),
    ("attributes x.h5 --metric auc", "unknown metric 'auc'; hint: did you mean auroc?"),
    ("attributes x.h5 --metric auroc,ap", "expected one --metric, got auroc,ap; hint: run it with"),
    ("threshold x.h5 --fpr 5%", "got '5%'; hint: write a share: 0.05"),
    (
        "threshold x.h5 --fpr 5",
        "expected a share between 0 and 1, got 5; hint: write a share: 0.05",
    ),
    ("choose x.h5 y.h5 --items shapes --columns acc", "unknown column of choose 'acc'"),
    ("cluster images.h5 --attribute colour", "expected --table for --attribute, got none"),
    ("probe images.h5 --attribute colour", "expected --table for --attribute, got none"),
    ("probe images.h5 table.csv", "cannot read table.csv: there is no such file"),
    ("logits texts.h5 images.h5", "hint: swap the two: images.h5 holds the images"),
    ("probe x.h5 -C 1;10", "got '1;10'; hint: separate several by commas: 1,10"),
)


@pytest.mark.long
def test_a_mistyped_option_is_refused_before_any_large_library_is_loaded(tmp_path):
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom clipkit.cli import app\n"
        "for line in sys.stdin:\n"
        "    print(CliRunner().invoke(app, line.split()).stderr.strip())\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'scipy'}.intersection(sys.modules)))\n"
    )
    for kind in ("images", "texts"):
        write_feature_file(tmp_path / f"{kind}.h5", kind)
    lines = "\n".join(line for line, _ in MISTYPED)
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, input=lines, cwd=tmp_path, capture_output=True, text=True)
    *errors, loaded = run.stdout.splitlines()
    for error, (line, message) in zip(errors, MISTYPED, strict=True):
        assert message in error, line
    assert loaded == "[]"


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_table_on_a_terminal_without_utf_8_has_no_escapes(encoding, tmp_path):
    write_feature_file(tmp_path / "r.h5", "result")
    command = [sys.executable, "-m", "clipkit", "info", "--runs", "r.h5", "--format", "table"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment)
    assert run.returncode == 0
    assert b"\n ------" in run.stdout
    assert b"\\" not in run.stdout


@pytest.mark.parametrize("command", ["probe", "zeroshot", "cluster", "relabel", "compare"])
def test_a_second_attribute_does_not_silently_replace_the_first(command):
    line = fails(command, "x.h5", "--attribute", "a", "--attribute=b", exit_code=2)
    assert "expected one --attribute, got 2; hint: A*B combines two" in line


def test_the_usage_line_has_no_hidden_argument():
    usage = ok("relabel", "--help").stdout.split("Usage: ")[1].splitlines()[0]
    assert usage.split() == ["clipkit", "relabel", "[OPTIONS]", "[FILE]"]


OPTION = re.compile(r"--[a-z][a-z-]+")


def options_of(name: str) -> set[str]:
    """Return the options of a command and of its sub-commands."""
    options: set[str] = set()
    for words, command in commands():
        if words.split()[0] == name:
            for parameter in command.params:
                options.update(parameter.opts, parameter.secondary_opts)
    return options


def hints_of(path: Path) -> Iterator[str]:
    """Yield the strings of a module that are arguments of errors and warnings."""
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(node, "func", None)
        name = getattr(name, "id", getattr(name, "attr", ""))
        if name.endswith("Error") or name in ("warn", "note", "unknown"):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


@pytest.mark.long
def test_a_message_names_only_options_that_the_command_has():
    package = Path(cli.__file__).parent
    # of pip, of Ray, of clipkit itself, in the place of a question's options
    others = {"--upgrade", "--head", "--debug", "--help", "--check"}
    everywhere = others.union(*[options_of(name.split()[0]) for name, _ in commands()])
    for path in package.rglob("*.py"):
        is_command = path.parent.name == "commands" and not path.name.startswith("_")
        known = others | options_of(path.stem) if is_command else everywhere
        for text in hints_of(path):
            assert known.issuperset(OPTION.findall(text)), (path.name, text)
