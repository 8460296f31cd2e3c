"""Faults: processes killed at any point, disks that fill up, signals, two writers, memory that runs out."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import contents, forge, refused, unchanged
from PIL import Image
from shell import clipkit, ok
from zygote import Outcome, Zygote, shared

from clipkit import files
from clipkit.errors import ClipkitError, UsageError, WriteError
from clipkit.features import read

PICTURES, SHARD = 40, 16


@pytest.fixture(scope="module")
def zygote() -> Zygote:
    return shared()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "pics"
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return folder


class Embedding:
    """`clipkit embed pictures -o out.h5` in a folder of its own."""

    def __init__(
        self, zygote: Zygote, folder: Path, pictures: Path, *words: object, **wish: Any
    ) -> None:
        self.zygote, self.folder, self.wish = zygote, folder, {"shard": SHARD, "fake": True, **wish}
        self.words = ("embed", pictures, "-o", "out.h5", "-b", 4, *words)
        self.out, self.partial = folder / "out.h5", folder / "out.h5.partial"

    def run(self, *words: object, **wish: Any) -> Outcome:
        return self.zygote.run(self.folder, *self.words, *words, **{**self.wish, **wish})


@pytest.fixture
def embedding(zygote: Zygote, tmp_path: Path, pictures: Path) -> Embedding:
    return Embedding(zygote, tmp_path, pictures)


@pytest.fixture(scope="module")
def whole(zygote: Zygote, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run that was not interrupted."""
    embedding = Embedding(zygote, tmp_path_factory.mktemp("whole"), pictures)
    assert embedding.run().code == 0
    assert list(contents(embedding.folder)) == ["out.h5"]
    return embedding.out.read_bytes()


def finishes(embedding: Embedding, whole: bytes) -> None:
    """The same command again ends with the same file and leaves nothing else."""
    again = embedding.run()
    if again.code == 2:  # killed after the file was published
        refused(again, 2, "the output must not exist yet; out.h5 does")
        assert embedding.out.read_bytes() == whole
        again = embedding.run("--force")
    assert again.code == 0, again.stderr
    assert embedding.out.read_bytes() == whole
    visible = [name for name in contents(embedding.folder) if not name.startswith(".out.h5.")]
    assert visible == ["out.h5"]


def test_a_kill_between_any_two_changes_to_the_disk_is_continued(
    zygote: Zygote, tmp_path: Path, pictures: Path, whole: bytes
) -> None:
    (tmp_path / "count").mkdir()
    events = Embedding(zygote, tmp_path / "count", pictures).run().events
    assert events > 30
    for event in range(1, events + 1):
        folder = tmp_path / str(event)
        folder.mkdir()
        embedding = Embedding(zygote, folder, pictures)
        assert embedding.run(event=event, kill=signal.SIGKILL).code == -signal.SIGKILL
        assert not embedding.out.exists() or embedding.out.read_bytes() == whole
        finishes(embedding, whole)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_real_run_killed_at_random_points_is_continued(
    zygote: Zygote, tmp_path: Path, pictures: Path, tiny_clip_dir: Path, kills: int
) -> None:
    (tmp_path / "whole").mkdir()
    words = ("-m", tiny_clip_dir, "--precision", "fp32")
    first = Embedding(zygote, tmp_path / "whole", pictures, *words, fake=False)
    time = first.run().seconds
    whole = first.out.read_bytes()
    rng, resumed = random.Random(kills), 0
    embedding = Embedding(zygote, tmp_path, pictures, *words, fake=False)
    shutil.rmtree(tmp_path / "whole")
    for _ in range(kills):
        ended = embedding.run(seconds=rng.uniform(0, time), kill=signal.SIGKILL)
        assert ended.code in (0, -signal.SIGKILL), ended.stderr
        resumed += "resuming" in ended.stderr
        if embedding.out.exists():
            assert embedding.out.read_bytes() == whole
            shutil.rmtree(embedding.partial, ignore_errors=True)
            embedding.out.unlink()
    finishes(embedding, whole)


