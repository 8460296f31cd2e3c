"""The pictures of `clipkit plot` that compare runs or prompt sets: temperature, grid, spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.errors import ClipkitError, UsageError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clipkit.commands.plot import Wish
    from clipkit.features import FeatureFile


def _check_sweep(file: FeatureFile, shown: str) -> None:
    import numpy as np

    runs = file.runs
    if (
        "acc1" not in runs
        or "temperature" not in runs
        or not np.isfinite(runs["temperature"]).all()
    ):
        raise ClipkitError(
            f"{shown} must hold a sweep over temperatures",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.07 -o probe.h5",
        )


def temperature(files: list[FeatureFile], wish: Wish) -> Figure:
    """Accuracy with its 95 % interval against temperature, a curve for each classifier, C and split (or one split)."""
    import numpy as np

    from clipkit import metrics, plots

    sweeps: list[Any] = []
    prompts = set()
    for shown, file in zip(wish.shown, files, strict=True):
        _check_sweep(file, shown)
        runs, made = file.runs, file.history[-1]
        prompts.add(made.get("prompts"))
        keys = list(zip(runs["classifier"], runs["C"], runs["eval_split"], strict=True))
        if wish.split and wish.split not in runs["eval_split"]:
            raise unknown(f"split of {shown}", wish.split, set(runs["eval_split"].tolist()))
        for key in dict.fromkeys(key for key in keys if wish.split in (None, key[2])):
            rows = np.array([i for i, other in enumerate(keys) if other == key])
            label = (
                f"{key[0]}, C {key[1]:g}, {key[2]}" if key[1] == key[1] else f"{key[0]}, {key[2]}"
            )
            label += f" ({made['features']})" if made.get("features") == "probs" else ""
            found = runs["acc1"][rows]
            low, high = np.transpose(
                [metrics.wilson(value, len(file.splits[key[2]])) for value in found]
            )
            entropies = runs["mean_entropy"][rows]
            sweeps.append(
                plots.Sweep(label, runs["temperature"][rows], found, entropies, low, high)
            )
    n_prompts = prompts.pop() if len(prompts) == 1 else None
    return plots.temperature(sweeps, n_prompts, title=wish.title)


def grid(files: list[FeatureFile], wish: Wish) -> Figure:
    """Accuracy over (tau, C), on the split that has the most runs unless one is named."""
    import numpy as np

    from clipkit import plots

    (file,) = files
    _check_sweep(file, wish.shown[0])
    splits, counts = np.unique(file.runs["eval_split"], return_counts=True)
    split = wish.split or str(splits[counts.argmax()])
    if split not in splits:
        raise unknown(f"split of {wish.shown[0]}", split, splits.tolist())
    runs = {name: column[file.runs["eval_split"] == split] for name, column in file.runs.items()}
    taus, Cs = np.unique(runs["temperature"]), np.unique(runs["C"])
    if len(taus) * len(Cs) != len(runs["acc1"]) or min(len(taus), len(Cs)) < 2:
        hint = "make one with: clipkit probe logits.h5 -t 1,0.5,0.25 -C 1,4,16 -o grid.h5"
        raise ClipkitError(
            f"{wish.shown[0]} must hold a grid of temperatures and C on {split}", hint
        )
    accuracy = np.empty((len(Cs), len(taus)))
    accuracy[np.searchsorted(Cs, runs["C"]), np.searchsorted(taus, runs["temperature"])] = runs[
        "acc1"
    ]
    made = file.history[-1]
    features = "softmax(cosine / τ)" if made.get("features") == "probs" else "cosine / τ"
    title = wish.title or f"{runs['classifier'][0]} on {features}, scored on {split}"
    return plots.grid(accuracy, Cs.tolist(), taus.tolist(), title=title)


def spectrum(files: list[FeatureFile], wish: Wish) -> Figure:
    """Singular values of prompt sets, each named after its file."""
    from clipkit import plots, similarity

    names = ["standard input" if shown == "-" else Path(shown).stem for shown in wish.shown]
    if len(set(names)) < len(names):
        raise UsageError(
            f"each prompt set must have a file name of its own; got {', '.join(names)}"
        )
    values: dict[str, Any] = {
        f"{name} ({len(file.texts or [])})": similarity.singular_values(file.features)
        for name, file in zip(names, files, strict=True)
    }
    ranks = {name: similarity.effective_rank(sigma) for name, sigma in values.items()}
    return plots.spectrum(
        values, ranks, title=wish.title or "Singular values of the prompts' directions"
    )
