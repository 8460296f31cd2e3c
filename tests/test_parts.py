"""Long runs: the number of threads is part of a run, and several processes share one."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
from dataclasses import replace
from signal import SIGKILL

import pytest
from factories import contents, messages, unchanged
from factories.runs import stop_at
from PIL import Image
from shell import clipkit, fails, ok

from clipkit import embedding, features, models
from clipkit.base.errors import UsageError
from clipkit.datasets import load
from clipkit.embedding import checkpoint

real_load = models.load
RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-m", "tiny", "-b", 4)


@pytest.fixture(autouse=True)
def shards_of_four(monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 4)


@functools.cache
def load_once(*arguments, **options):
    return real_load(*arguments, **options)


@pytest.fixture(autouse=True)
def models_loaded_once(monkeypatch):
    """Keep models: the processes of a run would load them each."""

    def load(*names, options=None, **settings):
        if options is None:
            return load_once(*names, **settings)
        layers = options.layers and tuple(options.layers)
        return load_once(*names, options=replace(options, layers=layers), **settings)

    monkeypatch.setattr(models, "load", load)


@contextlib.contextmanager
def one_thread():
    """Compute in one thread, and set the number back at the end."""
    number = models.num_threads()
    models.set_num_threads(1)
    yield
    models.set_num_threads(number)


@pytest.fixture(autouse=True)
def own_threads():
    with one_thread():
        yield


def stop_with_three_threads(folder, monkeypatch):
    """Interrupt a run of three threads, go on in one, and return the run's output."""
    models.set_num_threads(3)
    stop_at(2, monkeypatch, *RUN, "-o", folder / "out.h5")
    models.set_num_threads(1)
    return folder / "out.h5"


@pytest.mark.long
def test_a_run_continues_with_the_number_of_threads_that_it_began_with(tmp_path, monkeypatch):
    output = stop_with_three_threads(tmp_path, monkeypatch)
    note = "clipkit: computing with 3 threads in place of 1, as the run began\n"
    assert note in messages(ok(*RUN, "-o", output).stderr)
    assert models.num_threads() == 3
    ok(*RUN, "-o", tmp_path / "once.h5")
    assert output.read_bytes() == (tmp_path / "once.h5").read_bytes()


def test_a_run_that_starts_over_uses_its_own_number_of_threads(tmp_path, monkeypatch):
    output = stop_with_three_threads(tmp_path, monkeypatch)
    ok(*RUN, "-o", output, "--restart")
    assert models.num_threads() == 1
    assert list(contents(tmp_path)) == ["out.h5"]


def test_the_library_refuses_another_number_of_threads(tmp_path, monkeypatch):
    output = stop_with_three_threads(tmp_path, monkeypatch)
    data = load("digits", splits=["test"], limit=20)
    encoder = models.load("tiny", tower="image")
    with unchanged(tmp_path), pytest.raises(UsageError, match=r"threads was 3, is 1; hint"):
        embedding.embed_images(data, encoder, str(output), batch_size=4)


@pytest.mark.parametrize("number", [0, 100_000, "2", None])
def test_a_number_of_threads_that_cannot_be_used_is_refused(number, tmp_path, monkeypatch):
    stop_at(2, monkeypatch, *RUN, "-o", tmp_path / "out.h5")
    manifest = tmp_path / "out.h5.partial" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "threads": number}))
    with unchanged(tmp_path):
        line = fails(*RUN, "-o", tmp_path / "out.h5", exit_code=2)
    assert f"belongs to another run: threads was {number}, is " in line


def part(number, output, *words):
    """Run a part of seven; return its exit code and what it says."""
    result = clipkit(*RUN, "-o", output, "--part", f"{number}/7", *words)
    assert not result.stdout
    return result.exit_code, messages(result.stderr)


def parts(numbers, output, *words):
    """Run some parts of seven, and return what the last of them says."""
    for number in numbers:
        code, message = part(number, output, *words)
        assert code == 0, message
    return message


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The file of one process: 20 images in 5 shards."""
    output = tmp_path_factory.mktemp("once") / "out.h5"
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(checkpoint, "SHARD_ROWS", 4)
        ok(*RUN, "-o", output)
    return output.read_bytes()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


@contextlib.contextmanager
def locked(output, operation=fcntl.LOCK_EX):
    """Hold the lock of an output's shards, as another process does."""
    partial = output.with_name("out.h5.partial")
    partial.mkdir(exist_ok=True)
    with (partial / "lock").open("a") as lock:
        fcntl.flock(lock, operation)
        yield


