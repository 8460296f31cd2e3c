"""How flat the probabilities of prompts are: what `clipkit entropy` reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console
from clipkit.base.errors import UsageError, check_positive
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile
from clipkit.statistics import links
from clipkit.statistics.links import Link
from clipkit.statistics.softmax import CACHE_ROWS, mean_entropy_and_confidence


def choose_link(logits: FeatureFile, temperatures: Sequence[str]) -> str:
    """Return the model's own link if its temperature is asked for, as `model`, else softmax.

    Raises
    ------
    UsageError
        If the model's own link is another one and other temperatures are asked for too.
    """
    own = links.own_link(logits)
    if "model" not in temperatures or own.name == links.DEFAULT:
        return links.DEFAULT
    if set(temperatures) != {"model"}:
        raise UsageError(
            f"{logits.display_name}: expected -t model alone or --link, since the model's own "
            f"probabilities are {own.plural}, got -t {','.join(temperatures)}",
            f"add --link {links.DEFAULT} or --link {own.name}",
        )
    console.note(f"the model's own probabilities are {own.plural} (--link {own.name})")
    return own.name


@checked
def entropy_summary(
    logits: Features,
    temperatures: Several[float],
    link: str = links.DEFAULT,
    splits: Several[str] | None = None,
) -> FeatureFile:
    """Summarise how flat the softmax over the prompts is: what `clipkit entropy` reports.

    Parameters
    ----------
    logits : Features
        Of kind logits.
    temperatures : float or sequence of float
        Absolute temperatures, whatever temperature the logits were stored at.
    link : str
        What turns logits into probabilities, "softmax" or "sigmoid", a name of `links.LINKS`.
        `sigmoid` adds the bias that the model learned. See `mean_entropy_and_confidence`.
    splits : str or sequence of str, optional
        All by default.

    Returns
    -------
    FeatureFile
        A result with one run per split and temperature: `split`, `temperature`, `mean_entropy`
        (nats), `max_entropy` (ln K, of K equal logits; ln 2 for sigmoids), `mean_confidence`.

    Raises
    ------
    UsageError
        If a temperature is out of range, there is no such split, the link is not known, or it is
        `sigmoid` and the model learned no bias.
    """
    logits = as_file(logits, "logits")
    temperatures = as_list(temperatures, "temperatures", float)
    splits = as_list(splits, "splits", str)
    function = _check_settings(logits, temperatures, link)
    logits, names = choose_splits(logits, splits)
    rows = []
    for name in names:
        cosines = logits.cosines(name)
        pairs = mean_entropy_and_confidence(cosines, temperatures, function)
        max_entropy = function.max_entropy(cosines.shape[1])
        for tau, (mean_entropy, mean_confidence) in zip(temperatures, pairs, strict=True):
            row = {"split": name, "temperature": tau, "mean_entropy": mean_entropy}
            row |= {"max_entropy": max_entropy, "mean_confidence": mean_confidence}
            rows.append(row)
    history = logits.extended_history(
        "entropy",
        temperature=list(temperatures),
        link=function.in_history,
        splits=names if splits else None,
        inputs={"logits": logits.digest},
    )
    result = FeatureFile("result", history)
    result.set_rows(rows)
    return result


def entropy_per_image(
    logits: FeatureFile,
    temperatures: Sequence[float],
    link: str = links.DEFAULT,
    splits: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return the entropy of each image: what `clipkit entropy --per-image` prints.

    `entropy_summary` describes parameters and errors.

    Returns
    -------
    list of dict
        One per split, temperature and image: `split`, `id`, `temperature`, `entropy` (nats),
        `confidence`, the largest probability, and `prompt`, which has it.
    """
    function = _check_settings(logits, temperatures, link)
    texts = logits.texts or []
    logits, names = choose_splits(logits, splits)
    rows = []
    for name in names:
        values: list[list[NDArray[Any]]] = [[] for _ in temperatures]
        prompts: list[str] = []
        for block in logits.cosines(name).iter_rows(CACHE_ROWS):
            prompts += [texts[number] for number in block.argmax(axis=1)]
            prepared = function.prepare(block)
            for blocks, tau in zip(values, temperatures, strict=True):
                blocks.append(np.stack(function.entropy_and_confidence(prepared, tau)))
        for blocks, tau in zip(values, temperatures, strict=True):
            pairs = np.concatenate(blocks, axis=1).T.tolist()
            for row_id, prompt, (H, p) in zip(logits.splits[name].ids, prompts, pairs, strict=True):
                row = {"split": name, "id": row_id, "temperature": tau}
                rows.append(row | {"entropy": H, "confidence": p, "prompt": prompt})
    return rows


def _check_settings(logits: FeatureFile, temperatures: Sequence[float], link: str) -> Link:
    """Check the temperatures, and return the link of a name."""
    for tau in temperatures:
        check_positive("temperature", tau)
    return links.find(link, logits)
