"""Faults: processes killed at any point, full disks, signals, two writers, too little memory."""

import contextlib
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from factories import contents, messages, random_features, refused, unchanged, write_feature_file
from PIL import Image
from shell import clipkit, fails, ok, shell

from clipkit.base import files
from clipkit.base.errors import UsageError, WriteError
from clipkit.embedding import pipeline
from clipkit.features import formats, hdf5, read, write

pytestmark = pytest.mark.long

PICTURES, SHARD_ROWS = 40, 16
FIRST_SHARD, EVENTS_PER_SHARD = 10, 3  # the change to the disk after the first shard; per shard
PUBLISHED = 19  # the change to the disk after the file was published


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "pics"
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return folder


class Embedding:
    """`clipkit embed PICTURES -o out.h5` in a new folder."""

    def __init__(self, server, folder, pictures, *words, fake=True):
        folder.mkdir(exist_ok=True)
        self.server, self.folder, self.pictures = server, folder, pictures
        self.words = ("embed", pictures, "-o", "out.h5", "-b", 4, *words)
        self.options = {"shard": SHARD_ROWS, "fake": fake}
        self.out, self.partial = folder / "out.h5", folder / "out.h5.partial"

    def run(self, *words, **options):
        return self.server.run(self.folder, *self.words, *words, **self.options, **options)

    def kill_after_shards(self, count):
        event = FIRST_SHARD + (count - 1) * EVENTS_PER_SHARD
        assert self.run(event=event, kill=signal.SIGKILL).exit_code == -signal.SIGKILL
        assert len(list(self.partial.glob("0*.h5"))) == count

    def temporary_files(self):
        return [name for name in contents(self.folder) if name.endswith(".tmp")]


@pytest.fixture
def embedding(fork_server, tmp_path, pictures):
    """Embed a copy of the pictures, which a test may change."""
    copied = Path(shutil.copytree(pictures, tmp_path / "pics"))
    return Embedding(fork_server, tmp_path / "work", copied)


@pytest.fixture
def real_embedding(fork_server, tmp_path, pictures, tiny_clip_dir):
    """Run a small real model in place of the fake one."""
    words = ("-m", tiny_clip_dir, "--precision", "fp32")
    return Embedding(fork_server, tmp_path / "work", pictures, *words, fake=False)


@pytest.fixture(scope="module")
def expected(fork_server, pictures, tmp_path_factory):
    """The file of a run that was not interrupted."""
    embedding = Embedding(fork_server, tmp_path_factory.mktemp("expected"), pictures)
    assert embedding.run().exit_code == 0
    assert list(contents(embedding.folder)) == ["out.h5"]
    return embedding.out.read_bytes()


def finishes(embedding, expected):
    """The same command again ends with the same file and leaves nothing else."""
    again = embedding.run()
    if again.exit_code == 2:  # killed after the file was published
        refused(again, 2, "the output out.h5 exists")
        assert embedding.out.read_bytes() == expected
        again = embedding.run("--force")
    assert again.exit_code == 0, again.stderr
    assert embedding.out.read_bytes() == expected
    visible = [name for name in contents(embedding.folder) if not name.startswith(".out.h5.")]
    assert visible == ["out.h5"]


def appears(found):
    """Wait until another process has made something."""
    while not found():
        time.sleep(0.01)


@pytest.mark.exhaustive
def test_a_kill_between_any_two_changes_to_the_disk_is_continued(embedding, expected):
    events = embedding.run().events
    assert events > PUBLISHED
    for event in range(1, events + 1):
        shutil.rmtree(embedding.folder)
        embedding.folder.mkdir()
        assert embedding.run(event=event, kill=signal.SIGKILL).exit_code == -signal.SIGKILL
        assert not embedding.out.exists() or embedding.out.read_bytes() == expected
        finishes(embedding, expected)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.fuzz)])
