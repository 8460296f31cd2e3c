"""Make the tables and pictures of docs/thesis.md again from the results of the thesis on `shapes`.

`make thesis-page` runs the thesis with `tiny` on `shapes`, and then this file. The table of
resolutions stays, since another command makes it. Sentences stay, too. They quote numbers of the
tables and of the report: compare them with `git diff docs/thesis.md`.

    python docs/thesis_page.py results
"""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.analysis import find
from clipkit.features import read, similarity
from clipkit.features.columns import columns_of_command

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "thesis.md"
TABLE = re.compile(r"^\|.+\n\|[-:|]+\n(?:\|.+\n)*", re.MULTILINE)
PICTURE = re.compile(r"\]\((images/thesis/tiny-shapes/(\S+))\)")
SEEDS = (42, 1, 2, 3, 4)
PROMPTS = (16, 32, 99, 205, 415)
TAUS = (1, 0.5, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005)
ATTRIBUTES = "outline colour noise background grey contour y blur backdrop"
COLUMNS = ("chance", "zeroshot", "random", "probe", "control", "reach")

Row = dict[str, Any]


class Results:
    """The results in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, name: str) -> list[Row]:
        """Return the runs of a result on the test split."""
        rows = read(self.folder / f"{name}.h5").rows()
        return [row for row in rows if row.get("eval_split", row.get("split", "test")) == "test"]

    def last(self, name: str) -> Row:
        """Return the last run: the chosen one, if there were several."""
        return self.rows(name)[-1]

    def accuracies(self, name: str) -> np.ndarray:
        """Return the accuracy in percent with each seed, which ends the name of a file."""
        return np.array([100 * self.last(f"{name}-{seed}")["acc1"] for seed in SEEDS])

    def effective_rank(self, n: int) -> float:
        """Return the effective rank of a set of prompts."""
        prompts = read(self.folder / f"generic{n}.h5").features
        return similarity.effective_rank(similarity.singular_values(prompts))


def accuracy(row: Row) -> str:
    """Format an accuracy in percent with its interval."""
    return _range(*(100 * row[name] for name in ("acc1", "acc1_low", "acc1_high")))


def _range(value: float, low: float, high: float, form: str = ".2f") -> str:
    return f"{value:{form}} ({low:{form}}–{high:{form}})"


def spread(values: Sequence[float] | np.ndarray, value: float, form: str = ".2f") -> str:
    """Format a value with the lowest and the highest of several."""
    return _range(value, min(values), max(values), form)


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """Format the mean of a - b in points, with the lowest and the highest."""
    points = a - b
    return f"{points.mean():+.2f} ({points.min():+.2f} to {points.max():+.2f})"


def chosen(row: Row, name: str, symbol: str) -> str:
    """Format an accuracy and the setting that was chosen."""
    return f"{accuracy(row)}, {symbol} {row[name]:g}"


# The tables: each function returns the rows without the header, and most without the labels


def baseline(*results: Results) -> list[list[str]]:
    """Make the table of chapter 2: probes on embeddings, and zero-shot."""
    names = ("img.svm", "img.svm-c", "img.logreg", "classes.logits.zeroshot")
    lines = [[accuracy(of.last(name)) for of in results] for name in names]
    lines[1] = [chosen(of.last("img.svm-c"), "C", "C") for of in results]
    return lines


def generic(*results: Results) -> list[list[str]]:
    """Make the table of chapter 3: accuracies on prompts, and the entropy at tau 1."""
    names = [f"generic{name}" for name in ("32.logits.svm", "32.logits.logreg", "16.logits.svm")]
    lines = [[accuracy(of.last(name)) for of in results] for name in names]
    entropies = [of.rows("generic32.logits.entropy")[0]["mean_entropy"] for of in results]
    return [*lines, [f"{entropy:.4f}" for entropy in entropies]]


def temperatures(*results: Results) -> list[list[str]]:
    """Make the table of temperatures. The control lacks the lowest one."""
    lines = []
    sweeps = [of.rows("generic32.logits.sweep") for of in results]
    for tau in TAUS:
        at = [next((row for row in rows if row["temperature"] == tau), None) for rows in sweeps]
        cells = [accuracy(row) if row else "" for row in at]
        lines.append([*cells, *(f"{row['mean_entropy']:.4f}" if row else "" for row in at)])
    return lines


def grids(trained: Results, _: Results) -> list[list[str]]:
    """Make the table of the grids over tau and C."""
    lines = []
    for name in ("c-tau-grid", "c-tau-grid-probs"):
        by_ratio: dict[float, list[float]] = {}
        for row in trained.rows(f"generic32.logits.{name}"):
            ratio = row["C"] / row["temperature"] ** 2
            by_ratio.setdefault(ratio, []).append(100 * row["acc1"])
        values = [value for line in by_ratio.values() for value in line]
        largest = max(max(line) - min(line) for line in by_ratio.values())
        lines.append([f"{min(values):.2f}–{max(values):.2f}", f"{largest:.2f}"])
    return lines


def classifiers(*results: Results) -> list[list[str]]:
    """Make the table of classifiers, each with its chosen setting."""
    settings = {"svm-val": "temperature", "logreg-val": "temperature", "mlp-val": "C"}
    lines = []
    for name, setting in settings.items():
        symbol = "C" if setting == "C" else "τ"
        rows = [of.last(f"generic32.logits.{name}") for of in results]
        lines.append([chosen(row, setting, symbol) for row in rows])
    return lines


def vocabularies(*results: Results) -> list[list[str]]:
    """Make the table of prompt sets beside random directions."""
    lines = []
    for n in PROMPTS:
        cells = [f"{results[0].effective_rank(n):.1f}"]
        for of in results:
            random = of.accuracies(f"random{n}.svm")
            prompts = accuracy(of.last(f"generic{n}.logits.svm"))
            cells += [prompts, spread(random, random.mean())]
        lines.append(cells)
    return lines


def few_shots(trained: Results, control: Results) -> list[list[str]]:
    """Make the table of few shots. Salads are not whitened."""
    lines = []
    sets = [(trained, n, "generic") for n in PROMPTS]
    sets.insert(2, (trained, 32, "salad"))
    sets += [(control, 32, "generic"), (control, 32, "salad"), (control, 415, "generic")]
    for of, n, kind in sets:
        random = of.accuracies(f"random{n}.fewshot")
        if kind == "salad":
            plain = of.accuracies(f"salad{n}.fewshot")
            whitened, gap = "", ""
        else:
            plain = of.accuracies(f"generic{n}.logits.fewshot")
            white = of.accuracies(f"generic{n}.whitened.fewshot")
            whitened, gap = f"{white.mean():.2f}", difference(random, white)
        means = [f"{plain.mean():.2f}", whitened, f"{random.mean():.2f}"]
        lines.append([*means, difference(random, plain), gap])
    return lines


def clusters(*results: Results) -> list[list[str]]:
    """Make the table of clusters. SD is the largest of the seeds."""
    lines = []
    for of in results:
        for name in ("img", "generic32.logits", "generic415.logits"):
            rows = [of.last(f"{name}.cluster-{seed}") for seed in SEEDS]
            values = {key: [row[key] for row in rows] for key in rows[0]}
            purity, ami, ari = (
                spread(values[key], values[key][0], ".4f") for key in ("purity", "ami", "ari")
            )
            ami_sd, ari_sd = (f"{max(values[key]):.4f}" for key in ("ami_sd", "ari_sd"))
            chance = f"{values['purity_chance'][0]:.4f}"
            lines.append([purity, chance, ami, ami_sd, ari, ari_sd])
    return lines


def attributes(trained: Results, _: Results) -> list[list[str]]:
    """Make the table of attributes, some of those measured."""
    rows = find("attributes").layout.show(
        trained.rows("img.attributes"), columns_of_command("attributes")
    )
    measured = {row["attribute"]: row for row in rows}
    shares = {row["attribute"]: row for row in trained.rows("img.variance")}
    lines = []
    for name in ATTRIBUTES.split():
        cells = [measured[name][column] for column in COLUMNS]
        of_variance = [shares[name][key] for key in ("share", "control_share")]
        lines.append([*cells, *(f"{100 * share:.2f}" for share in of_variance)])
    return lines


def calibration(*results: Results) -> list[list[str]]:
    """Make the table of the softmax over the classes, with its labels."""
    lines = []
    for of in results:
        for row in of.rows("classes.logits.calibrate"):
            label = f"τ {row['temperature']:.4g}"
            if row["fitted"]:
                interval = f"{row['low']:.4g}–{row['high']:.4g}"
                if math.isnan(row["high"]):  # the interval has no end
                    interval = f"{row['low']:.4g} or more"
                label += f", fitted ({interval})"
            label += ", untrained" if of is not results[0] else ""
            errors = [f"{100 * row[name]:.2f}" for name in ("ece", "ece_null", "ece_null95")]
            lines.append([label, f"{row['information']:.3f}", *errors])
    return lines


def shots(*results: Results) -> list[list[str]]:
    """Make the table of images per class."""
    lines = []
    for n in (1, 2, 4, 8, 16):
        cells = []
        for of in results:
            rows = [row for row in of.rows("img.shots") if row["shots"] == n]
            values = [100 * row["acc1"] for row in rows]
            cells.append(spread(values, float(np.mean(values))))
        lines.append(cells)
    return lines


# What makes each table of the page, in order. Another command makes the table of resolutions.
MAKERS: tuple[Callable[..., list[list[str]]] | None, ...] = (
    *(baseline, generic, temperatures, grids, classifiers, vocabularies, few_shots),
    None,
    *(clusters, attributes, calibration, shots),
)


def remake(table: str, rows: list[list[str]]) -> str:
    """Return a table with other cells. First cells stay for which there are none, as labels do."""
    header, rule, *lines = (line.strip("|").split("|") for line in table.splitlines())
    cells = [[cell.strip() for cell in header]]
    for line, row in zip(lines, rows, strict=True):
        labels = [cell.strip() for cell in line[: len(line) - len(row)]]
        cells.append(labels + row)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    ends = [mark.endswith(":") for mark in rule]
    marks = ["-" * (width + 1) + "-:"[end] for width, end in zip(widths, ends, strict=True)]
    padded = [f"|{'|'.join(marks)}|"]
    for row in cells:
        pairs = zip(row, widths, ends, strict=True)
        texts = [cell.rjust(width) if end else cell.ljust(width) for cell, width, end in pairs]
        padded.append(f"| {' | '.join(texts)} |")
    return "\n".join([padded[1], padded[0], *padded[2:]]) + "\n"


def tables() -> list[str]:
    """Return the tables of the page."""
    return TABLE.findall(PAGE.read_text())


def remake_page(text: str, trained: Results, control: Results) -> str:
    """Return the page with the numbers of results in its tables."""
    makers = iter(MAKERS)

    def again(match: re.Match[str]) -> str:
        make = next(makers)
        return match[0] if make is None else remake(match[0], make(trained, control))

    text = TABLE.sub(again, text)
    if next(makers, None) is not None:
        raise SystemExit(f"{PAGE}: expected {len(MAKERS)} tables, got fewer")
    return text


def main() -> None:
    """Make the page again from the folder of results that the command line names."""
    folders = [Path(sys.argv[1]) / name for name in ("tiny-shapes", "tiny-untrained7-shapes")]
    text = remake_page(PAGE.read_text(), *map(Results, folders))
    for link, name in PICTURE.findall(text):
        shutil.copyfile(folders[0] / name, ROOT / "docs" / link)
    PAGE.write_text(text)
    print("Compare the sentences with the tables and the report: git diff docs/thesis.md")


if __name__ == "__main__":
    main()
