"""Small data sets in the layouts of published ones."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray

from factories import write_images


def write_cifar(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Write a CIFAR that torchvision takes for its own, and return the training pixels."""
    dataset = getattr(torchvision.datasets, kind)
    prefix = "" if kind == "CIFAR10" else "fine_"
    labels, names = f"{prefix}labels", f"{prefix}label_names"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    contents: dict[str, dict[str, Any]] = {
        "one": {"data": pixels[:2], labels: [1, 0]},
        "two": {"data": pixels[2:], labels: [1]},
        "meta": {names: ["aquarium_fish", "bear"]},
    }
    folder.mkdir(parents=True)
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5(pickle.dumps(content)).hexdigest()
    monkeypatch.setattr(dataset, "base_folder", folder.name)
    monkeypatch.setattr(dataset, "train_list", [["one", md5["one"]]])
    monkeypatch.setattr(dataset, "test_list", [["two", md5["two"]]])
    meta = {"filename": "meta", "key": names, "md5": md5["meta"]}
    monkeypatch.setattr(dataset, "meta", meta)
    return pixels


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return an array in the format of MNIST."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def write_tiny_imagenet(top: Path) -> Path:
    """Write a Tiny ImageNet of four training and two validation images of three classes."""
    write_images(top / "train", *(f"n{i}/images/n{i}.JPEG" for i in (2, 1, 3)), "n2/images/a.JPEG")
    write_images(top / "val" / "images", "val_1.JPEG", "val_0.JPEG")
    (top / "wnids.txt").write_text("n2\nn1\nn3\n")
    words = "n0\tentity\nn1\tgoldfish, Carassius auratus\nn2\tEuropean fire salamander\nn3\tcat\n"
    (top / "words.txt").write_text(words)
    annotations = "val_1.JPEG\tn1\t0\t0\t63\t63\nval_0.JPEG\tn3\t1\t1\t2\t2\n"
    (top / "val" / "val_annotations.txt").write_text(annotations)
    return top
