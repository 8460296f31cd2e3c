"""A data set through an encoder: rows in order whatever the batches, shards and threads are."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipkit.embedding import shards
from clipkit.errors import ClipkitError, ImageError, UsageError
from clipkit import embedding
from clipkit.features import read


class Numbers:
    """Images that are numbers; some of them are bad."""

    def __init__(self, n: int, bad: set[int], labelled: bool = True) -> None:
        self.n, self.bad = n, bad
        self.ids = [f"{i}.png" for i in range(n)]
        self.labels = np.arange(n) % 7 if labelled else None

    def __len__(self) -> int:
        return self.n

    def image(self, i: int) -> int:
        if i in self.bad:
            raise ImageError(f"{i} is bad")
        return i

    def fingerprint(self) -> str:
        return ""


class Double:
    """Encodes a number as itself and its double."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.threads: set[int] = set()

    def preprocess(self, images: list[int]) -> Any:
        self.threads.add(threading.get_ident())
        time.sleep(0.001 * (images[0] % 3))
        return np.array(images, np.float32)

    def encode_images(self, pixels: Any) -> Any:
        self.calls.append(len(pixels))
        return np.stack([pixels, 2 * pixels], axis=1)


def result(
    folder: Path,
    splits: dict[str, Numbers],
    encoder: Double,
    batch: int = 4,
    workers: int = 3,
    **manifest: Any,
) -> tuple[Any, Any]:
    with embedding.working(folder, splits, manifest) as work:
        embedding.run(work, splits, encoder, batch, workers, False, lambda *_: None)
        found, skipped = embedding.collect(work)
        for split in found.values():
            split.features = split.features.read()
        return found, skipped


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=10
)
@given(
    n=st.integers(1, 60), shard=st.integers(1, 20), batch=st.integers(1, 25), workers=st.integers(1, 4),
    bad=st.sets(st.integers(0, 59), max_size=20), labelled=st.booleans(),
)  # fmt: skip
def test_rows_labels_and_ids_stay_aligned(
    n: int,
    shard: int,
    batch: int,
    workers: int,
    bad: set[int],
    labelled: bool,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "SHARD", shard)
    splits = {"test": Numbers(n, bad, labelled), "train": Numbers(3, set(), labelled)}
    good = [i for i in range(n) if i not in bad]
    folder = tmp_path_factory.mktemp("work") / "w"
    if not good:
        with pytest.raises(ClipkitError, match="at least one image of test must be usable"):
            result(folder, splits, Double(), batch, workers)
        return
    found, skipped = result(folder, splits, Double(), batch, workers)
    assert found["test"].ids == [f"{i}.png" for i in good]
    assert found["test"].features.tolist() == [[i, 2 * i] for i in good]
    assert (found["test"].labels.tolist() if labelled else found["test"].labels) == (
        [i % 7 for i in good] if labelled else None
    )
    assert [item["id"] for item in skipped] == [f"{i}.png" for i in range(n) if i in bad]
    assert len(found["train"]) == 3


def test_batches_do_not_cross_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 10)
    encoder = Double()
    result(tmp_path / "w", {"all": Numbers(25, set())}, encoder, batch=4)
    assert encoder.calls == [4, 4, 2, 4, 4, 2, 4, 1]
    assert threading.get_ident() not in encoder.threads


def test_a_run_that_goes_on_encodes_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 10)
    splits = {"all": Numbers(25, {3})}

    class Fails(Double):
        def encode_images(self, pixels: Any) -> Any:
            if pixels.max() > 15:
                raise KeyboardInterrupt
            return super().encode_images(pixels)

    with pytest.raises(KeyboardInterrupt):
        result(tmp_path / "w", splits, Fails())
    encoder = Double()
    found, skipped = result(tmp_path / "w", splits, encoder)
    assert sum(encoder.calls) == 15
    assert len(found["all"]) == 24
    assert [item["id"] for item in skipped] == ["3.png"]


def test_another_manifest_is_refused_with_every_name_that_changed(tmp_path: Path) -> None:
    splits = {"all": Numbers(3, set())}
    result(tmp_path / "w", splits, Double(), model={"name": "a"}, batch_size=4)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"batch_size was 4, is 8; model\.name was a, is b"):
        result(tmp_path / "w", splits, Double(), model={"name": "b"}, batch_size=8)
    assert contents(tmp_path) == before


def test_a_shard_says_whose_it_is(tmp_path: Path) -> None:
    result(tmp_path / "w", {"all": Numbers(3, set())}, Double())
    (entry,) = read(tmp_path / "w" / "00000.h5").history
    assert (entry["command"], entry["shard"], len(entry["run"])) == ("embed", 0, 64)


def test_a_lock_on_a_removed_folder_is_no_lock(tmp_path: Path) -> None:
    """Another process may finish, and remove the folder, between our opening of the lock and our holding it."""
    folder = tmp_path / "w"
    with shards._locked(folder):
        (folder / "lock").rename(tmp_path / "gone")
        with shards._locked(folder):  # a new lock, of a new run
            assert (folder / "lock").exists()


def test_the_encoder_s_error_is_the_one_that_is_told(tmp_path: Path) -> None:
    class Breaks(Double):
        def preprocess(self, images: list[int]) -> Any:
            raise ValueError("no pixels")

    with pytest.raises(ValueError, match="no pixels"):
        result(tmp_path / "w", {"all": Numbers(30, set())}, Breaks())
