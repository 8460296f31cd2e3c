"""A digest keeps the embeddings of two models apart, also if only a configuration differs."""

import shutil
from pathlib import Path

import pytest
from factories import refused, write_feature_file
from factories.runs import stop_at
from factories.zoo import changed, load
from shell import clipkit, ok

from clipkit import embedding
from clipkit.embedding import checkpoint
from clipkit.features import read

MODEL = {"name": "m", "digest": "sha256:all", "weights": "sha256:w", "logit_scale": 100.0}


@pytest.fixture
def copied(tiny_clip_dir, tmp_path):
    return shutil.copytree(tiny_clip_dir, tmp_path / "model")


@pytest.mark.parametrize(
    ("images", "texts", "problem"),
    [
        (MODEL, MODEL, ""),
        (MODEL, {**MODEL, "digest": "sha256:other"}, "come from different models"),
        (MODEL, {**MODEL, "name": "moved"}, ""),
        (MODEL, {**MODEL, "untrained": 3}, "come from different models"),
        (MODEL, {"name": "m"}, ""),
        (MODEL, {"name": "n"}, "come from different models"),
    ],
)
@pytest.mark.long
def test_models_are_compared_by_all_that_both_files_record(images, texts, problem, tmp_path):
    for name, kind, model in (("img.h5", "images", images), ("txt.h5", "texts", texts)):
        history = [{"command": "mine", "model": model}]
        write_feature_file(tmp_path / name, kind, attributes={"history": history})
    words = ("logits", tmp_path / "img.h5", tmp_path / "txt.h5", "-o", tmp_path / "out.h5")
    if problem:
        refused(clipkit(*words), 1, problem)
    else:
        assert ok(*words).stderr == ""


@pytest.mark.long
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "vocab.json"])
def test_a_run_is_not_continued_with_another_configuration(file, tmp_path, copied, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 10)
    words = ("embed", "digits", "--split", "test", "--limit", 25, "-m", copied)
    out = tmp_path / "out.h5"
    stop_at(2, monkeypatch, *words, "-o", out)
    shards = sorted(path.stem for path in Path(f"{out}.partial").glob("*.h5"))
    assert shards == ["00000", "00001"]
    before = (copied / file).read_bytes()
    changed(file, unused=49407)(copied)
    difference = f"model files.{file} was sha256:"
    refused(clipkit(*words, "-o", out), 2, "belongs to another run", difference, "add --restart")
    (copied / file).write_bytes(before)
    assert "resuming at 20 of 25" in ok(*words, "-o", out).stderr
    assert "model files" not in read(out).history[0]


def test_an_encoder_lists_the_files_of_its_digest():
    encoder = load("tiny", "text")
    settings = [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sorted(encoder.parts) == [*settings, "weights"]
    history = embedding.embed_texts("a dot", encoder).history
    assert history[0]["model"]["weights"] == encoder.parts["weights"]
