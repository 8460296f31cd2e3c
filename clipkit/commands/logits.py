"""`clipkit logits`: cosine similarities of images with prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands import Force, Output, Seed, entry, model_of, temperatures
from clipkit.errors import ClipkitError, UsageError

if TYPE_CHECKING:
    from clipkit.store import FeatureFile, History
    from clipkit.store.schema import Float32, Int64


def logits(
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="Feature file of images; - is standard input.")
    ],
    texts: Annotated[
        str,
        typer.Argument(
            metavar="[TEXTS]", help="Feature file of texts; standard input if left out."
        ),
    ] = "-",
    output: Output = "-",
    temperature: Annotated[
        str, typer.Option("--temperature", "-t", metavar="TAU", help="Divides the cosine.")
    ] = "1",
    random: Annotated[
        int | None,
        typer.Option(
            "--random",
            metavar="K",
            min=1,
            help="K random directions in place of TEXTS: a set's control.",
        ),
    ] = None,
    seed: Seed = 42,
    force: Force = False,
) -> None:
    """Cosine similarity of every image with every prompt, divided by a temperature.

    Both sides are normalised. They must come from one model. With --random the directions are drawn evenly over the
    sphere, and say nothing: what a probe reads from K of them, K prompts need not have brought.

    Example: clipkit logits img.h5 txt.h5 -o logits.h5
    """
    from clipkit import files, store

    if random is not None and texts != "-":
        raise UsageError(
            f"either TEXTS or --random gives the directions; got {texts} and --random {random}"
        )
    if images == texts == "-" and random is None:
        raise UsageError("only one of IMAGES and TEXTS can be standard input")
    files.check_output(output, force=force)
    with store.opened(images, kinds=["images"]) as source:
        prompts = (
            store.read(texts, kinds=["texts"]) if random is None else _random(source, random, seed)
        )
        scale = _one_model(images, source.history, texts, prompts.history or source.history)
        (tau,) = _single(temperatures([temperature], scale))
        result = multiply(source, prompts, tau)
        result.logit_scale = scale
        drawn = {} if random is None else {"random": random, "seed": seed}
        inputs = {"images": source.digest} | ({"texts": prompts.digest} if random is None else {})
        result.history = [
            *source.history,
            *prompts.history,
            entry("logits", temperature=tau, inputs=inputs, **drawn),
        ]
        store.write(output, result, force=force)


def _random(images: FeatureFile, count: int, seed: int) -> FeatureFile:
    """Directions of the images' space in the place of prompts."""
    import numpy as np

    from clipkit import scores, store

    (width,) = {split.features.shape[1] for split in images.splits.values()}
    return store.FeatureFile(
        "texts",
        features=scores.random_directions(count, width, seed),
        texts=[f"random direction {i}" for i in range(count)],
        class_index=np.full(count, -1),
    )


def multiply(images: FeatureFile, prompts: FeatureFile, temperature: float) -> FeatureFile:
    """The logits file of images and prompts, its features still to be computed block by block."""
    import numpy as np

    from clipkit import scores, store

    directions = scores.normalize(prompts.features).astype(np.float32)
    width = directions.shape[1]

    def rows(features: Any) -> store.Rows:
        features = store.Rows.of(features)
        if features.shape[1] != width:
            raise ClipkitError(
                f"images and texts must have one dimension; got {features.shape[1]} and {width}"
            )

        def blocks() -> Iterator[Float32]:
            for block in features.blocks():
                cosines = np.asarray(scores.normalize(block) @ directions.T, np.float32)  # (B, K)
                yield np.divide(cosines, np.float32(temperature), out=cosines)

        return store.Rows((features.shape[0], len(directions)), blocks)

    splits = {n: store.Split(rows(s.features), s.labels, s.ids) for n, s in images.splits.items()}
    return store.FeatureFile(
        "logits",
        splits=splits,
        texts=prompts.texts,
        class_index=_align(images, prompts),
        class_names=images.class_names or prompts.class_names,
        temperature=temperature,
    )


def _single(values: list[float]) -> list[float]:
    if len(values) != 1:
        raise UsageError(
            f"logits are written at one temperature; got {len(values)}",
            "entropy and probe take several",
        )
    return values


def _one_model(images: str, of_images: History, texts: str, of_texts: History) -> float | None:
    """Hold both sides to one model, by digest of the weights or, where one has none, by name; gives its logit scale."""
    a, b = model_of(of_images), model_of(of_texts)
    if a is None or b is None:
        file = _name(images if a is None else texts)
        raise ClipkitError(
            f"{file} must say which model made it; it does not",
            "clipkit convert --model NAME says so",
        )
    key = "digest" if a.get("digest") and b.get("digest") else "name"
    if a.get(key) != b.get(key) or a.get("untrained") != b.get("untrained"):
        raise ClipkitError(
            f"{_name(images)} and {_name(texts)} must come from one model; got {_shown(a)} and {_shown(b)}",
            "embed one of them again",
        )
    return a.get("logit_scale", b.get("logit_scale"))


def _name(source: str) -> str:
    return "standard input" if source == "-" else source


def _shown(model: dict[str, Any]) -> str:
    seed = model.get("untrained")
    return f"{model['name']}{'' if seed is None else f' untrained {seed}'} ({str(model.get('digest'))[:15]})"


def _align(images: FeatureFile, prompts: FeatureFile) -> Int64 | None:
    """The prompts' class indices in the images' numbering; -1 for all where the prompts name other classes."""
    import numpy as np

    if (
        not (prompts.class_names and images.class_names)
        or prompts.class_names == images.class_names
    ):
        return prompts.class_index
    if sorted(prompts.class_names) == sorted(images.class_names):
        number = np.array([images.class_names.index(name) for name in prompts.class_names])
        index = np.asarray(prompts.class_index)
        return np.where(index < 0, -1, number[index])
    other = next(
        name
        for name in [*prompts.class_names, *images.class_names]
        if (name in prompts.class_names) != (name in images.class_names)
    )
    console.warn(
        f"the prompts name other classes than the images ({other!r}, say): they serve as features, not for zeroshot"
    )
    return np.full(len(prompts.texts or []), -1)
