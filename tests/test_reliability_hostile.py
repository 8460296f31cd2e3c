"""Hostile inputs: names that write on the terminal, models that run code, pictures that are bombs, files made for a crash."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from clip_factory import tiny_clip
from faults import contents, forge, refused, unchanged
from fuzz import mutate, seeds
from fuzz.run import judge_feature_files, judge_prompt_files
from PIL import Image
from shell import clipkit

from clipkit import console
from clipkit.errors import ClipkitError
from clipkit.features import read

EVIL = "a\n\x1b[31m\u202ered\u2028.h5"


def test_a_file_name_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    said = (
        refused(clipkit("info", tmp_path / EVIL), 1)
        if (tmp_path / EVIL).exists()
        else refused(clipkit("entropy", tmp_path / EVIL), 1)
    )
    assert "a\\n\\x1b[31m\\u202ered\\u2028.h5" in said
    (tmp_path / EVIL).write_bytes(b"text")
    said = refused(clipkit("entropy", tmp_path / EVIL), 1, "got text")
    assert said == console.escaped(said.rstrip("\n")) + "\n"


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.h5")
    (tmp_path / name).write_bytes(b"text")
    refused(clipkit("entropy", tmp_path / name), 1, "got text")
    images, texts = forge(tmp_path / "img.h5"), forge(tmp_path / "txt.h5", "texts")
    assert (
        clipkit("logits", images, texts, "-o", tmp_path / os.fsdecode(b"out\xff.h5")).exit_code == 0
    )
    assert read(tmp_path / os.fsdecode(b"out\xff.h5")).kind == "logits"


def test_texts_from_a_file_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    history = json.dumps([{"command": "embed\x1b[2J", "note": "\x9b31m"}])
    evil = forge(
        tmp_path / "x.h5",
        attributes={"history": history},
        datasets={"class_names": ["\x1b]0;title\x07", "a\tb"]},
    )
    for format in ("tsv", "csv", "table"):
        shown = clipkit("info", evil, "--format", format)
        assert shown.exit_code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(shown.stdout)


def test_the_progress_of_a_folder_with_a_strange_name() -> None:
    from rich.progress import Progress

    shown: list[str] = []
    real = Progress.add_task

    def add(self: Progress, description: str, **rest: Any) -> Any:
        shown.append(description)
        return real(self, description, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "add_task", add)
        patch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with console.progress("embedding {0} [/x] [red]\n") as update:
            update(1, 2)
    assert shown == ["embedding {0} [/x] [red]\\n"]


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_clip(tmp_path / "model")


def test_a_pickle_checkpoint_is_not_loaded(tmp_path: Path, model: Path) -> None:
    (tmp_path / "mine.txt").write_text("a dot\n")
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.safetensors.index.json", "model.bin"):
        (model / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
        with unchanged(tmp_path):
            refused(
                clipkit(
                    "textembed", tmp_path / "mine.txt", "--model", model, "-o", tmp_path / "t.h5"
                ),
                1,
            )
        (model / name).unlink()


def test_a_pickle_called_safetensors(tmp_path: Path, model: Path) -> None:
    (tmp_path / "mine.txt").write_text("a dot\n")
    (model / "model.safetensors").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with unchanged(tmp_path):
        refused(
            clipkit("textembed", tmp_path / "mine.txt", "--model", model, "-o", tmp_path / "t.h5"),
            1,
        )


def test_a_model_that_brings_code(tmp_path: Path, model: Path) -> None:
    (tmp_path / "mine.txt").write_text("a dot\n")
    code = f"from pathlib import Path\nPath({str(tmp_path / 'canary')!r}).touch()\n"
    (model / "evil.py").write_text(code + "class Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        config = json.loads((model / name).read_text())
        kinds = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor")
        (model / name).write_text(
            json.dumps({**config, "auto_map": dict.fromkeys(kinds, "evil.Evil")})
        )
    result = clipkit("textembed", tmp_path / "mine.txt", "--model", model, "-o", tmp_path / "t.h5")
    assert result.exit_code in (0, 1)
    assert "canary" not in contents(tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
    refused(
        clipkit("textembed", tmp_path / "mine.txt", "--model", model, "-o", tmp_path / "u.h5"), 1
    )
    assert "canary" not in contents(tmp_path)


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels: a few kilobytes that decode to gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    squeeze = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    data = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_bad_pictures_are_skipped_and_named_and_rows_stay_aligned(
    tmp_path: Path, model: Path
) -> None:
    pics = tmp_path / "pics"
    for name in "ab":
        (pics / name).mkdir(parents=True)
    good = {f"{c}/{i}.png": (20 * i, 100, 50) for c in "ab" for i in range(3)}
    for name, colour in good.items():
        Image.new("RGB", (40, 40), colour).save(pics / name)
    whole = (pics / "a/0.png").read_bytes()
    bad = {
        "a/bomb.png": bomb(20_000),
        "a/cut.png": whole[: len(whole) // 2],
        "a/empty.jpg": b"",
        "b/text.png": b"a text",
        "b/\x1b[31m.png": b"x",
    }
    for name, data in bad.items():
        (pics / name).write_bytes(data)
    Image.new("RGB", (40, 40), "red").save(
        pics / "b" / "wrong.jpg", format="PNG"
    )  # the content counts
    words = ("embed", pics, "-m", model, "--precision", "fp32", "-b", 2, "-o", tmp_path / "out.h5")
    result = clipkit(*words)
    assert result.exit_code == 3
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr
    assert result.stderr.endswith(
        "clipkit: warning: 5 images skipped, 7 embedded; the file lists them\n"
    )
    file = read(tmp_path / "out.h5")
    split = file.splits["all"]
    assert split.ids == sorted([*good, "b/wrong.jpg"])
    assert [file.class_names[label] for label in split.labels] == [name[0] for name in split.ids]
    skipped = {item["id"] for item in file.history[0]["skipped"]}
    assert skipped == {name.replace("\x1b", "%1B") for name in bad}
    for name in bad:
        (pics / name).unlink()
    assert clipkit(*words, "--force").exit_code == 0
    alone = read(tmp_path / "out.h5").splits["all"]
    assert alone.ids == split.ids
    assert abs(alone.features - split.features).max() < 1e-5


def test_strict_stops_at_the_first_bad_picture(tmp_path: Path, model: Path) -> None:
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pics" / "0.png")
    (tmp_path / "pics" / "1.png").write_bytes(b"")
    refused(
        clipkit("embed", tmp_path / "pics", "-m", model, "--strict", "-o", tmp_path / "o.h5"),
        1,
        "1.png must be a sound image; the file is empty",
    )
    assert not (tmp_path / "o.h5").exists()


def test_a_whole_bad_batch_does_not_stop_the_run_but_nothing_else_does(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "pics").mkdir()
    for i in range(5):
        (tmp_path / "pics" / f"{i}.png").write_bytes(b"")
    words = ("embed", tmp_path / "pics", "-m", model, "-b", 2, "-o", tmp_path / "o.h5")
    refused(
        clipkit(*words),
        1,
        "at least one image of all must be usable; none is: ",
        "the file is empty",
    )
    Image.new("RGB", (40, 40)).save(tmp_path / "pics" / "4.png")
    result = clipkit(*words, "--restart")
    assert result.exit_code == 3
    assert read(tmp_path / "o.h5").splits["all"].ids == ["4.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="a child process reads first on Linux only")
def test_a_file_that_crashes_hdf5_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash is staged, since which bytes crash HDF5 depends on its version."""
    import clipkit.features.reader as reader

    def crash(*_: Any) -> Any:
        faulthandler.disable()  # pytest's would show a traceback among the dots
        os.abort()

    path = forge(tmp_path / "img.h5")
    monkeypatch.setattr(reader, "_assemble", crash)
    with unchanged(tmp_path):
        refused(
            clipkit("info", path),
            1,
            "img.h5: the file must be sound HDF5; it makes HDF5 crash (SIGABRT)",
        )