def test_a_real_run_killed_at_random_points_is_continued(real_embedding, kills):
    seconds = real_embedding.run().seconds
    expected = real_embedding.out.read_bytes()
    rng = random.Random(kills)
    for _ in range(kills):
        if real_embedding.out.exists():
            assert real_embedding.out.read_bytes() == expected
            shutil.rmtree(real_embedding.partial, ignore_errors=True)
            real_embedding.out.unlink()
        ended = real_embedding.run(seconds=rng.uniform(0, seconds), kill=signal.SIGKILL)
        assert ended.exit_code in (0, -signal.SIGKILL), ended.stderr
    finishes(real_embedding, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("event", [1, 3, 5, 8, 9, 13, 17, PUBLISHED, 23])
def test_a_signal_stops_cleanly_wherever_it_comes(embedding, expected, number, event):
    ended = embedding.run(event=event, kill=number)
    refused(ended, 128 + number, f"clipkit embed: interrupted by {number.name}")
    assert not embedding.temporary_files()
    finishes(embedding, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_loads_or_encodes(real_embedding, number):
    for seconds in (0.1, 0.4):
        real_embedding.out.unlink(missing_ok=True)
        ended = real_embedding.run(seconds=seconds, kill=number)
        # the signal may come when all is done, even when the interpreter is leaving
        if not real_embedding.out.exists():
            refused(ended, 128 + number, "interrupted by")
        assert not real_embedding.temporary_files()


def test_two_signals_leave_nothing_in_the_temporary_folder(embedding, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = {**embedding.options, "slow": 0.5, "env": {"TMPDIR": str(temporary)}}
    running = embedding.server.start(embedding.folder, "embed", embedding.pictures, **options)
    appears(lambda: list(temporary.rglob("manifest.json")))
    os.kill(running.pid, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        time.sleep(0.01)
        os.kill(running.pid, signal.SIGTERM)  # comes while the first one is being handled
    ended = running.wait()
    assert (ended.exit_code, ended.stdout) == (128 + signal.SIGTERM, b"")
    assert messages(ended.stderr) == "clipkit embed: interrupted by SIGTERM\n"
    assert list(temporary.iterdir()) == []


# Run clipkit with a place where a signal comes at a bad moment: `here` sends it.
BAD_MOMENT = """
import contextlib, os, signal
from clipkit import cli
from clipkit.statistics import softmax

def here(*_):
    os.kill(os.getpid(), signal.SIGTERM)

class Deleted:
    __del__ = here

def lose():
    with contextlib.suppress(BaseException):
        here()

def before_summary(function, summary=softmax.mean_entropy_and_confidence):
    softmax.mean_entropy_and_confidence = lambda *words: (function(), summary(*words))[1]

{moment}
cli.main()
"""


@pytest.mark.parametrize(
    "moment",
    [
        "before_summary(Deleted)",
        "before_summary(lose)",
        "before_summary(lambda: [here(), os.kill(os.getpid(), signal.SIGINT)])",
        "cli.app = here",
    ],
)
def test_a_signal_is_reported_wherever_libraries_lose_its_exception(tmp_path, moment):
    write_feature_file(tmp_path / "logits.h5", "logits")
    line = [sys.executable, "-c", BAD_MOMENT.format(moment=moment), "entropy", "logits.h5"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert re.fullmatch("clipkit( entropy)?: interrupted by SIGTERM\n", ended.stderr)


# Run clipkit with a disk that does not answer: a call into C never returns. Write down whether a
# second signal or the end of the wait for one ends the process.
STUCK = """
import ctypes, os, pathlib, select, types
from clipkit import cli
from clipkit.base import signals

def hang(*_):
    mutex = ctypes.create_string_buffer(128)
    pathlib.Path("stuck").touch()
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def wait(read, write, other, seconds):
    ready = select.select(read, write, other, seconds)
    if seconds == signals.GRACE_SECONDS:
        pathlib.Path("ended by").write_text("a signal" if ready[0] else "the wait")
    return ready

os.fsync = hang
signals.select = types.SimpleNamespace(select=wait)
cli.main()
"""


@contextlib.contextmanager
def stuck(folder, stderr):
    """Start a command that hangs in C while it writes its file."""
    write_feature_file(folder / "logits.h5", "logits")
    line = [sys.executable, "-c", STUCK, "entropy", "logits.h5", "-o", "out.h5", "--force"]
    with subprocess.Popen(line, cwd=folder, stderr=stderr, text=True) as process:
        appears((folder / "stuck").exists)
        time.sleep(0.3)  # from the file to the call that does not return
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("numbers", "cause"),
    [
        ([signal.SIGINT], "the wait"),
        ([signal.SIGTERM, signal.SIGTERM], "the wait"),  # at the same time, as timeout(1) does
        ([signal.SIGTERM, None, signal.SIGTERM], "a signal"),
    ],
)
def test_a_signal_ends_a_command_inside_a_call_that_does_not_return(tmp_path, numbers, cause):
    (tmp_path / "out.h5").write_bytes(b"earlier")
    with stuck(tmp_path, subprocess.PIPE) as process:
        assert [name for name in contents(tmp_path) if name.endswith(".tmp")]
        for number in numbers:
            if number is None:
                time.sleep(0.5)
            else:
                process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert (tmp_path / "ended by").read_text() == cause
    assert process.returncode == 128 + numbers[0]
    assert stderr == f"clipkit entropy: interrupted by {numbers[0].name}\n"
    assert (tmp_path / "out.h5").read_bytes() == b"earlier"
    assert sorted(contents(tmp_path)) == ["ended by", "logits.h5", "out.h5", "stuck"]


@pytest.mark.exhaustive
def test_a_signal_ends_a_command_although_nobody_reads_its_messages(tmp_path):
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, bytes(4096))
    os.set_blocking(write_end, True)
    with stuck(tmp_path, write_end) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    os.close(read_end)
    os.close(write_end)
    assert sorted(contents(tmp_path)) == ["ended by", "logits.h5", "stuck"]


def test_too_small_an_address_space_is_refused_before_a_library_loops_in_it(tmp_path):
    write_feature_file(tmp_path / "logits.h5", "logits")
    ended = shell("ulimit -v 250000; clipkit probe logits.h5", tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "not enough memory: expected at least 2 GiB of address space" in ended.stderr
    assert shell("ulimit -v 250000; clipkit probe --help", tmp_path).returncode == 0


def replace_a_picture(embedding):
    Image.new("RGB", (40, 40), "red").save(embedding.pictures / "a" / "38.png")


def change_the_version(embedding):
    manifest = embedding.partial / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"clipkit":"', '"clipkit":"9.'))


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda embedding: None, ["--normalize"], "normalize was False, is True"),
        (replace_a_picture, [], "image files.all was "),
        (change_the_version, [], "clipkit was 9."),
    ],
)
def test_a_changed_run_is_refused_with_what_changed(embedding, change, words, message):
    embedding.kill_after_shards(1)
    change(embedding)
    problem = f"out.h5.partial belongs to another run: {message}"
    with unchanged(embedding.folder):
        refused(embedding.run(*words), 2, problem, "or add --restart to start over")
    assert messages(embedding.run(*words, "--restart").stderr) == ""
    assert list(contents(embedding.folder)) == ["out.h5"]


def test_a_damaged_manifest_asks_for_a_restart(embedding, expected):
    embedding.kill_after_shards(1)
    (embedding.partial / "manifest.json").write_text("{")
    with unchanged(embedding.folder):
        refused(embedding.run(), 1, "manifest.json: expected JSON", "add --restart to start over")
    assert embedding.run("--restart").exit_code == 0
    assert embedding.out.read_bytes() == expected


def flip_a_feature(shard):
    data = bytearray(shard.read_bytes())
    data[data.index(read(shard).splits["all"].features.tobytes())] ^= 1
    shard.write_bytes(data)


def name_another_run(shard):
    file = read(shard)
    file.history[0]["run"] = "0" * 64
    write(shard, file, force=True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_feature, "all/features does not match its SHA-256: it was changed"),
        (lambda shard: os.truncate(shard, shard.stat().st_size - 1), "it was cut short"),
        (lambda shard: os.truncate(shard, 0), "empty input"),
        (lambda shard: write_feature_file(shard, "texts"), "expected images, got texts"),
        (lambda shard: shutil.copy(shard.with_name("00001.h5"), shard), "of this run, got another"),
        (name_another_run, "expected shard 0 of this run, got another"),
    ],
)
def test_a_damaged_shard_or_one_of_another_run_is_made_again(embedding, expected, damage, reason):
    embedding.kill_after_shards(2)
    damage(embedding.partial / "00000.h5")
    ended = embedding.run()
    assert ended.exit_code == 0
    warning, resuming = messages(ended.stderr).splitlines()
    assert "warning: embedding the images of a damaged shard again: " in warning
    assert reason in warning
    assert resuming == f"clipkit: resuming at {SHARD_ROWS} of {PICTURES}"
    assert embedding.out.read_bytes() == expected


