"""How flat the softmax over the prompts is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from clipkit.analysis.layout import number
from clipkit.analysis.options import LogitsFile, Splits
from clipkit.analysis.question import Analysis, Answer
from clipkit.analysis.sections import CHANGES
from clipkit.base.options import OUTPUT_PANEL, Temperatures, choice, flag, parse_temperatures
from clipkit.features.columns import (
    ID,
    MAX_ENTROPY,
    MEAN_CONFIDENCE,
    MEAN_ENTROPY,
    NATS,
    NOTHING,
    PROMPT,
    ROWS,
    SHARE,
    TEMPERATURE,
    TEXT,
    Column,
)
from clipkit.statistics import links

if TYPE_CHECKING:
    from clipkit.analysis.question import FeatureFile, Row

FLAT = 0.99  # of the largest entropy
DESCRIPTIONS = ", or from ".join(link.description for link in links.LINKS.values())


def entropy(
    logits: LogitsFile,
    temperature: Temperatures = [],
    link: Annotated[
        str | None,
        choice(
            links.LINKS,
            f"Take probabilities from {DESCRIPTIONS} "
            "(default: softmax; with -t model, the model's own).",
        ),
    ] = None,
    split: Splits = None,
    per_image: Annotated[
        bool,
        flag(
            "--per-image", "Print a row per image, with its likeliest prompt.", panel=OUTPUT_PANEL
        ),
    ] = False,
) -> FeatureFile | Answer:
    """Report mean Shannon entropy (nats) and mean top-1 confidence of softmax(cosine / tau).

    `max_entropy` is ln K, the entropy of K equally likely prompts. Without -t, the command
    uses the file's temperature. With --link sigmoid, for SigLIP, the entropy is the mean of the
    prompts' binary entropies, at most ln 2. A saved result holds the means, also with --per-image.

    Example: clipkit entropy img.h5 txt.h5 -t 1,0.5,0.07,0.03
    """
    from clipkit.features.matching import choose_splits
    from clipkit.features.model import FeatureFile
    from clipkit.statistics.softmax import mean_entropy_and_confidence

    taus = parse_temperatures(temperature, logits.logit_scale) or [logits.default_temperature]
    name = link or _choose_link(logits, temperature)
    function = links.find(name, logits.history, logits.display_name)
    logits, names = choose_splits(logits, split)
    rows = []
    for name in names:
        cosines = logits.cosines(name)
        pairs = mean_entropy_and_confidence(cosines, taus, function)
        max_entropy = function.max_entropy(cosines.shape[1])
        for tau, (mean_entropy, mean_confidence) in zip(taus, pairs, strict=True):
            row = {"split": name, **function.setting, "temperature": tau}
            row |= {"mean_entropy": mean_entropy, "max_entropy": max_entropy}
            rows.append(row | {"mean_confidence": mean_confidence})
    history = logits.extended_history(
        "entropy",
        temperature=taus,
        **function.setting,
        splits=names if split else None,
        inputs={"logits": logits.digest},
    )
    result = FeatureFile("result", history)
    result.set_rows(rows)
    if per_image:
        return Answer(result, list(_per_image(logits, names, taus, function)))
    return result


def _choose_link(logits: FeatureFile, temperatures: Sequence[str]) -> str:
    """Return the model's own link if its temperature is asked for, as `model`, else softmax.

    Raises
    ------
    UsageError
        If the model's own link is another one and other temperatures are asked for too.
    """
    from clipkit.base import console
    from clipkit.base.errors import UsageError

    own = links.own_link(logits.history)
    if "model" not in temperatures or own.name == links.DEFAULT:
        return links.DEFAULT
    if set(temperatures) != {"model"}:
        raise UsageError(
            f"{logits.display_name}: expected -t model alone or --link, since the model's own "
            f"probabilities are {own.plural}, got -t {','.join(map(str, temperatures))}",
            f"add --link {links.DEFAULT} or --link {own.name}",
        )
    console.note(f"the model's own probabilities are {own.plural} (--link {own.name})")
    return own.name


def _per_image(
    logits: FeatureFile, splits: Sequence[str], temperatures: Sequence[float], link: links.Link
) -> Iterator[Row]:
    """Yield a row per split, temperature and image: its entropy, and its likeliest prompt."""
    import numpy as np

    from clipkit.statistics.softmax import CACHE_ROWS

    texts = logits.texts or []
    for name in splits:
        values: list[list[np.ndarray]] = [[] for _ in temperatures]
        prompts: list[str] = []
        for block in logits.cosines(name).iter_rows(CACHE_ROWS):
            prompts += [texts[number] for number in block.argmax(axis=1)]
            prepared = link.prepare(block)
            for blocks, tau in zip(values, temperatures, strict=True):
                blocks.append(np.stack(link.entropy_and_confidence(prepared, tau)))
        for blocks, tau in zip(values, temperatures, strict=True):
            pairs = np.concatenate(blocks, axis=1).T.tolist()
            for row_id, prompt, (H, p) in zip(logits.splits[name].ids, prompts, pairs, strict=True):
                row = {"split": name, "id": row_id, **link.setting, "temperature": tau}
                yield row | {"entropy": H, "confidence": p, "prompt": prompt}


COLUMNS = (
    Column("link", TEXT, NOTHING),
    TEMPERATURE,
    PROMPT,
    MEAN_ENTROPY,
    MAX_ENTROPY,
    MEAN_CONFIDENCE,
    Column("entropy", NATS, ROWS),
    Column("confidence", SHARE, ROWS),
    ID,
)


def _find(result: FeatureFile) -> list[str]:
    """Say at which temperatures the softmax says nothing about an image, and what to do."""
    shares: dict[float, list[float]] = {}
    for row in result.rows():
        share = number(row, "mean_entropy") / number(row, "max_entropy")
        shares.setdefault(number(row, "temperature"), []).append(share)
    flat = {tau: min(of_splits) for tau, of_splits in shares.items() if min(of_splits) > FLAT}
    if not flat:
        return []
    said = " and ".join(f"τ {tau:g} ({100 * share:.1f} %)" for tau, share in flat.items())
    return [
        f"The entropy is at least {100 * FLAT:g} % of the largest at {said}: hardly any prompt is "
        "likelier than another; -t model takes the model's own temperature"
    ]


ANALYSIS = Analysis(
    "entropy",
    "How flat is the softmax over the prompts?",
    entropy,
    columns=COLUMNS,
    findings=_find,
    needs="temperature mean_entropy max_entropy",
    section=CHANGES,
)