def test_a_resumed_run_says_so_and_encodes_no_image_twice(
    embedding: Embedding, whole: bytes
) -> None:
    embedding.run(event=20, kill=signal.SIGKILL)
    done = 16 * len(list(embedding.partial.glob("0*.json")))
    assert 0 < done < PICTURES
    ended = embedding.run()
    assert (ended.code, ended.stderr) == (0, f"clipkit: resuming at {done} of {PICTURES}\n")
    assert embedding.out.read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("event", [1, 4, 9, 16, 17, 18, 30, 34, 36])
def test_a_signal_stops_cleanly_wherever_it_comes(
    embedding: Embedding, whole: bytes, number: signal.Signals, event: int
) -> None:
    ended = embedding.run(event=event, kill=number)
    refused(ended, 128 + number, f"clipkit embed: interrupted by {number.name}")
    assert not [name for name in contents(embedding.folder) if name.endswith(".tmp")]
    finishes(embedding, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_loads_or_encodes(
    zygote: Zygote, tmp_path: Path, pictures: Path, tiny_clip_dir: Path, number: signal.Signals
) -> None:
    embedding = Embedding(zygote, tmp_path, pictures, "-m", tiny_clip_dir, fake=False)
    for seconds in (0.1, 0.4):
        embedding.out.unlink(missing_ok=True)
        ended = embedding.run(seconds=seconds, kill=number)
        if (
            not embedding.out.exists()
        ):  # the signal may come when all is done, even when the interpreter is leaving
            refused(ended, 128 + number, "interrupted by")
        assert not [name for name in contents(tmp_path) if name.endswith(".tmp")]


def test_a_second_signal_ends_at_once_and_tidily(embedding: Embedding) -> None:
    embedding.zygote.start(embedding.folder, *embedding.words, **embedding.wish, slow=0.5)

    # as Ctrl-C twice: the second one comes while the first is being obeyed
    def press() -> None:
        pid = pressed.wait(10) and pids[0]
        for _ in range(2):
            os.kill(pid, signal.SIGINT)

    pids: list[int] = []
    pressed = threading.Event()
    presser = threading.Thread(target=press)
    presser.start()
    pids.append(
        int(
            subprocess.run(
                ["pgrep", "-P", str(embedding.zygote.server.pid)], capture_output=True, text=True
            ).stdout.split()[0]
        )
    )
    pressed.set()
    presser.join()
    ended = embedding.zygote.wait()
    assert ended.code in (130, -signal.SIGINT)
    assert "Traceback" not in ended.stderr
    assert not [name for name in contents(embedding.folder) if name.endswith(".tmp")]


def test_changed_options_are_refused_with_what_changed(
    embedding: Embedding, pictures: Path, whole: bytes
) -> None:
    embedding.run(event=20, kill=signal.SIGKILL)
    with unchanged(embedding.folder):
        said = refused(
            embedding.run("--normalize"), 2, "out.h5.partial must be continued as it was begun"
        )
        assert "normalize was False, is True" in said
        assert "hint: run the old command to continue, or add --restart to start over" in said
    assert embedding.run("--normalize", "--restart").code == 0
    assert embedding.out.read_bytes() != whole
    assert list(contents(embedding.folder)) == ["out.h5"]


def test_images_that_changed_are_not_mixed_with_those_before(
    zygote: Zygote, tmp_path: Path, pictures: Path
) -> None:
    mine = tmp_path / "pics"
    shutil.copytree(pictures, mine)
    (tmp_path / "work").mkdir()
    embedding = Embedding(zygote, tmp_path / "work", mine)
    embedding.run(event=20, kill=signal.SIGKILL)
    Image.new("RGB", (40, 40), "red").save(mine / "a" / "38.png")
    refused(
        embedding.run(), 2, "must be continued as it was begun; image files.all was", "--restart"
    )


def test_another_version_does_not_continue(embedding: Embedding) -> None:
    embedding.run(event=20, kill=signal.SIGKILL)
    manifest = embedding.partial / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"clipkit":"', '"clipkit":"9.'))
    refused(embedding.run(), 2, "clipkit was 9.", "--restart")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "other", "json"])
