"""Engines: the embeddings of a shard depend on its images, the model and the batch size alone."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from factories.ray_fakes import write_images

from clipkit import models
from clipkit.datasets import ImageDataset, load
from clipkit.embedding.engines import Encoded, LocalEngine, ShardImages


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load("digits", splits=["test"], limit=40).splits["test"]


@pytest.fixture(scope="module")
def encoder() -> Any:
    return models.load("tiny", tower="image")


def encode(engine: LocalEngine, images: ImageDataset, *shards: range) -> list[Encoded]:
    tasks = [ShardImages(n, "test", images, rows) for n, rows in enumerate(shards)]
    return list(engine.encode(tasks, lambda *_: None))


@pytest.mark.long
def test_a_shard_alone_has_the_embeddings_that_it_has_among_others(encoder, digits):
    shards = [range(0, 15), range(15, 30), range(30, 40)]
    together = encode(LocalEngine(encoder, 4, 3), digits, *shards)
    backwards = encode(LocalEngine(encoder, 4, 1), digits, *reversed(shards))
    for rows, *found in zip(shards, together, reversed(backwards), strict=True):
        (alone,) = encode(LocalEngine(encoder, 4, 2), digits, rows)
        for one in (alone, *found):
            assert one.rows == list(rows)
            assert one.embeddings.tobytes() == alone.embeddings.tobytes()


@pytest.mark.long
def test_only_the_rows_of_a_shard_are_needed(encoder, digits):
    rows = np.arange(15, 30)
    taken = ImageDataset([digits.ids[row] for row in rows], None, digits.source.take(rows))
    engine = LocalEngine(encoder, 4, 2)
    (of_all,) = encode(engine, digits, range(15, 30))
    (of_rows,) = encode(engine, taken, range(15))
    assert of_all.embeddings.tobytes() == of_rows.embeddings.tobytes()


@pytest.mark.parametrize("form", ["rendered", "array", "files", "tar", "parquet"])
@pytest.mark.long
def test_rows_travel_to_another_process_and_no_others_do(form, tmp_path):
    rendered = load("shapes", splits=["test"], limit=300).splits["test"]
    images = rendered
    if form == "array":
        pixels = np.stack([np.asarray(rendered.image(row)) for row in range(300)])
        images = ImageDataset.from_array(pixels, np.zeros(300))
    elif form != "rendered":
        images = write_images([rendered.image(row) for row in range(300)], tmp_path, form)
    images.image(0)  # what was read must not travel
    rows = np.arange(150, 160)
    message = pickle.dumps(images.take(rows))
    most = 10 * 200 + 4000  # bytes: an id, a path or offsets for each row
    if form == "array":
        most += images.source.take(rows).pixels.nbytes
    assert len(message) < most
    taken = pickle.loads(message)
    assert taken.source.fingerprint() == images.source.take(rows).fingerprint()
    assert np.array_equal(taken.image(3), images.image(153))
