"""Tell which results of an untrained model are controls of a result.

A control was made in the same way, from the same prompts: only the weights of the model differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkit.analysis.results import newest_entry
from clipkit.features import FeatureFile
from clipkit.report.claims import Run
from clipkit.report.steps import Entry, digests

# Members of an entry of a history that a result and its control need not share, and members of its
# model that they do
NOT_SHARED = ("clipkit", "inputs", "model", "machines", "batch_size", "kept", "caveats")
FEATURES = ("layer", "pool", "norm", "projection")
SETTINGS = ("classifier", "standardize", "shots", "draw")  # of a run
CHOSEN = ("C", "temperature")  # settings, too, unless `probe --val` chose them among several
# Commands whose entries list all that was tried. The chapters try fewer temperatures for a control,
# since an SVM on features without information takes very long at low ones.
WITH_CANDIDATES = ("calibrate", "entropy", "probe")


def features_of(model: Entry) -> list[Any]:
    """Return which features of which architecture an entry of a history names."""
    return [Path(str(model.get("name"))).name, *map(model.get, FEATURES)]


def settings(file: FeatureFile) -> str:
    """Return what a result and its control share: all parameters but the model's weights."""
    return repr([_shared(entry, file.class_names) for entry in file.history])


def run_settings(file: FeatureFile, run: Run) -> list[str]:
    """Return what a run of a result and that of its control share.

    What each chose on validation rows may differ, since `settings` has the way of choosing.
    """
    names = list(SETTINGS)
    if newest_entry(file).get("val") is None:
        names += CHOSEN
    return [str(run.get(name)) for name in names]


def are_prompts_known(file: FeatureFile) -> bool:
    """Whether a history tells from which texts a result was made, if it was made from prompts.

    That of an earlier clipkit has the name of a prompt file alone.
    """
    for entry in file.history:
        is_from_file = entry["command"] == "textembed" and "classes" not in entry
        if is_from_file and not _prompt_digests(entry):
            return False
    return True


def _shared(entry: Entry, class_names: list[str] | None) -> dict[str, Any]:
    """Return what an entry of a history and that of a control share."""
    not_shared = set(NOT_SHARED)
    if entry["command"] in WITH_CANDIDATES:  # each run names what it was made at
        not_shared.update(CHOSEN)
    if entry["command"] == "probe" and not _is_random(entry):
        not_shared.add("seed")
    shared = {key: value for key, value in entry.items() if key not in not_shared}
    model = entry.get("model")
    if isinstance(model, dict):
        shared["model"] = features_of(model)
    if entry["command"] == "textembed":
        shared["prompts of"] = _prompt_digests(entry) or class_names
    return shared


def _prompt_digests(entry: Entry) -> list[str]:
    """Return the digests of prompts that were read from a file; [] if class names make them."""
    if entry.get("classes", "file") != "file":
        return []
    digest_of = digests(entry)
    return [digest_of[role] for role in ("prompts", "classes") if role in digest_of]


def _is_random(probe: Entry) -> bool:
    """Whether the seed of a probe matters: for an MLP, and to draw few shots or validation rows."""
    if probe.get("classifier") == "mlp" or probe.get("shots") is not None:
        return True
    try:
        return float(probe.get("val", "nan")) > 0
    except (TypeError, ValueError):  # the name of a split
        return False