def test_a_damaged_shard_is_made_again(embedding: Embedding, whole: bytes, damage: str) -> None:
    embedding.run(event=28, kill=signal.SIGKILL)
    first, second = (embedding.partial / f"0000{n}.h5" for n in (0, 1))
    data = first.read_bytes()
    if damage == "json":
        first.with_suffix(".json").write_text("[]")
    elif damage == "gone":
        first.unlink()
    else:
        new = {
            "flip": data[:700] + bytes([data[700] ^ 1]) + data[701:],
            "cut": data[:-1],
            "empty": b"",
            "other": second.read_bytes(),
        }
        first.write_bytes(new[damage])
    ended = embedding.run()
    assert ended.code == 0
    assert (
        "clipkit: warning: shards 0 are damaged; their images are embedded again\n" in ended.stderr
        or damage == "flip"
    )
    assert embedding.out.read_bytes() == whole


def test_a_shard_of_another_run_is_not_taken_in(
    zygote: Zygote, tmp_path: Path, pictures: Path, whole: bytes
) -> None:
    runs = []
    for name, words in (("one", ()), ("two", ("--normalize",))):
        (tmp_path / name).mkdir()
        runs.append(Embedding(zygote, tmp_path / name, pictures, *words))
        runs[-1].run(event=28, kill=signal.SIGKILL)
    for ending in ("h5", "json"):
        shutil.copy(runs[1].partial / f"00000.{ending}", runs[0].partial)
    ended = runs[0].run()
    assert (ended.code, "shards 0 are damaged" in ended.stderr) == (0, True)
    assert runs[0].out.read_bytes() == whole


def test_strict_does_not_overlook_what_an_earlier_run_skipped(
    zygote: Zygote, tmp_path: Path, pictures: Path
) -> None:
    mine = tmp_path / "pics"
    shutil.copytree(pictures, mine)
    (mine / "a" / "00.png").write_bytes(b"no image")
    (tmp_path / "work").mkdir()
    embedding = Embedding(zygote, tmp_path / "work", mine)
    embedding.run(event=20, kill=signal.SIGKILL)
    ended = embedding.run("--strict")
    ended.stderr = ended.stderr.removeprefix("clipkit: resuming at 16 of 40\n")
    refused(ended, 1, "a/00.png: cannot read ", "hint: without --strict it is skipped")


def test_left_shards_of_a_published_file_do_no_harm(
    zygote: Zygote, tmp_path: Path, pictures: Path, whole: bytes
) -> None:
    (tmp_path / "count").mkdir()
    events = Embedding(zygote, tmp_path / "count", pictures).run().events
    embedding = Embedding(zygote, tmp_path, pictures)
    shutil.rmtree(tmp_path / "count")
    embedding.run(event=events - 8, kill=signal.SIGKILL)  # published, nothing removed yet
    assert embedding.out.read_bytes() == whole
    assert (embedding.partial / "00002.json").exists()
    with unchanged(tmp_path):
        refused(embedding.run(), 2, "must not exist yet")
        refused(
            embedding.run("--force", "--normalize"), 2, "normalize was False, is True", "--restart"
        )
    assert embedding.run("--force", "--normalize", "--restart").code == 0
    assert list(contents(tmp_path)) == ["out.h5"]


def test_a_folder_that_is_not_ours_keeps_what_it_holds(embedding: Embedding) -> None:
    embedding.partial.mkdir()
    (embedding.partial / "notes.txt").write_text("mine")
    assert embedding.run().code == 0
    assert list(contents(embedding.folder)) == ["out.h5", "out.h5.partial/notes.txt"]


