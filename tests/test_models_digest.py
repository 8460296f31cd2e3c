"""A digest keeps the embeddings of two models apart, also if only a configuration differs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from clip_factory import edit_json
from factories import refused, write_feature_file
from shell import clipkit, ok

from clipkit import embedding
from clipkit.embedding import checkpoint
from clipkit.features import read

NOTE = "is from an earlier clipkit and records only the weights of its model: another configuration"
NEW = {"name": "m", "digest": "sha256:all", "weights": "sha256:w", "logit_scale": 100.0}
OLD = {"name": "m", "digest": "sha256:w", "logit_scale": 100.0}


@pytest.fixture
def copied(tiny_clip_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_clip_dir, tmp_path / "model")


def use_gelu(folder: Path) -> None:
    """Change what is usually wrong in a converted CLIP: OpenAI's models use QuickGELU."""
    edit_json(folder / "config.json", lambda c: c["vision_config"].update(hidden_act="gelu"))


def write(path: Path, kind: str, model: dict[str, Any]) -> Path:
    return write_feature_file(
        path, kind, attributes={"history": [{"command": "mine", "model": model}]}
    )


@pytest.mark.parametrize(
    ("images", "texts", "problem"),
    [
        (NEW, NEW, ""),
        (NEW, {**NEW, "digest": "sha256:other"}, "come from different models"),
        (NEW, {**NEW, "name": "moved"}, ""),
        (NEW, OLD, f"txt.h5 {NOTE}"),
        (OLD, NEW, f"img.h5 {NOTE}"),
        (OLD, OLD, f"img.h5 {NOTE}"),
        (NEW, {**OLD, "digest": "sha256:all"}, "come from different models"),
        (OLD, {**OLD, "digest": "sha256:x"}, "come from different models"),
        (NEW, {**NEW, "untrained": 3}, "come from different models"),
        (NEW, {"name": "m"}, ""),
        (NEW, {"name": "n"}, "come from different models"),
    ],
)
@pytest.mark.long
def test_models_are_compared_by_all_that_both_files_record(
    images: dict[str, Any], texts: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    img = write(tmp_path / "img.h5", "images", images)
    txt = write(tmp_path / "txt.h5", "texts", texts)
    result = clipkit("logits", img, txt, "-o", tmp_path / "out.h5")
    if "different" in problem:
        refused(result, 1, problem)
        return
    assert result.exit_code == 0, result.stderr
    assert problem in result.stderr
    assert result.stderr.count("\n") == bool(problem)


def test_files_of_the_first_version_are_joined_with_a_note(tmp_path: Path) -> None:
    data = Path(__file__).parent / "data"
    result = ok("logits", data / "v1-images.h5", data / "v1-texts.h5", "-o", tmp_path / "out.h5")
    assert NOTE in result.stderr


@pytest.mark.long
def test_embeddings_of_two_configurations_are_not_joined(tmp_path: Path, copied: Path) -> None:
    model = ("-m", copied, "--precision", "fp32")
    ok("embed", "digits", "--limit", 3, *model, "-o", tmp_path / "img.h5")
    ok("textembed", "--classes", "digits", *model, "-o", tmp_path / "txt.h5")
    ok("logits", tmp_path / "img.h5", tmp_path / "txt.h5", "-o", tmp_path / "logits.h5")
    use_gelu(copied)
    ok("textembed", "--classes", "digits", *model, "-f", "-o", tmp_path / "txt.h5")
    result = clipkit("logits", tmp_path / "img.h5", tmp_path / "txt.h5", "-o", tmp_path / "two.h5")
    refused(result, 1, "come from different models", "embed one of them again")


@pytest.mark.long
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "vocab.json"])
def test_a_run_is_not_continued_with_another_configuration(
    file: str, tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 10)
    words = ("embed", "digits", "--split", "test", "--limit", 25, "-m", copied)
    out = tmp_path / "out.h5"
    save = checkpoint.Checkpoint.save

    def stop_after_the_second(self: Any, shard: Any, *rest: Any) -> None:
        if shard.number == 2:
            raise KeyboardInterrupt
        save(self, shard, *rest)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", stop_after_the_second)
    clipkit(*words, "-o", out)
    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    assert sorted(path.name for path in Path(f"{out}.partial").glob("*.h5")) == [
        "00000.h5",
        "00001.h5",
    ]
    before = (copied / file).read_bytes()
    if file == "config.json":
        use_gelu(copied)
    else:
        edit_json(copied / file, lambda content: content.update(unused=49407))
    changed = f"model files.{file} was sha256:"
    refused(clipkit(*words, "-o", out), 2, "belongs to another run", changed, "add --restart")
    (copied / file).write_bytes(before)
    assert "resuming at 20 of 25" in ok(*words, "-o", out).stderr
    assert "model files" not in read(out).history[0]


def test_an_encoder_lists_the_files_of_its_digest() -> None:
    from clipkit import models

    encoder = models.load("tiny", tower="text", device="cpu")
    assert sorted(encoder.parts) == [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "weights",
    ]
    history = embedding.embed_texts("a dot", encoder).history
    assert history[0]["model"]["weights"] == encoder.parts["weights"]