@pytest.mark.long
@pytest.mark.parametrize("killed", range(1, 8))
def test_parts_give_the_file_of_one_process_whichever_is_killed(
    killed, output, expected, monkeypatch
):
    for number in range(1, 8):
        words = (*RUN, "-o", output, "--part", f"{number}/7")
        if number == killed and number <= 5:
            stop_at(0, monkeypatch, *words)
        else:
            ok(*words)
    if killed <= 5:
        assert not output.exists()
        message = f"clipkit: part {killed} of 7 is done; it published {output}\n"
        assert part(killed, output) == (0, message)
    assert output.read_bytes() == expected
    assert list(contents(output.parent)) == ["out.h5"]


def test_a_part_says_what_is_missing(output, expected):
    parts((2, 4), output)
    assert parts([6], output) == (
        "clipkit: part 6 of 7 is done; 2 of 5 shards are finished; unfinished parts: 1, 3, 5\n"
    )
    assert "unfinished parts: 5\n" in parts((1, 3, 3), output)
    parts([5], output)
    assert output.read_bytes() == expected
    message = f"clipkit: nothing to do for part 2 of 7: {output} is published\n"
    assert part(2, output) == (0, message)
    assert list(contents(output.parent)) == ["out.h5"]


def test_one_process_or_another_number_of_parts_continues_what_parts_began(
    output, expected, tmp_path
):
    part(2, output)
    assert "clipkit: resuming at 4 of 20" in ok(*RUN, "-o", output).stderr
    assert output.read_bytes() == expected
    other = tmp_path / "other.h5"
    part(2, other)
    for share, message in (("1/2", "4 of 5 shards"), ("2/2", "resuming at 4 of 8")):
        assert message in ok(*RUN, "-o", other, "--part", share).stderr
    assert other.read_bytes() == expected


def test_a_shard_that_is_listed_late_is_published_by_any_part_that_runs_again(output, expected):
    parts(range(1, 5), output)
    shard, elsewhere = output.with_name("out.h5.partial") / "00003.h5", output.with_name("late")
    shard.rename(elsewhere)
    assert "unfinished parts: 4\n" in parts([5], output)
    elsewhere.rename(shard)
    assert f"it published {output}\n" in parts([1], output)
    assert output.read_bytes() == expected


LAYERS = (*RUN, "--normalize", "--layers", "0,2,-1", "-o")


@pytest.fixture
def layer_files(tmp_path):
    """The SHA-256 of the files of one process, by name; an empty folder parts is there, too."""
    (tmp_path / "once").mkdir()
    (tmp_path / "parts").mkdir()
    ok(*LAYERS, tmp_path / "once" / "l{layer}.h5")
    files = digests(tmp_path / "once")
    assert list(files) == ["l0.h5", "l2.h5", "l4.h5"]
    return files


def digests(folder):
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


@pytest.mark.long
def test_any_part_continues_one_that_published_only_some_layers(layer_files, tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    words = (*LAYERS, folder / "l{layer}.h5", "--part")
    ok(*words, "1/2")
    write = features.write

    def stop_at_second(output, *arguments, **options):
        if str(output).endswith("l2.h5"):
            raise KeyboardInterrupt
        return write(output, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(features, "write", stop_at_second)
        assert clipkit(*words, "2/2").exit_code == 130
    assert [path.name for path in folder.glob("*.h5")] == ["l0.h5"]
    (folder / "l2.h5").write_bytes(b"mine")
    with unchanged(folder):
        assert "l2.h5 exists" in fails(*words, "1/2", exit_code=2)
    (folder / "l2.h5").unlink()
    assert "it published" in ok(*words, "1/2").stderr
    assert digests(folder) == layer_files


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (("-b", 2), "batch_size was 4, is 2"),
        (("--normalize",), "normalize was False, is True"),
        (("--limit", 16), "dataset.splits.test.images was 20, is 16"),
        (("--untrained", 1), "model.untrained was absent, is 1"),
    ],
)
def test_parts_of_different_runs_are_refused(words, change, output):
    part(2, output)
    with unchanged(output.parent):
        code, message = part(3, output, *words)
    assert code == 2
    assert change in message


def test_a_part_computes_with_the_threads_of_the_first(output):
    models.set_num_threads(3)
    part(1, output)
    models.set_num_threads(2)
    note = "clipkit: computing with 3 threads in place of 2, as the run began\n"
    assert parts([2], output).startswith(note)