def test_two_writers_on_one_output(embedding: Embedding, whole: bytes) -> None:
    embedding.partial.mkdir()
    with (embedding.partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with unchanged(embedding.folder):
            refused(
                embedding.run(), 1, "out.h5.partial must be free; another clipkit is writing there"
            )
    finishes(embedding, whole)


def test_two_writers_that_meet_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with (
        pytest.raises(UsageError, match="appeared meanwhile"),
        files.atomic_write(str(output)) as mine,
    ):
        mine.write_bytes(b"mine")
        with files.atomic_write(str(output)) as theirs:
            assert theirs != mine
            theirs.write_bytes(b"theirs")
    assert contents(tmp_path) == {"out.h5": b"theirs"}


def test_a_disk_that_fills_up_at_any_byte(
    zygote: Zygote, tmp_path: Path, pictures: Path, whole: bytes
) -> None:
    """RLIMIT_FSIZE fails every write beyond it, as a full disk does; HDF5 takes both for the same error."""
    earlier = forge(tmp_path / "earlier.h5").read_bytes()
    source = tmp_path / "img.h5"
    source.write_bytes(whole)
    shutil.copy(tmp_path / "earlier.h5", tmp_path / "out.h5")
    shutil.copy(
        forge(
            tmp_path / "txt.h5",
            "texts",
            datasets={"features": np.ones((3, 48), "<f4"), "class_names": None},
            attributes={
                "history": '[{"command":"textembed","model":{"name":"fake","digest":"sha256:0"}}]'
            },
        ),
        tmp_path / "texts.h5",
    )
    words = ("logits", "img.h5", "txt.h5", "-o", "out.h5", "--force")
    full = zygote.run(tmp_path, *words, fake=True)
    assert full.code == 0, full.stderr
    size = (tmp_path / "out.h5").stat().st_size
    (tmp_path / "out.h5").write_bytes(earlier)
    with unchanged(tmp_path):
        for limit in range(500, size, 311):
            ended = zygote.run(tmp_path, *words, fake=True, limits={"RLIMIT_FSIZE": limit})
            refused(
                ended,
                1,
                "clipkit logits: ",
                "must take the whole file; got: File too large",
                "nothing was replaced",
            )


def mounted(folder: Path, size: str) -> None:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 64 KiB, or of the test's size."""
    mounted(tmp_path / "disk", getattr(request, "param", "64k"))
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


@pytest.mark.parametrize(
    "small_disk", ["8k", "12k", "16k", "20k", "28k", "32k", "40k", "44k"], indirect=True
)
def test_a_full_disk_keeps_the_shards_and_more_room_continues(
    zygote: Zygote, small_disk: Path, pictures: Path, whole: bytes
) -> None:
    embedding = Embedding(zygote, small_disk, pictures)
    refused(embedding.run(), 1, "No space left on device", "nothing was replaced")
    assert not embedding.out.exists()
    assert not [name for name in contents(small_disk) if name.endswith(".tmp")]
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    finishes(embedding, whole)


def test_a_full_disk_with_nothing_on_it(zygote: Zygote, small_disk: Path, pictures: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 65536)
    refused(Embedding(zygote, small_disk, pictures).run(), 1, "No space left on device")


def test_a_full_temporary_folder_while_spooling(
    zygote: Zygote, small_disk: Path, tmp_path: Path
) -> None:
    big = forge(
        tmp_path / "big.h5",
        "logits",
        datasets={
            "train/features": np.ones((6000, 3), "<f4"),
            "train/ids": None,
            "train/labels": None,
        },
    )
    with unchanged(small_disk):
        ended = zygote.run(
            tmp_path, "entropy", stdin=str(big), env={"TMPDIR": str(small_disk)}, fake=True
        )
        refused(
            ended,
            1,
            "standard input must be copied whole before it is read; got: No space left on device",
            "set TMPDIR",
        )


class FailingFile:
    """A file object whose Nth write fails."""

    def __init__(self, path: Path, fail_at: int) -> None:
        self.path, self.left = path, fail_at

    def write(self, data: bytes) -> int:
        self.left -= 1
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self.path.open("ab") as file:
            return file.write(data)


@pytest.mark.parametrize("fail_at", range(1, 6))
def test_publishing_when_the_nth_write_fails(tmp_path: Path, fail_at: int) -> None:
    (tmp_path / "out").write_bytes(b"earlier")
    with (
        unchanged(tmp_path),
        pytest.raises(WriteError, match="No space left"),
        files.atomic_write(str(tmp_path / "out"), force=True) as path,
    ):
        sink = FailingFile(path, fail_at)
        for _ in range(6):
            sink.write(b"data")


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    with files.atomic_write(str(tmp_path / "out")) as path:
        path.write_bytes(b"new")
    assert contents(tmp_path) == {"out": b"new"}
    with unchanged(tmp_path), pytest.raises(UsageError), files.atomic_write(str(tmp_path / "out")):
        pass

    def no_replace(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", no_replace)
    with (
        unchanged(tmp_path),
        pytest.raises(WriteError),
        files.atomic_write(str(tmp_path / "other")) as path,
    ):
        path.write_bytes(b"new")


def test_output_exists_and_force(tmp_path: Path) -> None:
    images, texts = forge(tmp_path / "img.h5"), forge(tmp_path / "txt.h5", "texts")
    out = tmp_path / "out.h5"
    out.write_bytes(b"earlier")
    with unchanged(tmp_path):
        refused(
            clipkit("logits", images, texts, "-o", out),
            2,
            f"must not exist yet; {out} does",
            "or add --force to replace it",
        )
    ok("logits", images, texts, "-o", out, "--force")
    assert read(out).kind == "logits"


def test_output_is_an_input(tmp_path: Path) -> None:
    images, texts = forge(tmp_path / "img.h5"), forge(tmp_path / "txt.h5", "texts")
    ok("logits", images, texts, "-o", tmp_path / "separate.h5")
    ok("logits", images, texts, "-o", images, "--force")
    assert images.read_bytes() == (tmp_path / "separate.h5").read_bytes()


def test_output_is_a_folder_or_lies_in_none(tmp_path: Path) -> None:
    images, texts = forge(tmp_path / "img.h5"), forge(tmp_path / "txt.h5", "texts")
    with unchanged(tmp_path):
        refused(
            clipkit("logits", images, texts, "-o", tmp_path),
            2,
            "the output must be a file",
            "is a folder",
        )
        refused(
            clipkit("logits", images, texts, "-o", tmp_path / "no" / "x.h5"),
            2,
            "the output's folder must exist",
            "mkdir -p",
        )


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    images, texts = forge(tmp_path / "img.h5"), forge(tmp_path / "txt.h5", "texts")
    (tmp_path / "store").mkdir()
    link = tmp_path / "link.h5"
    link.symlink_to("store/real.h5")
    ok("logits", images, texts, "-o", link)
    assert link.is_symlink()
    first = (tmp_path / "store" / "real.h5").read_bytes()
    refused(clipkit("logits", images, texts, "-o", link), 2, "must not exist yet")
    ok("logits", images, texts, "-o", link, "--force", "-t", 2)
    assert link.is_symlink()
    assert (tmp_path / "store" / "real.h5").read_bytes() != first


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        ok(
            "logits",
            forge(tmp_path / "img.h5"),
            forge(tmp_path / "txt.h5", "texts"),
            "-o",
            tmp_path / "out.h5",
        )
    finally:
        os.umask(before)
    assert (tmp_path / "out.h5").stat().st_mode & 0o777 == 0o640


def test_input_larger_than_the_memory_limit(zygote: Zygote, tmp_path: Path) -> None:
    n = 100_000
    rows = {
        "features": np.zeros((n, 512), "<f4"),
        "labels": np.arange(n) % 2,
        "ids": np.array(["x"] * n),
    }
    forge(
        tmp_path / "big.h5",
        datasets={f"train/{key}": value for key, value in rows.items()}
        | {"test/features": rows["features"][:6]},
    )
    with unchanged(tmp_path):
        ended = zygote.run(tmp_path, "probe", "big.h5", memory=150 << 20, fake=True)  # of 205 MB
        refused(ended, 1, "the data must fit in memory; it does not", "use --limit")


def test_a_model_that_gives_nan_is_told_with_the_image(tmp_path: Path) -> None:
    from clipkit.embedding import run, shards

    class Broken:
        def preprocess(self, images: list[Any]) -> Any:
            return np.zeros((len(images), 2), np.float32)

        def encode_images(self, pixels: Any) -> Any:
            pixels[-1, 0] = np.inf
            return pixels

    class BlockMatrix:
        ids, labels = ("0.png", "1.png", "2.png"), None

        def __len__(self) -> int:
            return 3

        def image(self, i: int) -> Any:
            return i

        def fingerprint(self) -> str:
            return ""

    splits = {"all": BlockMatrix()}
    with (
        shards.working(tmp_path / "w", splits, {}) as work,
        pytest.raises(ClipkitError, match=r"for 2\.png and 0 more"),
    ):
        run(work, splits, Broken(), 3, 1, False, lambda *_: None)
