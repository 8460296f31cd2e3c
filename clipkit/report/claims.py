"""Check that a result was made as its name says.

The Makefile's rules give the names: `generic32.logits.svm` is an SVM on the logits of generic32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from clipkit.base.errors import ClipkitError
from clipkit.features import History
from clipkit.report.steps import digests

Run = dict[str, Any]
TEMPLATES = ["a photo of a {}"]

# The last part of a probe's name -> the settings of its runs
PROBES: dict[str, Run] = {
    "svm": {"classifier": "svm", "C": 1, "temperature": 1},
    "svm-c": {"classifier": "svm"},
    "logreg": {"classifier": "logreg", "C": 1, "temperature": 1},
    "sweep": {"classifier": "svm", "C": 1},
    "svm-val": {"classifier": "svm", "C": 1},
    "logreg-val": {"classifier": "logreg", "C": 1},
    "mlp-val": {"classifier": "mlp", "C": 1},
    "fewshot": {"classifier": "logreg", "C": 1},
    "c-tau-grid": {"classifier": "svm"},
    "c-tau-grid-probs": {"classifier": "svm"},
    "shots": {"classifier": "logreg", "C": 1},
}
# The last part of a probe's name -> the images per class; all for the others
SHOTS = {"fewshot": 20, "c-tau-grid": 20, "c-tau-grid-probs": 20, "shots": [1, 2, 4, 8, 16]}
VALIDATED = ("svm-c", "svm-val", "logreg-val", "mlp-val", "fewshot")  # on a tenth of the rows


def check_history(
    name: str, history: History, digest_of: Callable[[str], str | None], fit_split: str
) -> None:
    """Refuse a result whose history differs from what its name says.

    Parameters
    ----------
    name : str
        The result's name, such as `img.svm`.
    history : list of dict
    digest_of : callable
        Returns the digest of a file by its name, or None if the folder does not hold it.
    fit_split : str
        The split that probes are fitted on.
    """
    source, _, kind = name.rpartition(".")
    kind, seed = _split_seed(kind)
    command = "probe" if kind in PROBES else kind
    last = history[-1] if history else {"command": "an unknown command"}
    if last["command"] != command:
        raise ClipkitError(f"expected a result of {command}, got one of {last['command']}")
    for file, digest in _inputs(source, history).items():
        if digest_of(file) not in (digest, None):
            raise ClipkitError(
                f"expected a result made from {file}.h5, got one made from another file"
            )
    entries = {entry["command"]: entry for entry in history}
    parameters = _parameters(source, kind, fit_split)
    if seed:
        parameters.append((command, "seed", seed))
    for made_by, parameter, expected in parameters:
        got = dict(entries.get(made_by, {})).get(parameter)
        if str(got) != str(expected):
            raise ClipkitError(f"expected {made_by} with {parameter} {expected}, got {got}")


def _inputs(source: str, history: History) -> dict[str, Any]:
    """Return the files that a result was made from, with the digests that its history has."""
    inputs: dict[str, Any] = {"img": None, source: None}
    for entry in history:
        digest_of = digests(entry)
        if entry["command"] == "logits" and digest_of:
            inputs["img"] = digest_of.get("images")
            inputs[source.partition(".")[0]] = digest_of.get("texts")
    digest_of = digests(history[-1])
    if digest_of:
        inputs[source] = (
            digest_of.get("features") or digest_of.get("logits") or digest_of.get("images")
        )
    return inputs


def _split_seed(kind: str) -> tuple[str, str]:
    """Split `cluster-42` into its command or probe and its seed, or "" if there is none.

    >>> _split_seed("fewshot-42"), _split_seed("svm-val")
    (('fewshot', '42'), ('svm-val', ''))
    """
    match = re.fullmatch(r"(.+)-(\d+)", kind)
    if not match:
        return kind, ""
    return match[1], match[2]


def _parameters(source: str, kind: str, fit_split: str) -> list[tuple[str, str, Any]]:
    """Return (command, parameter, value) that the history must have; None: without a value."""
    parameters: list[tuple[str, str, Any]] = []
    if kind in PROBES:
        features = "probs" if kind.endswith("-probs") else "logits"
        parameters += [
            ("probe", "fit_split", fit_split),
            ("probe", "shots", SHOTS.get(kind)),
            ("probe", "features", features),
        ]
        if kind in VALIDATED:
            parameters.append(("probe", "val", 0.1))
    prompts = re.fullmatch(r"generic(\d+)\.logits", source)
    random = re.fullmatch(r"random(\d+)-(\d+)", source)
    if prompts and kind in PROBES:
        parameters.append(("probe", "prompts", prompts[1]))
    if random:
        parameters += [("logits", "random", random[1]), ("logits", "seed", random[2])]
        if kind == "fewshot":
            parameters.append(("probe", "seed", random[2]))
    if source != "img":
        parameters.append(("logits", "whiten", source.endswith(".whitened") or None))
    if kind == "entropy":
        parameters.append(("entropy", "link", None))
    if kind == "zeroshot":
        parameters.append(("textembed", "templates", TEMPLATES))
    return parameters


def select_runs(name: str, runs: Sequence[Run], n_classes: int) -> list[Run]:
    """Return the runs that agree with their result's name; refuse a result without any."""
    source, _, kind = name.rpartition(".")
    kind, _ = _split_seed(kind)
    expected: Run = {}
    if kind in PROBES:
        expected = PROBES[kind] | {"standardize": source == "img"}
    elif kind == "cluster" and n_classes:
        expected = {"k": n_classes}
    selected = list(runs)
    for column, value in expected.items():
        values = [run.get(column) for run in selected]
        selected = [run for run in selected if run.get(column) == value]
        if not selected:
            got = ", ".join(dict.fromkeys(map(_format, values)))
            raise ClipkitError(f"expected a test run with {column} {_format(value)}, got {got}")
    return selected


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
