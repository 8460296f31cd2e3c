"""Run changed feature files through every command, and check what the commands make of them."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from forkserver import ForkServer, Outcome
from fuzz import content, seeds
from fuzz.commands import CONTROL, Runner
from fuzz.content import Content
from PIL import Image

from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, read

# F is the changed file, S one of its splits; the other files are valid.
EVERY_KIND = """\
info F
info F --format table
info F --format csv
convert F out.npz
convert F out.parquet
convert F out.npz --split S
convert F out.npy --split S
convert F out.csv
textembed --classes F -o out.h5
textembed --classes F --readable --normalize -o out.h5
textembed --classes F --template 'a {}' --template 'the {c}' -o out.h5
report results
report results --control base -o report.md
report base --control results
"""
COMMANDS = {
    "images": """\
logits F generic32.h5 -o out.h5
logits F classes.h5 -t 0.01 -o out.h5
logits F classes.h5 -t model -o out.h5
logits F generic32.h5 --whiten -o out.h5
logits F --random 3 -o out.h5
predict img.kept.h5 F
predict img.kept-knn.h5 F --per-image
probe F --keep -o out.h5
probe F -o out.h5
probe F --no-standardize -C 0.01,1 --format json
probe F --classifier logreg --val 0.2 -o out.h5
probe F --classifier knn -o out.h5
probe F --fit-split S --eval-split S -o out.h5
probe F --shots 2 --val S -o out.h5
cluster F -o out.h5
cluster F --split S -k 2 -o out.h5
""",
    "texts": """\
logits img.h5 F -o out.h5
logits img.h5 F -t model -o out.h5
logits img.h5 F --whiten -t 0.07 -o out.h5
logits F F -o out.h5
plot spectrum F -o out.png
plot spectrum generic32.h5 F -o out.png
""",
    "logits": """\
entropy F -o out.h5
entropy F -t 1,0.01 -o out.h5
entropy F -t model --format json
entropy F --link sigmoid -o out.h5
zeroshot F -o out.h5
zeroshot F --split S --format table
probe F -t 1,0.05 -o out.h5
predict generic32.logits.kept.h5 F
zeroshot F --per-image
probe F -t model --features probs -o out.h5
probe F --classifier logreg -C 0.1,1 --val 0.2 -o out.h5
cluster F -o out.h5
cluster F --split S -k 3 -o out.h5
plot entropy F -t 1,0.07 -o out.png
plot confidence F --split S -o out.png
plot logits F -o out.png
plot similarity F --centred -o out.png
""",
    "result": """\
convert F out.parquet
convert F out.csv --split S
plot confusion F -o out.png
plot confusion F --split S --run 1 -o out.png
plot confusion F --groups groups.tsv -o out.png
plot classes F -o out.png
plot clusters F -o out.png
plot clusters F --run 1 -o out.png
plot temperature F -o out.png
plot temperature generic32.logits.sweep.h5 F -o out.png
plot temperature F --split S -o out.png
plot grid F -o out.png
plot grid F --split S -o out.png
report results
report results --control base -o report.md
""",
    "probe": """\
