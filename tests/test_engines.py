"""Engines: the embeddings of a shard depend on its images, the model and the batch size alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipkit import models
from clipkit.datasets import ImageDataset, load
from clipkit.embedding.engines import Encoded, LocalEngine, ShardImages
from clipkit.errors import ImageError


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load("digits", splits=["test"], limit=40).splits["test"]


@pytest.fixture(scope="module")
def encoder() -> Any:
    return models.load("tiny", tower="image")


def encode(engine: LocalEngine, images: ImageDataset, *shards: range) -> list[Encoded]:
    tasks = [ShardImages(n, "test", images, rows) for n, rows in enumerate(shards)]
    return list(engine.encode(tasks, lambda *_: None))


def test_a_shard_alone_has_the_embeddings_that_it_has_among_others(
    encoder: Any, digits: ImageDataset
) -> None:
    shards = [range(0, 15), range(15, 30), range(30, 40)]
    together = encode(LocalEngine(encoder, 4, 3), digits, *shards)
    backwards = encode(LocalEngine(encoder, 4, 1), digits, *reversed(shards))
    for rows, first, second in zip(shards, together, reversed(backwards), strict=True):
        (alone,) = encode(LocalEngine(encoder, 4, 2), digits, rows)
        assert first.rows == second.rows == alone.rows == list(rows)
        assert first.embeddings.tobytes() == alone.embeddings.tobytes()
        assert second.embeddings.tobytes() == alone.embeddings.tobytes()


def test_only_the_rows_of_a_shard_are_needed(encoder: Any, digits: ImageDataset) -> None:
    rows = np.arange(15, 30)
    taken = ImageDataset([digits.ids[row] for row in rows], None, digits.source.take(rows))
    engine = LocalEngine(encoder, 4, 2)
    (of_all,) = encode(engine, digits, range(15, 30))
    (of_rows,) = encode(engine, taken, range(15))
    assert of_all.embeddings.tobytes() == of_rows.embeddings.tobytes()


class Damaged:
    """Images of which the first four cannot be used."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def image(self, i: int) -> Any:
        if i < 4:
            raise ImageError(f"{i} is bad")
        return self.images.image(i)


def test_batches_are_reported_and_images_that_cannot_be_used_are_listed(
    encoder: Any, digits: ImageDataset
) -> None:
    images = ImageDataset(digits.ids, None, Damaged(digits))
    reports: list[tuple[int, int]] = []
    shards = [
        ShardImages(0, "test", images, range(0, 4)),
        ShardImages(1, "test", images, range(4, 10)),
    ]
    engine = LocalEngine(encoder, 3, 2)
    empty, full = engine.encode(shards, lambda n, skipped: reports.append((n, len(skipped))))
    assert reports == [(3, 3), (1, 1), (3, 0), (3, 0)]
    assert (empty.rows, empty.embeddings) == ([], None)
    expected = {"split": "test", "id": digits.ids[1], "reason": "1 is bad"}
    assert empty.skipped[1] == expected
    assert full.embeddings.shape == (6, 64)
    assert full.skipped == []


def test_an_error_of_the_report_stops_the_engine(encoder: Any, digits: ImageDataset) -> None:
    def stop(*_: Any) -> None:
        raise ImageError("strict")

    shards = [ShardImages(0, "test", digits, range(40))]
    with pytest.raises(ImageError, match="strict"):
        list(LocalEngine(encoder, 4, 2).encode(shards, stop))