def test_strict_does_not_overlook_what_an_earlier_run_skipped(embedding):
    (embedding.pictures / "a" / "00.png").write_bytes(b"no image")
    embedding.kill_after_shards(1)
    ended = embedding.run("--strict")
    assert ended.exit_code == 1
    assert "a/00.png: cannot read " in ended.stderr
    assert "hint: leave out --strict to skip it" in ended.stderr


def test_leftover_shards_of_a_published_file_do_no_harm(embedding, expected):
    embedding.run(event=PUBLISHED, kill=signal.SIGKILL)
    assert embedding.out.read_bytes() == expected
    assert (embedding.partial / "00002.h5").exists()
    other = ("--force", "--normalize")
    with unchanged(embedding.folder):
        refused(embedding.run(), 2, "the output out.h5 exists")
        refused(embedding.run(*other), 2, "normalize was False, is True", "--restart")
    assert embedding.run(*other, "--restart").exit_code == 0
    assert list(contents(embedding.folder)) == ["out.h5"]


def test_other_files_in_the_folder_of_shards_or_in_its_place_stay(embedding):
    embedding.partial.write_text("mine")
    with unchanged(embedding.folder):
        refused(embedding.run(), 2, "out.h5.partial: expected a folder of shards, got a file")
    embedding.partial.unlink()
    embedding.kill_after_shards(1)
    (embedding.partial / "notes.txt").write_text("mine")
    assert embedding.run().exit_code == 0
    assert list(contents(embedding.folder)) == ["out.h5", "out.h5.partial/notes.txt"]