predict F img.h5
predict F img.h5 -o out.h5
predict F generic32.logits.h5
predict F generic32.logits.h5 --scores
predict F img.h5 --split test --top 2 --format json
convert F out.csv --split S
plot confusion F -o out.png
info F
""",
}
LINES_PER_CASE = 5
FILE = "changed.h5"
OUTPUTS = (
    "out.h5",
    "out.npz",
    "out.npy",
    "out.parquet",
    "out.csv",
    "out.png",
    "report.md",
    "back.h5",
)


class FeatureFiles:
    """Judges cases: each changes one file of a small results folder and uses it."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.runner = Runner(server, folder)
        self.folder = folder
        names = seeds.write_results(self.runner, seeds.RESULTS + seeds.MORE_RESULTS + seeds.KEPT)
        self.originals = {name: Content.read(folder / name) for name in names}
        groups = "".join(f"{name}\tgroup {name > 'd'}\n" for name in seeds.CLASSES)
        (folder / "groups.tsv").write_text(groups)
        (folder / "results").mkdir()
        (folder / "base").mkdir()
        for name in names:
            os.link(folder / name, folder / "base" / name)

    def __call__(self, case: int) -> str:
        rng = random.Random(case)
        name = rng.choice(list(self.originals))
        try:
            changed, mutations = content.mutate(self.originals[name], rng)
            changed.write(self.folder / FILE)
        except content.IMPOSSIBLE:
            return "impossible"
        kind = self.originals[name].attributes["kind"]
        ended, problem = self.runner.judge("info", FILE, "--format", "json")
        problem = problem or _find_bad_json(ended)
        if problem:
            return f"{problem}: info"
        if ended.exit_code:
            kind = rng.choice(list(COMMANDS))
        self._fill_results(name)
        lines = (COMMANDS[kind] + EVERY_KIND).splitlines()
        for line in rng.sample(lines, 2 if ended.exit_code else LINES_PER_CASE):
            problem = self._judge(line, changed, rng, info=ended)
            if problem:
                return f"{problem}: {line}, {name}, {' '.join(mutations)}"
        return "refused" if ended.exit_code else "used"

    def _fill_results(self, name: str) -> None:
        """Put the changed file in the place of the original, with the files of its prompt set."""
        for path in (self.folder / "results").iterdir():
            path.unlink()
        os.link(self.folder / FILE, self.folder / "results" / name)
        for other in self.originals:
            if other != name and (other == "img.h5" or _prompt_set(other) == _prompt_set(name)):
                os.link(self.folder / other, self.folder / "results" / other)

    def _judge(self, line: str, changed: Content, rng: random.Random, info: Outcome) -> str:
        for output in OUTPUTS:
            (self.folder / output).unlink(missing_ok=True)
        split = rng.choice([*changed.splits(), "test"])
        names = {"F": FILE, "S": split}
        words = [names.get(word, word) for word in shlex.split(line)]
        ended, problem = self.runner.judge(*words, fake=True)
        written = [name for name in OUTPUTS if (self.folder / name).exists()]
        if problem or ended.exit_code:
            return problem or ("OUTPUT OF A FAILED COMMAND" if written else "")
        if info.exit_code:
            # NaN in features is met only by a command that reads them, and a report reads others
            is_read = "expected finite values" not in info.stderr and words[0] != "report"
            return "USED A FILE THAT INFO REFUSES" if is_read else ""
        if "json" in words:
            return _find_bad_json(ended)
        if "report" in words or "info" in words:
            page = self.folder / "report.md"
            text = page.read_text() if page.exists() else ended.stdout.decode()
            if CONTROL.search(text):
                return "CONTROL CHARACTER"
            return "HEADING" if re.search(f"^{content.PLANTED}", text, re.M) else ""
        for name in written:
            problem = self._find_bad_output(words, name)
            if problem:
                return problem
        return ""

    def _find_bad_output(self, words: list[str], name: str) -> str:
        path = self.folder / name
        source = read(self.folder / FILE)
        if name == "out.png":
            with Image.open(path) as image:
                return "" if max(image.size) < 20_000 else f"PICTURE of {image.size}"
        if name == "out.csv":
            return _find_bad_csv(path, source)
        if name == "out.h5":
            try:
                written = read(path)
                if words[0] == "predict":  # its result is of the other file's rows
                    return ""
                return find_other_result(words, source, written, self.folder)
            except ClipkitError as error:
                return f"UNREADABLE {error.message[:100]}"
        if source.is_result or name == "out.npy":
            return ""
        ended, problem = self.runner.judge("convert", name, "back.h5")
        if problem or ended.exit_code:
            return problem or f"UNREADABLE {ended.stderr[:200]}"
        back = read(self.folder / "back.h5")
        if "--split" in words:
            split = words[words.index("--split") + 1]
            source.splits = {split: source.splits[split]}
        back.history = source.history
        return "" if seeds.same(back, source) else "OTHER DATA"


