"""Run the chapters of the thesis on made-up features, and measure every command of clipkit.

The Makefile's own rules run, so that no command is listed here twice. The `clipkit` that they find
is this file: it draws features in place of `embed` and `textembed`, and measures all others. The
features have CIFAR-100's form: 512 columns, five sixths of the rows to fit on, 100 classes that
overlap. With 60,000 rows, a linear SVM is right in 79 % on embeddings, and in 42 % with 32 prompts.
The untrained control has less information, and its embeddings lie in a narrow cone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
COSTS = ROOT / "docs" / "costs.tsv"
GROUPS = ROOT / "prompts" / "groups" / "cifar100-superclasses.tsv"
DIM = 512
CLASSES = [line.split("\t")[0] for line in GROUPS.read_text().splitlines()]
MODEL = "made-up/clip"
ITEMS = 2000
EPOCHS = 5  # of the 200 that MLPClassifier runs at most
ROWS, LOG = "CLIPKIT_BENCH_ROWS", "CLIPKIT_BENCH_LOG"  # variables for the stand-in
Entry = dict[str, Any]  # what the stand-in writes of a command
MADE = ("embed", "textembed")
# Starts at once: it imports nothing but what measures
STAND_IN = """\
#!{python} -SE
import json, os, sys, time
words = sys.argv[1:]
program = [{file!r}] if words[0] in {made} else ["-m", "clipkit", "--quiet"]
start = time.time()
child = os.spawnv(os.P_NOWAIT, {python!r}, [{python!r}, *program, *words])
_, status, usage = os.wait4(child, 0)
code = os.waitstatus_to_exitcode(status)
entry = {{
    "words": words,
    "code": code,
    "seconds": time.time() - start,
    "processor": usage.ru_utime + usage.ru_stime,
    "mebibytes": usage.ru_maxrss / 1024,
}}
with open(os.environ["{log}"], "a") as file:
    file.write(json.dumps(entry) + "\\n")