def test_a_part_needs_a_file_as_output(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for output in ("-", tmp_path / "fifo"):
        assert "expected -o FILE with --part" in fails(
            *RUN, "-o", output, "--part", "1/7", exit_code=2
        )


@pytest.mark.parametrize("text", ["0/7", "8/7", "1", "a/b", "1/0", "-1/7", "1/7/9", "", "1/1e9"])
def test_a_part_that_is_none_is_refused(text, output):
    line = fails(*RUN, "-o", output, f"--part={text}", exit_code=2)
    assert f"expected --part I/N with I from 1 to N, got {text!r}" in line
    assert not contents(output.parent)


@pytest.mark.long
def test_an_existing_output_of_another_run_is_refused_or_replaced(output, expected):
    ok(*RUN, "-o", output, "--normalize")
    with unchanged(output.parent):
        code, message = part(1, output)
    assert (code, message.count("exists")) == (2, 1)
    parts(range(1, 6), output, "--force")
    assert output.read_bytes() == expected


@pytest.mark.long
def test_restart_of_a_part_drops_another_run_and_of_its_own_run_only_its_shards(output, expected):
    partial = output.with_name("out.h5.partial")
    parts((1, 2), output, "--normalize")
    for number, names in ((3, ["00002"]), (4, ["00002", "00003"]), (3, ["00002", "00003"])):
        parts([number], output, "--restart")
        assert [path.stem for path in sorted(partial.glob("*.h5"))] == names
    parts((1, 2, 5), output, "--restart")
    assert output.read_bytes() == expected


def test_restart_is_refused_while_parts_of_another_run_are_at_work(output):
    part(1, output)
    with locked(output, fcntl.LOCK_SH), unchanged(output.parent):
        code, message = part(2, output, "--normalize", "--restart")
    assert code == 2
    assert "normalize was False, is True; hint: other parts of that run are at work" in message


def test_whole_runs_and_parts_do_not_run_at_once(output, monkeypatch):
    monkeypatch.setattr(checkpoint, "LOCK_SECONDS", 0.3)
    with locked(output, fcntl.LOCK_SH):
        assert "another clipkit is writing there" in fails(*RUN, "-o", output)
    with locked(output):
        assert "another clipkit is writing there" in part(1, output)[1]


@pytest.mark.long
def test_the_part_that_cannot_have_the_lock_leaves_publishing_to_the_other(
    output, expected, monkeypatch
):
    monkeypatch.setattr(checkpoint, "LOCK_SECONDS", 0.3)
    parts(range(1, 5), output)
    with locked(output, fcntl.LOCK_SH):  # by the other part
        message = parts([5], output)
    assert f"all 5 shards are finished, and another part publishes {output}\n" in message
    parts([6], output)
    assert output.read_bytes() == expected


@pytest.mark.parametrize("step", ["before it reads", "before it publishes", "before it removes"])
@pytest.mark.parametrize("words", [(), ("--force",)])
@pytest.mark.long
def test_two_finishers_where_there_are_no_locks_both_succeed(
    step, words, output, expected, monkeypatch
):
    """The second finisher does all its work in the middle of the first."""

    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(checkpoint.fcntl, "flock", no_locks)
    parts(range(1, 5), output, *words)
    owner, name = {
        "before it reads": (checkpoint.Checkpoint, "load_finished"),
        "before it publishes": (features, "write"),
        "before it removes": (checkpoint.Checkpoint, "remove"),
    }[step]
    real = getattr(owner, name)
    others = []

    def wait_for_the_other(*arguments, **options):
        is_end = step != "before it publishes" or str(arguments[0]) == str(output)
        if is_end and len(list(output.parent.glob("*/*.h5"))) == 5 and not others:
            others.append((0, ""))
            others[0] = part(6, output, *words)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, wait_for_the_other)
    parts([5], output, *words)
    assert others[0][0] == 0
    assert output.read_bytes() == expected
    assert list(contents(output.parent)) == ["out.h5"]


def test_a_damaged_shard_is_said_to_be_missing_and_made_again(output, expected):
    parts(range(1, 5), output)
    (output.with_name("out.h5.partial") / "00001.h5").write_bytes(b"")
    assert "4 of 5 shards are finished; unfinished parts: 2\n" in parts([5], output)
    parts([2], output)
    assert output.read_bytes() == expected