def _prompt_set(name: str) -> str:
    """Return 99 of `generic99.logits.svm.h5` and of `random99-42.svm.h5`, img of `img.svm.h5`."""
    first = re.split(r"[.-]", name)[0]
    return first.removeprefix("generic").removeprefix("random")


def _find_bad_json(ended: Outcome) -> str:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        if not ended.exit_code:
            json.loads(ended.stdout, parse_constant=refuse)
    except ValueError as error:
        return f"BAD JSON {error}"
    return ""


def _find_bad_csv(path: Path, source: FeatureFile) -> str:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    if {len(row) for row in rows} != {len(rows[0])}:
        return "CSV WITH ROWS OF UNEQUAL LENGTHS"
    expected = sum(np.size(split.predicted) for split in source.splits.values())
    if source.splits and len(rows) - 1 != expected and path.name == "out.csv":
        known = [np.size(split.predicted) for split in source.splits.values()]
        return "" if len(rows) - 1 in known else f"CSV OF {len(rows) - 1} ROWS"
    ids = {id for split in source.splits.values() for id in split.ids}
    if source.splits and not {row[1] for row in rows[1:]} <= ids:
        return "CSV WITH OTHER IDS"
    return ""


# what a result must be, computed anew


def find_other_result(
    words: list[str], source: FeatureFile, result: FeatureFile, folder: Path
) -> str:
    """Return what is wrong with a command's feature file, or ""."""
    command = words[0]
    if result.history[: len(source.history)] != source.history and command not in (
        "textembed",
        "logits",
    ):
        return "OTHER HISTORY"
    if command == "textembed":
        return "" if result.class_names == source.class_names else "OTHER CLASSES"
    for name, split in result.splits.items():
        if name not in source.splits:
            continue
        other = source.splits[name]
        if len(split) == len(other) and split.ids != other.ids:
            return "OTHER IDS"
        if len(split) == len(other) and not np.array_equal(split.labels, other.labels):
            return "OTHER LABELS"
    if command == "logits" and source.kind == "images" and "--random" not in words:
        return _find_other_cosines(words, source, result, folder)
    if command == "zeroshot":
        return _find_other_predictions(source, result)
    if command == "entropy" and "--link" not in words:
        return _find_other_entropy(source, result)
    return ""


def _unit(rows: Any) -> Any:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _find_other_cosines(
    words: list[str], source: FeatureFile, result: FeatureFile, folder: Path
) -> str:
    if "--whiten" in words:
        return ""
    texts = _unit(read(folder / words[2]).features)
    for name, split in source.splits.items():
        got = np.asarray(result.splits[name].features, np.float64) * result.temperature
        if not np.allclose(got, _unit(split.features) @ texts.T, rtol=1e-4, atol=1e-5):
            return "OTHER COSINES"
    return ""


def _find_other_predictions(source: FeatureFile, result: FeatureFile) -> str:
    classes = np.asarray(source.class_index)
    for name, split in result.splits.items():
        cosines = np.asarray(source.splits[name].features, np.float64)[:, classes >= 0]
        best = cosines.max(axis=1)
        for predicted in np.asarray(split.predicted):
            is_of = classes[classes >= 0][None] == predicted[:, None]
            if not np.array_equal(np.where(is_of, cosines, -np.inf).max(axis=1), best):
                return "OTHER PREDICTIONS"
    return ""


def _find_other_entropy(source: FeatureFile, result: FeatureFile) -> str:
    from scipy.special import softmax
    from scipy.stats import entropy

    for row in result.rows():
        cosines = np.asarray(source.splits[row["split"]].features, np.float64)
        cosines = cosines * float(source.temperature or 1)
        with np.errstate(all="ignore"):
            expected = entropy(softmax(cosines / row["temperature"], axis=1), axis=1).mean()
        if not np.isclose(row["mean_entropy"], expected, rtol=1e-3, atol=1e-4):
            return f"OTHER ENTROPY {row['mean_entropy']} {expected}"
    return ""