@pytest.mark.skipif(sys.platform != "linux", reason="a child process reads first on Linux only")
def test_a_file_that_keeps_hdf5_busy_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staged: HDF5 closes some damaged files forever, once it could not get the memory that they ask for."""
    import clipkit.features.reader as reader

    def spin(*_: Any) -> Any:
        while True:
            pass

    path = forge(tmp_path / "img.h5")
    monkeypatch.setattr(reader, "_assemble", spin)
    monkeypatch.setattr(reader, "REHEARSAL", (1, 2**27))
    with unchanged(tmp_path):
        refused(
            clipkit("info", path),
            1,
            "img.h5: the file must be sound HDF5; it keeps HDF5 busy without end",
        )


@pytest.mark.parametrize(
    ("damage", "trusted", "count"),
    [(mutate.damaged, True, 300), (mutate.damaged_with_fixed_checksums, False, 60)],
)
def test_damaged_files_give_the_same_data_or_one_line(
    tmp_path: Path, damage: Any, trusted: bool, count: int
) -> None:
    """The quick part of the fuzz run; `make fuzz` is the long one."""
    judge = judge_feature_files(damage, tmp_path, trusted)
    for case in range(10**6, 10**6 + count):
        assert judge(case) in ("same", "refused"), case


def test_damaged_prompt_files_give_the_same_texts_or_one_line(tmp_path: Path) -> None:
    judge = judge_prompt_files(tmp_path)
    for case in range(10**6, 10**6 + 2000):
        assert judge(case) in ("same", "refused"), case


def test_the_fuzzer_would_notice(tmp_path: Path) -> None:
    """Its checksum is HDF5's, and its judge tells other data from the same."""
    data = seeds.write_all(tmp_path)["images"]
    assert len(mutate.checked_blocks(data)) > 5
    a, b = seeds.files()["images"], seeds.files()["images"]
    assert seeds.same(a, b)
    b.splits["test"].features[0, 0] += 1
    assert not seeds.same(a, b)
    with pytest.raises(ClipkitError):
        read(tmp_path / "no.h5")