def write_pictures(folder, damaged=()):
    """Write twelve images, which are three shards; some of them are damaged."""
    folder.mkdir(exist_ok=True)
    for number in range(12):
        path = folder / f"{number:02}.png"
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(path)
        if number in damaged:
            path.write_bytes(b"no image")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Images of which those of the second shard and one of the third are damaged."""
    return write_pictures(tmp_path / "pictures", (4, 5, 6, 7, 9))


def test_parts_list_skipped_images_and_exit_with_3(pictures, tmp_path):
    words = ("embed", pictures, "-m", "tiny", "-b", 4)
    once = clipkit(*words, "-o", tmp_path / "once.h5")
    assert once.exit_code == 3
    codes = []
    for number in (2, 1, 3):
        result = clipkit(*words, "-o", tmp_path / "out.h5", "--part", f"{number}/3")
        codes.append((result.exit_code, result.stderr.count("skipped all/")))
    assert codes == [(3, 4), (0, 0), (3, 5)]
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "once.h5").read_bytes()
    assert not (tmp_path / "out.h5.partial").exists()


def test_a_part_tries_images_again_if_it_could_use_none(pictures, tmp_path):
    words = ("embed", pictures, "-m", "tiny", "-b", 4, "-o", tmp_path / "out.h5", "--part")
    for _ in range(2):
        result = clipkit(*words, "2/3")
        assert result.exit_code == 3
        assert "1 of 3 shards are finished; unfinished parts: 1, 3" in result.stderr
        assert "resuming" not in result.stderr


def test_strict_parts_stop_at_what_any_part_skipped(pictures, tmp_path):
    words = ("embed", pictures, "-m", "tiny", "-b", 4, "-o", tmp_path / "out.h5", "--part")
    assert "04.png: " in fails(*words, "2/3", "--strict")
    assert [clipkit(*words, f"{number}/3").exit_code for number in (2, 3)] == [3, 3]
    assert "04.png: " in fails(*words, "1/3", "--strict").splitlines()[-1]
    assert not (tmp_path / "out.h5").exists()


def test_a_run_without_usable_images_ends_with_the_reason(tmp_path):
    folder = write_pictures(tmp_path / "pictures", range(12))
    words = ("embed", folder, "-m", "tiny", "-o", tmp_path / "out.h5", "--part")
    assert clipkit(*words, "1/2").exit_code == 3
    assert "all: expected at least one usable image, got none" in fails(*words, "2/2")
    assert not (tmp_path / "out.h5.partial").exists()


@pytest.mark.long
def test_parts_of_a_data_set_that_is_split_off(tmp_path):
    words = (*RUN, "--split-off", "val=0.4", "-o")
    ok(*words, tmp_path / "once.h5")
    for number in (1, 2):
        ok(*words, tmp_path / "out.h5", "--part", f"{number}/2")
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "once.h5").read_bytes()


def run_part(server, pictures, folder, number, **options):
    """Start a part of three in its own process, with a model that costs nothing."""
    words = ("embed", pictures, "-o", "out.h5", "-b", 2, "--part", f"{number}/3")
    return server.start(folder, *words, shard=4, fake=True, **options)


@pytest.fixture
def all_good(tmp_path):
    return write_pictures(tmp_path / "good")


@pytest.mark.exhaustive
def test_parts_that_run_at_once_publish_one_file(fork_server, all_good, tmp_path):
    files = set()
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        running = [run_part(fork_server, all_good, folder, number) for number in (1, 2, 3)]
        ended = [one.wait() for one in running]
        texts = [one.stderr for one in ended]
        assert [one.exit_code for one in ended] == [0, 0, 0], texts
        assert sum("it published out.h5" in text for text in texts) == 1, texts
        assert list(contents(folder)) == ["out.h5"]
        files.add((folder / "out.h5").read_bytes())
    assert len(files) == 1


@pytest.mark.exhaustive
def test_a_part_killed_between_any_two_changes_to_the_disk_is_continued(
    fork_server, all_good, tmp_path
):
    files = set()
    event = 0
    while True:
        event += 1
        folder = tmp_path / str(event)
        folder.mkdir()
        for number in (1, 2):
            assert run_part(fork_server, all_good, folder, number).wait().exit_code == 0
        ended = run_part(fork_server, all_good, folder, 3, event=event, kill=SIGKILL).wait()
        if ended.exit_code == 0:
            break
        again = run_part(fork_server, all_good, folder, 3).wait()
        assert again.exit_code == 0, again.stderr
        files.add((folder / "out.h5").read_bytes())
    assert event > 10
    assert len(files) == 1


@pytest.mark.parametrize(
    ("size", "shards"), [(None, 2), (1, 10), (5, 10), (9, 10), (16, 4), (40, 2)]
)
def test_a_file_is_the_same_for_every_size_of_shards(size, shards, tmp_path, monkeypatch):
    """Blocks of 40 images are divided between batches of 5; nothing else changes."""
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 40)
    saved = []
    save = checkpoint.Checkpoint.save
    monkeypatch.setattr(
        checkpoint.Checkpoint,
        "save",
        lambda self, shard, *rest: (saved.append(len(shard.rows)), save(self, shard, *rest)),
    )
    words = ("embed", "digits", "--split", "test", "--limit", "48", "-m", "tiny", "-b", "5", "-o")
    ok(*words, tmp_path / "whole.h5")
    saved.clear()
    more = [] if size is None else ["--shard-size", size]
    ok(*words, tmp_path / "sized.h5", *more)
    assert (tmp_path / "sized.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert (len(saved), sum(saved)) == (shards, 48)