sys.exit(code)
"""


# ---- Features ------------------------------------------------------------------------------------


class Recipe:
    """Where the classes of a model lie, or of the untrained control of a seed."""

    def __init__(self, untrained: int | None) -> None:
        powers = 1 / np.arange(1, DIM + 1)
        self.spectrum = np.sqrt(powers / powers.mean())
        rng = np.random.default_rng(untrained or 0)
        apart, cone = (0.8, 1.0) if untrained is None else (0.5, 8.0)
        informative = np.arange(DIM) < 30
        normal = rng.standard_normal((len(CLASSES), DIM))
        self.means = apart * normal * self.spectrum * informative
        self.offset = cone * rng.standard_normal(DIM)
        self.text_offset = 0.3 * rng.standard_normal(DIM) + 0.3 * self.offset / cone
        self.details = {
            "name": MODEL,
            "digest": f"sha256:{untrained}",
            "weights": f"sha256:{untrained}",
            "logit_scale": 100.0,
            "dim": DIM,
        }
        if untrained is not None:
            self.details["untrained"] = untrained

    def draw(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw images: (N, D)."""
        noise = rng.standard_normal((len(labels), DIM), np.float32) * self.spectrum
        return self.offset + self.means[labels] + noise

    # what `textembed` asks of an encoder

    def encode_texts(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        """Draw texts: (K, D). The last word may be a class."""
        rows = []
        for text in texts:
            rng = np.random.default_rng(zlib.crc32(text.encode()))
            row = self.text_offset + rng.standard_normal(DIM)
            word = text.split()[-1]
            if word in CLASSES:
                row = self.text_offset + 0.3 * row + self.means[CLASSES.index(word)]
            rows.append(row)
        return np.array(rows, np.float32)

    def cleaned_by_ftfy(self, texts: Sequence[str]) -> None:
        """No text was cleaned."""


def sizes(rows: int) -> dict[str, int]:
    return {"train": rows * 5 // 6, "test": rows // 6}


def scored_images(rows: int) -> list[tuple[str, str]]:
    """Return the id and the class of each image of the split test."""
    labels = labels_of("test", rows)
    return [(f"test{i:07d}", CLASSES[label]) for i, label in enumerate(labels)]


def labels_of(split: str, rows: int) -> np.ndarray:
    count = sizes(rows)[split]
    return np.random.default_rng(count).permutation(count) % len(CLASSES)


def write_images(output: str, rows: int, recipe: Recipe) -> None:
    """Write what `embed` would: the embeddings of all images."""
    from bench import drawn_split

    from clipkit.features import FeatureFile, write

    splits = {}
    for seed, split in enumerate(sizes(rows)):
        labels = labels_of(split, rows)
        ids = [f"{split}{i:07d}" for i in range(len(labels))]
        splits[split] = drawn_split(labels, ids, seed, recipe.draw)
    history = [{"command": "embed", "model": recipe.details}]
    write(output, FeatureFile("images", history, splits, class_names=CLASSES), force=True)


def write_texts(folder: Path, rows: int) -> None:
    """Write a caption of each image, and items with the class of another image."""
    images = scored_images(rows)
    lines = [f"{name}\ta photo of a {label}\n" for name, label in images]
    (folder / "captions.tsv").write_text("".join(["image\tcaption\n", *lines]))
    items = {}
    for row, (name, label) in enumerate(images[:ITEMS]):
        texts = [f"number {row} is a {word}" for word in (label, other_class(label))]
        items[str(row)] = {"filename": name, "caption": texts[0], "negative_caption": texts[1]}
    (folder / "items.json").write_text(json.dumps(items))


def other_class(label: str) -> str:
    return CLASSES[CLASSES.index(label) - 1]


def stand_in(words: list[str]) -> None:
    """Run `embed` or `textembed` without a model."""
    from clipkit import cli, models

    seed = int(words[words.index("--untrained") + 1]) if "--untrained" in words else None
    recipe = Recipe(seed)
    if words[0] == "embed":
        return write_images(words[words.index("-o") + 1], int(os.environ[ROWS]), recipe)
    models.load = lambda *_, **__: recipe
    models.check_name = lambda _: None
    return cli.main()


# ---- The run -------------------------------------------------------------------------------------


def run_chapters(folder: Path, rows: int) -> list[Entry]:
    """Run all chapters in a folder. Return what the stand-in measured of each command."""
    program = folder / "venv" / "bin" / "clipkit"
    program.parent.mkdir(parents=True, exist_ok=True)
    names = {"python": sys.executable, "file": __file__, "made": MADE, "log": LOG}
    program.write_text(STAND_IN.format(**names))
    program.chmod(0o755)
    (folder / "venv" / ".installed").touch()
    write_texts(folder, rows)
    (folder / "cifar100").mkdir()
    settings = {
        "MODEL": MODEL,
        "DATASET": folder / "cifar100",  # an empty folder: no image is looked up
        "RESULTS": folder / "results",
        "VENV": folder / "venv",
        "CAPTIONS": folder / "captions.tsv",
        "ITEMS": folder / "items.json",
    }
    line = ["make", "thesis", "chapter7", *(f"{k}={v}" for k, v in settings.items())]
    log = folder / "log"
    log.touch()
    env = {**os.environ, ROWS: str(rows), LOG: str(log)}
    env.pop("MAKEFLAGS", None)  # that of `make bench` has BENCH, which `make thesis` refuses
    start = time.time()
    subprocess.run(line, cwd=ROOT, env=env, check=True, stdout=sys.stderr)
    print(f"{(time.time() - start) / 60:.1f} minutes, two commands at a time")
    return [json.loads(entry) for entry in log.read_text().splitlines()]


# ---- The report ----------------------------------------------------------------------------------


class Costs:
    """The table of what commands took, which the Makefile reads, too."""

    def __init__(self) -> None:
        self.header, *self.rows = [line.split("\t") for line in COSTS.read_text().splitlines()]

    def kind(self, entry: Entry) -> str:
        """Return the name of the first pattern that a command has."""
        line = " ".join(["clipkit", *entry["words"]])
        return next(name for pattern, name, *_ in self.rows[1:] if re.search(pattern, line))

    def record(self, images: int, seconds: dict[str, float]) -> None:
        """Write the column of a number of images. Kinds that were not measured stay."""
        if str(images) not in self.header:
            raise SystemExit(f"--record: expected --rows of {COSTS.name}, got {images}")
        column = self.header.index(str(images))
        seconds[self.rows[0][1]] = processor_seconds("bash", "-c", self.rows[0][0])
        for row in self.rows:
            if row[1] in seconds:
                row[column] = f"{seconds[row[1]]:.3g}"
        lines = ["\t".join(row) for row in [self.header, *self.rows]]
        COSTS.write_text("\n".join(lines) + "\n")


def processor_seconds(*command: str) -> float:
    """Return what a command takes of a processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seeds_of(entry: Entry) -> int:
    """Return for how many seeds a command ran."""
    words = entry["words"]
    return len(words[words.index("--seed") + 1].split(",")) if "--seed" in words else 1


def report_commands(entries: list[Entry], images: int, record: bool) -> None:
    """Print what the commands of each kind took, as a table in Markdown."""
    costs = Costs()
    kinds: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["words"][0] not in MADE:
            kinds[costs.kind(entry)].append(entry)
    measured = sum(len(members) for members in kinds.values())
    print(f"{measured} commands were measured, in seconds of a processor.")
    print(f"In place of {len(entries) - measured} others (embed, textembed), features were drawn.")
    print("| command | number | seconds of one | of all | MiB |")
    print("|---|---:|---:|---:|---:|")
    per_seed, everything = {}, 0.0
    for name, members in kinds.items():
        seconds = [entry["processor"] for entry in members]
        per_seed[name] = sum(seconds) / sum(map(seeds_of, members))
        everything += sum(seconds)
        memory = max(entry["mebibytes"] for entry in members)
        span = f"{min(seconds):.1f} to {max(seconds):.1f}"
        print(f"| {name} | {len(members)} | {span} | {sum(seconds):.0f} | {memory:.0f} |")
    print(f"| all | {measured} | | {everything:.0f} | |", flush=True)
    if record:
        costs.record(images, per_seed)


# ---- The thesis's own way ------------------------------------------------------------------------


def power_law(work: Callable[[int], Any], rows: int) -> float:
    """Return how long work on these rows takes, from an eighth and a quarter of them."""
    few, more = (timed_seconds(lambda n=n: work(n)) for n in (rows // 8, rows // 4))
    return more * 4 ** math.log2(more / few)


def timed_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def report_own_way(folder: Path) -> None:
    """Time what the thesis ran, on the features of a run. Most of it is extrapolated."""
    from scipy.special import softmax
    from scipy.stats import entropy
    from sklearn.cluster import KMeans
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from clipkit.features import read

    def rows(name: str) -> list[np.ndarray]:
        splits = read(folder / f"{name}.h5").splits
        return [np.array(splits[split].features) for split in ("train", "test")]

    y = read(folder / "img.h5").splits["train"].labels
    embeddings, few, many = map(rows, ("img", "generic32.logits", "generic415.logits"))
    scored = embeddings[1]
    prompts = read(folder / "generic32.h5").features

    def svc(features: list[np.ndarray], *steps: Any, tau: float = 1) -> float:
        X, X_eval = (array / tau for array in features)
        model = make_pipeline(*steps, SVC(kernel="linear", random_state=42))
        return power_law(lambda n: model.fit(X[:n], y[:n]).predict(X_eval[: n // 5]), len(y))

    def mlp() -> float:
        X = StandardScaler().fit_transform(few[0])
        model = MLPClassifier(max_iter=EPOCHS, random_state=42)
        return timed_seconds(lambda: model.fit(X, y)) * 40

    def image_by_image() -> None:
        """Compute cosines with the prompts and the entropy of their softmax."""
        for row in scored:
            cosines = prompts @ row / np.linalg.norm(prompts, axis=1) / np.linalg.norm(row)
            entropy(softmax(cosines))

    kmeans = KMeans(len(CLASSES), random_state=42, n_init=10)
    law = "from an eighth and a quarter of the rows, by a power law"
    print("| the thesis's own way | seconds | |")
    print("|---|---:|---|")
    for name, seconds, how in (
        ("SVC on embeddings", svc(embeddings, StandardScaler()), law),
        ("SVC on 32 prompts", svc(few), law),
        ("SVC on 32 prompts, tau 0.02", svc(few, tau=0.02), law),
        ("SVC on 415 prompts", svc(many), law),
        ("MLPClassifier on 32 prompts", mlp(), f"{EPOCHS} epochs, scaled to {EPOCHS * 40}"),
        ("KMeans of embeddings", timed_seconds(lambda: kmeans.fit(scored)), ""),
        ("cosines and entropy, 32 prompts", timed_seconds(image_by_image), "image by image"),
    ):
        print(f"| {name} | {seconds:.1f} | {how} |", flush=True)


def bench(args: argparse.Namespace, scratch: Path) -> None:
    """Run the chapters and then, on the same features, the thesis's own way."""
    images = args.rows or 60_000
    report_commands(run_chapters(scratch, images), images, args.record)
    report_own_way(scratch / "results" / "clip-cifar100")


if __name__ == "__main__":
    if sys.argv[1] in MADE:
        stand_in(sys.argv[1:])