def test_two_writers_on_one_output(embedding, expected):
    embedding.partial.mkdir()
    with (embedding.partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with unchanged(embedding.folder):
            refused(embedding.run(), 1, "out.h5.partial: another clipkit is writing there")
    finishes(embedding, expected)


def test_two_writers_that_meet_at_the_end(tmp_path):
    output = str(tmp_path / "out.h5")

    def write_while_another_finishes():
        with files.atomic_write(output) as first:
            first.write_bytes(b"first")
            with files.atomic_write(output) as second:
                assert second != first
                second.write_bytes(b"second")

    with pytest.raises(UsageError, match="another program wrote it meanwhile"):
        write_while_another_finishes()
    assert contents(tmp_path) == {"out.h5": b"second"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems read by name")
@pytest.mark.parametrize("ending", ["h5", "npz", "parquet"])
def test_a_reader_does_not_mix_a_file_with_the_one_that_replaces_it(tmp_path, monkeypatch, ending):
    """A writer replaces the input once it is open; the input's digest and its rows are the old."""
    for name, seed in (("old", 0), ("new", 1)):
        rows = {"train/features": random_features(seed=seed)}
        write_feature_file(tmp_path / f"{name}.h5", datasets=rows)
        if ending != "h5":
            ok("convert", tmp_path / f"{name}.h5", tmp_path / f"{name}.{ending}")
    source = tmp_path / f"old.{ending}"
    expected = read_any(source).digest
    spool_input = files.spool_input

    @contextlib.contextmanager
    def replace_meanwhile(name, *signature):
        with spool_input(name, *signature) as file:
            os.replace(tmp_path / f"new.{ending}", name)
            yield file

    for module in (formats, hdf5):
        monkeypatch.setattr(module, "spool_input", replace_meanwhile)
    assert read_any(source).digest == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list open files")
def test_a_reader_opens_its_input_once(tmp_path):
    path = write_feature_file(tmp_path / "img.h5").resolve()
    with hdf5.open_file(path):
        opened = [file for file in Path("/proc/self/fd").iterdir() if file.resolve() == path]
        assert len(opened) == 1


def read_any(path):
    return read(path) if path.suffix == ".h5" else formats.import_file(path)


def test_a_disk_that_fills_up_at_any_byte(fork_server, tmp_path):
    """RLIMIT_FSIZE fails every write beyond it, as a full disk does; HDF5 reports both alike."""
    write_feature_file(tmp_path / "img.h5")
    write_feature_file(tmp_path / "txt.h5", "texts")
    words = ("logits", "img.h5", "txt.h5", "-o", "out.h5", "--force")
    finished = fork_server.run(tmp_path, *words, fake=True)
    assert finished.exit_code == 0, finished.stderr
    size = (tmp_path / "out.h5").stat().st_size
    write_feature_file(tmp_path / "out.h5")
    problem = ("clipkit logits: cannot write out.h5: ", "File too large", "nothing was replaced")
    with unchanged(tmp_path):
        for limit in range(500, size, 311):
            ended = fork_server.run(tmp_path, *words, fake=True, limits={"RLIMIT_FSIZE": limit})
            refused(ended, 1, *problem)


@pytest.fixture
def small_disk(tmp_path, request):
    """A file system of 64 KiB, or of the test's size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = getattr(request, "param", "64k")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    "small_disk", ["4k", "8k", "12k", "16k", "20k", "24k", "28k", "32k"], indirect=True
)
def test_a_full_disk_keeps_the_shards_and_more_room_continues(
    fork_server, small_disk, pictures, expected
):
    embedding = Embedding(fork_server, small_disk, pictures)
    refused(embedding.run(), 1, "No space left on device", "nothing was replaced")
    assert not embedding.out.exists()
    assert not embedding.temporary_files()
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    finishes(embedding, expected)


@pytest.mark.exhaustive
def test_a_full_temporary_folder_while_spooling(fork_server, small_disk, tmp_path):
    rows = {"features": np.ones((6000, 3), "<f4"), "ids": None, "labels": None}
    datasets = {f"train/{key}": value for key, value in rows.items()}
    big = write_feature_file(tmp_path / "big.h5", "logits", datasets=datasets)
    with unchanged(small_disk), subprocess.Popen(["cat", big], stdout=subprocess.PIPE) as cat:
        pipe = f"/dev/fd/{cat.stdout.fileno()}"
        environment = {"TMPDIR": str(small_disk)}
        ended = fork_server.run(tmp_path, "entropy", stdin=pipe, env=environment, fake=True)
        message = f"cannot copy standard input to {small_disk}: No space left on device"
        refused(ended, 1, message, "set TMPDIR")


@pytest.mark.whole
@pytest.mark.parametrize("line", ["info img.h5", "embed shapes -o x.h5", "probe"])
def test_a_folder_that_was_deleted_is_said_to_be_gone(tmp_path, monkeypatch, line):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = clipkit(*line.split())
    monkeypatch.chdir(tmp_path)
    refused(result, 1, "the current folder does not exist any more; hint: change to another one")


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def write(name):
        with files.atomic_write(str(tmp_path / name)) as path:
            path.write_bytes(b"new")

    def fail(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    write("out")
    assert contents(tmp_path) == {"out": b"new"}
    with unchanged(tmp_path), pytest.raises(UsageError):
        write("out")
    monkeypatch.setattr(os, "replace", fail)
    with unchanged(tmp_path), pytest.raises(WriteError):
        write("other")


@pytest.fixture
def logits_of(tmp_path):
    """`logits IMAGES TEXTS -o`, which lacks the output."""
    return (
        "logits",
        write_feature_file(tmp_path / "img.h5"),
        write_feature_file(tmp_path / "txt.h5", "texts"),
        "-o",
    )


def test_output_exists_and_force(logits_of, tmp_path):
    out = tmp_path / "out.h5"
    out.write_bytes(b"earlier")
    logits = write_feature_file(tmp_path / "logits.h5", "logits")
    with unchanged(tmp_path):
        for words in (
            logits_of,
            ("probe", logits, "-o"),
            ("entropy", logits, "-o"),
            ("embed", "digits", "-o"),
            ("textembed", "x", "-o"),
        ):
            refused(clipkit(*words, out), 2, f"the output {out} exists", "add --force to replace")
    ok(*logits_of, out, "--force")
    assert read(out).kind == "logits"


@pytest.mark.parametrize("name", ["img.h5", "../folder/img.h5", "sym.h5", "hard.h5"])
@pytest.mark.whole
@pytest.mark.parametrize(
    "line",
    [
        "logits img.h5 txt.h5",
        "logits img.h5 --random 3",
        "logits other.h5 img.h5",
        "probe img.h5",
        "entropy img.h5",
        "zeroshot img.h5",
        "cluster img.h5",
        "textembed img.h5",
        "textembed --classes img.h5",
        "textembed --classes digits --template img.h5",
    ],
)
def test_a_command_does_not_replace_its_input(tmp_path, monkeypatch, line, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_feature_file(folder / "img.h5")
    Path("sym.h5").symlink_to("img.h5")
    os.link("img.h5", "hard.h5")
    with unchanged(folder):
        for words in ([], ["--force"]):
            ended = clipkit(*line.split(), "-o", name, *words)
            refused(ended, 2, f"the output {name} is an input of this command")


def test_a_command_does_not_replace_its_standard_input(tmp_path):
    write_feature_file(tmp_path / "logits.h5", "logits")
    with unchanged(tmp_path):
        ended = shell("clipkit entropy -o logits.h5 --force < logits.h5", tmp_path)
    assert ended.returncode == 2
    assert "the output logits.h5 is an input of this command" in ended.stderr


@pytest.mark.whole
@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("embed digits -o x.npz", "write x.h5, then: clipkit convert x.h5 x.npz"),
        ("textembed t -o a/x.NPY", "write a/x.h5, then: clipkit convert a/x.h5 a/x.NPY"),
        ("logits i t -o x.y.parquet", "write x.y.h5, then: clipkit convert x.y.h5 x.y.parquet"),
        ("entropy logits.h5 -o x.csv", "write x.h5, then: clipkit convert x.h5 x.csv"),
        ("probe logits.h5 -o x.tsv", "write x.h5"),
        ("zeroshot logits.h5 -o x.json", "write x.h5"),
        ("cluster img.h5 -o x.png", "write x.h5"),
    ],
)
def test_a_feature_file_is_not_named_as_another_format(line, hint):
    message = f"expected an output that ends in .h5, got {line.split()[-1]}; hint: {hint}"
    refused(clipkit(*line.split()), 2, message)


def test_output_is_a_folder_or_lies_in_none(logits_of, tmp_path):
    with unchanged(tmp_path):
        refused(clipkit(*logits_of, tmp_path), 2, "expected a file as output, got the folder ")
        missing = tmp_path / "no" / "x.h5"
        refused(clipkit(*logits_of, missing), 2, f"cannot write {missing}: there is no", "mkdir -p")


def test_a_link_is_followed_and_stays(logits_of, tmp_path):
    (tmp_path / "store").mkdir()
    link, real = tmp_path / "link.h5", tmp_path / "store" / "real.h5"
    link.symlink_to("store/real.h5")
    ok(*logits_of, link)
    first = real.read_bytes()
    refused(clipkit(*logits_of, link), 2, "exists")
    ok(*logits_of, link, "--force", "-t", 2)
    assert link.is_symlink()
    assert real.read_bytes() != first


@pytest.mark.exhaustive
def test_input_larger_than_the_memory_limit(fork_server, tmp_path):
    n = 100_000
    features = np.zeros((n, 512), "<f4")  # 205 MB
    rows = {"features": features, "labels": np.arange(n) % 2, "ids": np.array(["x"] * n)}
    datasets = {f"train/{name}": value for name, value in rows.items()}
    write_feature_file(tmp_path / "big.h5", datasets={**datasets, "test/features": features[:6]})
    with unchanged(tmp_path):
        ended = fork_server.run(tmp_path, "probe", "big.h5", memory=150 << 20, fake=True)
        refused(ended, 1, "not enough memory for the data; hint: use smaller inputs")


def test_a_hint_about_memory_names_options_that_the_command_has(tmp_path, monkeypatch):
    def fail(*_, **options):
        raise MemoryError

    monkeypatch.setattr(pipeline, "embed_images", fail)
    line = fails("embed", "digits", "-m", "tiny", "-o", tmp_path / "out.h5")
    assert line.endswith("for the data; hint: use --limit or a smaller --batch-size\n")
