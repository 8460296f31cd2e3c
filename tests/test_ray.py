"""The Ray engine gives the bytes of one process, whatever happens to its workers."""

import contextlib
import importlib.util
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from factories import contents, messages
from factories.ray_fakes import FakeRay, make_deadly, write_images
from PIL import Image
from shell import clipkit, fails, ok

from clipkit import datasets, embedding, models
from clipkit.base.errors import ClipkitError
from clipkit.embedding import checkpoint, pipeline, ray_cluster, ray_engine

TESTS = Path(__file__).parent
HAS_RAY = importlib.util.find_spec("ray") is not None
RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-m", "tiny", "-b", 4)
OPTIONS = ("-m", "tiny", "-b", 4, "--engine", "ray", "--replicas", 1)
ON_RAY = (*RUN, "--engine", "ray")
HOST = socket.gethostname()
DEADLY_RUN = """
from pathlib import Path
from factories.ray_fakes import make_deadly
make_deadly(9, Path({log!r}), most=1)
from clipkit.embedding import checkpoint
checkpoint.SHARD_ROWS = 4
from clipkit.__main__ import main
main()
"""


def cluster_test(function):
    missing = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: clipkit-vl[ray]")
    for mark in (missing, pytest.mark.long, pytest.mark.exhaustive, pytest.mark.cluster):
        function = mark(function)
    return function


@pytest.fixture(autouse=True)
def shards_of_four(monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 4)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node, whose workers can import the fakes."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        paths = (str(TESTS), os.environ.get("PYTHONPATH", ""))
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 64})
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The file of one process: 20 images in 5 shards."""
    output = tmp_path_factory.mktemp("once") / "out.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SHARD_ROWS", 4)
        ok(*RUN, "-o", output)
    return output.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engine", "rya"), "unknown engine 'rya'; hint: did you mean ray?"),
        (("--replicas", 2), "expected --engine ray with --replicas, got --engine local"),
        (("--engine", "ray", "--part", "1/2"), "expected --part or --engine ray, got both"),
        (("--engine", "ray", "--device", "cuda:1"), "expected --device auto, cpu or cuda"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, tmp_path):
    assert message in fails(*RUN, "-o", tmp_path / "out.h5", *words, exit_code=2)
    assert not contents(tmp_path)


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    line = fails(*ON_RAY, "-o", tmp_path / "out.h5")
    assert line.rstrip().endswith(
        "Ray, which is not installed; hint: install it: pip install 'clipkit-vl[ray]'"
    )


def worker(folder):
    run = models.RunOptions(batch_size=4, num_workers=1)
    return ray_engine.Worker(load_tiny, run, str(folder), models.num_threads())


def load_tiny():
    return models.load("tiny", tower="image")


def test_a_worker_without_the_number_of_threads_or_the_folder_names_its_host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = worker(tmp_path / "none").start().value
    assert error.message.startswith(f"{HOST}: cannot enter the folder {tmp_path}")
    monkeypatch.setattr(models, "num_threads", lambda: 1)
    one = worker(tmp_path)
    monkeypatch.setattr(models, "num_threads", lambda: 3)
    error = one.start().value
    assert isinstance(error, ClipkitError)
    assert error.message == f"{HOST}: expected PyTorch to use 1 threads, got 3"


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: fake)
    return fake


@pytest.fixture
def pictures(tmp_path):
    """A folder with three images."""
    images = [Image.new("RGB", (20, 20), (number, 0, 0)) for number in range(3)]
    (tmp_path / "pictures").mkdir()
    write_images(images, tmp_path / "pictures", "files")
    return tmp_path / "pictures"


def test_a_worker_with_other_images_under_the_same_names_is_refused(ray, pictures, tmp_path):
    ray.after = lambda method: method == "encode" and os.utime(pictures / "0001.png", (1, 1))
    line = fails("embed", pictures, *OPTIONS, "-o", tmp_path / "out.h5")
    assert f"{HOST}: expected the images that {HOST} has" in line


def test_a_worker_may_skip_only_what_the_driver_cannot_read(ray, pictures, tmp_path):
    words = ("embed", pictures, *OPTIONS, "-o", tmp_path / "out.h5")
    path = pictures / "0002.png"
    content, times = path.read_bytes(), path.stat()

    def write(content):
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    write(b"x" * len(content))
    ray.after = lambda method: method == "encode" and write(content)
    assert f"{HOST}: expected to read 0002.png" in messages(clipkit(*words).stderr)
    write(b"x" * len(content))
    ray.after = lambda _: None
    assert clipkit(*words).exit_code == 3


def test_scaled_embeddings_skipped_images_and_errors_are_those_of_one_process(
    ray, pictures, tmp_path
):
    (pictures / "0001.png").write_bytes(b"no image")
    words = ("embed", pictures, "-m", "tiny", "--normalize", "-o")
    assert clipkit(*words, tmp_path / "once.h5").exit_code == 3
    assert clipkit(*words, tmp_path / "out.h5", "--engine", "ray").exit_code == 3
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "once.h5").read_bytes()
    for options in (("--strict",), ("-m", "tinny")):
        once = clipkit(*words, tmp_path / "none.h5", *options)
        result = clipkit(*words, tmp_path / "none.h5", *options, "--engine", "ray")
        assert once.exit_code == result.exit_code > 0
        assert once.stderr.splitlines()[-1] == result.stderr.splitlines()[-1]


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_a_worker_with_another_file_of_images_is_refused(form, ray, tmp_path):
    path = tmp_path / f"images.{form}"
    write_images([Image.new("RGB", (20, 20))] * 3, tmp_path, form)
    ray.after = lambda _: os.utime(path, (1, 1))
    line = fails("embed", path, *OPTIONS, "-o", tmp_path / "out.h5")
    assert f"{path}: expected the size and time" in line


@pytest.fixture
def embeds(tmp_path, expected):
    """Embed with a number of replicas; the file must be that of one process."""

    def run(replicas):
        result = ok(*ON_RAY, "-o", tmp_path / "out.h5", "--replicas", replicas)
        assert (tmp_path / "out.h5").read_bytes() == expected
        return result

    return run


def test_a_replica_that_cannot_start_is_given_up_with_a_warning(ray, embeds, tmp_path):
    ray.dies = lambda number, _: number != 1
    text = "workers died while they started, the last one of: No module named 'clipkit';"
    warning = f"warning: {text} that replica is given up, 1 are left\n"
    assert warning in embeds(2).stderr
    assert ray.workers == 2
    ray.dies = lambda *_: True  # and without any, the run ends
    assert text in fails(*ON_RAY, "-o", tmp_path / "none.h5", "--replicas", 1)


def test_a_run_ends_if_the_node_that_it_runs_on_is_lost(ray, tmp_path):
    def dies(number, name):
        ray.is_alive = name == "start"
        return not ray.is_alive

    ray.dies = dies
    line = fails(*ON_RAY, "-o", tmp_path / "out.h5", "--replicas", 1)
    assert "lost the connection to Ray: its process on this machine has ended; hint: " in line


def test_a_run_that_waits_for_a_worker_says_so_and_looks_for_its_node(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "NOTE_SECONDS", 0.0)
    states = [True, True, False]

    def wait(*_, **options):
        ray.is_alive = states.pop(0)
        return [], []

    monkeypatch.setattr(ray, "wait", wait)
    result = clipkit(*ON_RAY, "-o", tmp_path / "out.h5")
    assert result.exit_code == 1
    first, last = messages(result.stderr).splitlines()[-2:]
    assert first.endswith(
        "waiting for a place with 1 CPU for a worker; ray status shows what is free"
    )
    assert "lost the connection to Ray" in last


@pytest.fixture
def clock(ray, monkeypatch):
    """The time of the fake, which passes only while all workers hang."""
    monkeypatch.setattr(ray_engine, "time", SimpleNamespace(monotonic=lambda: ray.seconds))


def hanging(result):
    """Return the seconds after which each worker was killed."""
    return list(map(int, re.findall(r"no answer from .* for (\d+) s,", result.stderr)))


def test_a_worker_that_hangs_is_killed_and_another_one_takes_its_place(ray, clock, embeds):
    ray.hangs = lambda number, method: (number, method) == (1, "encode")
    result = embeds(2)
    assert hanging(result) == [70]  # others need no time
    assert f"no answer from process {os.getpid()} on {HOST} for 70 s, so it was" in result.stderr
    assert (ray.workers, ray.killed) == (3, {1})


def test_a_first_shard_has_no_limit_but_a_note_says_that_no_worker_answers(ray, clock, embeds):
    ray.hangs = lambda _, method: method == "encode" and ray.seconds < 1000
    result = embeds(1)
    assert "waiting for shards: no worker has answered for 600 s" in result.stderr
    assert (ray.workers, ray.killed) == (1, set())


def test_a_worker_hangs_after_five_times_what_a_shard_takes_and_loading(ray, clock, embeds):
    ray.hangs = lambda number, method: (number, method) == (1, "encode")

    def pass_time(method):
        if method == "encode":
            ray.seconds += 30

    ray.after = pass_time
    # a replica has two shards, so they take 30, 60 and 60 s
    (seconds,) = hanging(embeds(2))
    assert 300 < seconds <= 370


def test_a_slow_shard_has_five_times_the_time_when_it_is_tried_again():
    queue = ray_engine._Queue(2)
    assert queue.limit(0, loading=1) == math.inf
    queue.finish(SimpleNamespace(began=time.monotonic() - 9))
    assert queue.limit(1, loading=20) == pytest.approx(65, abs=1)
    queue.retry(1)
    assert queue.limit(1, loading=20) == pytest.approx(245, abs=5)


def test_no_worker_hangs_before_half_a_minute():
    queue = ray_engine._Queue(2)
    queue.finish(SimpleNamespace(began=time.monotonic()))
    assert queue.limit(1, loading=1) == ray_engine.SHORTEST_SECONDS == 30


@pytest.mark.parametrize("method", ["nodes", "actor", "wait", "get"])
def test_each_call_to_ray_reports_a_lost_connection(method, ray, tmp_path, monkeypatch):
    def fail(*_, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(ray, method, fail)
    line = fails(*ON_RAY, "-o", tmp_path / "out.h5")
    assert "lost the connection to Ray: [Errno 32] Broken pipe; hint: " in line


@pytest.mark.long
def test_an_engine_of_ray_encodes_again(ray, tmp_path, capsys):
    data = datasets.load("digits", splits=["test"], limit=12)
    options = models.RunOptions(batch_size=4, num_workers=1)
    with ray_engine.connect(load_tiny, options) as engine:
        for name in ("a.h5", "b.h5"):
            embedding.embed_images(data, engine, str(tmp_path / name))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    notes = capsys.readouterr().err
    for number in (1, 2):
        assert notes.count(f"{number} of 2 replicas have loaded the model\n") == 2


def test_a_worker_with_another_model_is_refused_by_its_host(ray, tmp_path, monkeypatch):
    load, seeds = pipeline.load_encoder, [1, 2]

    def load_another(name, options):
        return load(name, replace(options, untrained=seeds.pop(0)))

    monkeypatch.setattr(pipeline, "load_encoder", load_another)
    result = clipkit(*ON_RAY, "--replicas", 2, "-o", tmp_path / "out.h5")
    assert result.exit_code == 1
    line = messages(result.stderr).splitlines()[-1]
    assert f"{HOST}: expected the model files.weights of {HOST}, sha256:" in line
    assert "hint: install the same versions and models on all machines" in line


@pytest.mark.parametrize(("cpus", "workers"), [([0, 4], 1), ([0], 1)])
def test_a_node_without_a_cpu_gets_no_replica(cpus, workers, ray, tmp_path):
    ray.cpus = cpus
    ok(*ON_RAY, "-o", tmp_path / "out.h5")
    assert ray.workers == workers


def embed_on_gpus(output):
    """Embed on replicas that take a GPU each, and encode on their CPU."""
    data = datasets.load("digits", splits=["test"], limit=20)
    options = models.RunOptions(batch_size=4, num_workers=1, device="cuda")
    with ray_engine.connect(load_tiny, options) as engine:
        embedding.embed_images(data, engine, str(output))


def test_gpus_that_join_a_cluster_without_any_get_replicas(ray, clock, tmp_path, capsys):
    ray.gpus = [0, 0]

    def has_no_place(number, method):
        ray.gpus = [0, 2 if ray.seconds > 100 else 0]
        return number >= ray.gpus[1]

    def pass_time(_):
        ray.seconds += 10

    ray.hangs, ray.after = has_no_place, pass_time
    embed_on_gpus(tmp_path / "out.h5")
    assert ray.options["num_gpus"] == 1
    assert ray.workers == 2
    first, waiting, *_ = capsys.readouterr().err.splitlines()
    assert first.endswith("and 0 GPUs on 2 machines; each replica takes 1 GPU")
    assert "waiting for a place with 1 GPU for a worker" in waiting


def test_a_worker_that_loads_the_model_is_told_from_one_without_a_place(ray, clock, tmp_path):
    ray.hangs = lambda _, method: method == "start" and ray.seconds < 100
    line = "waiting for a worker, which is loading the model"
    assert line in ok(*ON_RAY, "-o", tmp_path / "out.h5").stderr


def test_a_replica_without_a_gpu_reserves_the_cpus_that_it_uses(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "set_num_threads", lambda _: None)
    monkeypatch.setattr(models, "num_threads", lambda: 4)
    ray.cpus = [0, 4, 8, 2]
    ray.gpus = [0, 0, 0, 0]
    ok(*ON_RAY, "-o", tmp_path / "out.h5")
    assert ray.options["num_cpus"] == 4
    assert ray.workers == 2  # the last machine is too small


@cluster_test
def test_a_gpu_that_joins_a_cluster_after_the_start_is_used(cluster, tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr(ray_engine, "NOTE_SECONDS", 1.0)
    monkeypatch.setattr(
        ray_engine.RayEngine,
        "_note_waiting",
        lambda _: joined or joined.append(cluster.add_node(num_cpus=1, num_gpus=1)),
    )
    embed_on_gpus(tmp_path / "out.h5")
    cluster.remove_node(*joined)


@cluster_test
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "ray://127.0.0.1:1"])
def test_an_address_without_ray_is_said_in_one_line(address, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    is_usage = address.startswith("ray:")
    line = fails(*ON_RAY, "-o", tmp_path / "out.h5", exit_code=2 if is_usage else 1)
    assert address in line
    assert not contents(tmp_path)


def test_a_message_of_ray_is_the_beginning_of_its_last_line():
    error = RuntimeError(
        "The actor died.\n\tpid: 3\r\nIt was killed. There are causes: " + "x" * 500
    )
    line = ray_cluster.last_line(error)
    assert line.startswith("It was killed. There are")
    assert len(line) < 210
    assert ray_cluster.last_line(OSError()) == "OSError"


@cluster_test
def test_replicas_give_the_file_of_one_process(cluster, embeds, tmp_path):
    embeds(2)
    assert list(contents(tmp_path)) == ["out.h5"]


@cluster_test
def test_a_file_on_standard_output_is_alone_there_although_a_worker_was_killed(
    cluster, expected, tmp_path
):
    log = tmp_path / "log"
    script = DEADLY_RUN.format(log=str(log))
    words = [str(word) for word in (*ON_RAY, "-o", "-", "--replicas", 2)]
    # the number of threads that the expected file was made with
    env = {**os.environ, "OMP_NUM_THREADS": str(models.num_threads())}
    done = subprocess.run([sys.executable, "-c", script, *words], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected
    assert log.read_text() == "x"
    assert all(line.startswith(b"clipkit: ") for line in done.stderr.splitlines()), done.stderr


@cluster_test
def test_a_worker_that_is_stopped_holds_up_no_run(cluster, embeds, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "HANG_TIMES", 1.5)
    monkeypatch.setattr(datasets, "load", datasets.load)
    make_deadly(9, tmp_path / "log", 1, signal.SIGSTOP)
    assert "so it was killed; another worker takes its place" in embeds(2).stderr


@cluster_test
def test_a_shard_whose_workers_die_is_named_after_all_others_are_kept(
    cluster, expected, tmp_path, monkeypatch
):
    output, log = tmp_path / "out.h5", tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load", datasets.load)
        make_deadly(9, log)
        result = clipkit(*ON_RAY, "-o", output, "--replicas", 1)
    assert result.exit_code == 1
    line = messages(result.stderr).splitlines()[-1]
    assert "test: workers died while they encoded shard 2, 4 images from 0540 on; hint: " in line
    assert 3 <= len(log.read_text()) <= 6  # three attempts, each of which Ray repeats if it can
    shards = [path.stem for path in sorted((tmp_path / "out.h5.partial").glob("*.h5"))]
    assert shards == ["00000", "00001", "00003", "00004"]
    assert "resuming at 16 of 20" in ok(*RUN, "-o", output).stderr
    assert output.read_bytes() == expected


@cluster_test
def test_a_node_that_is_lost_changes_nothing(cluster, expected, tmp_path, monkeypatch):
    node = cluster.add_node(num_cpus=1)
    save = checkpoint.Checkpoint.save

    def save_and_remove(self, shard, *arguments):
        save(self, shard, *arguments)
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save_and_remove)
    ok(*ON_RAY, "-o", tmp_path / "out.h5")
    assert node not in cluster.worker_nodes
    assert (tmp_path / "out.h5").read_bytes() == expected


@cluster_test
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_driver_that_was_stopped_is_continued(number, code, cluster, fork_server, tmp_path):
    options = {"shard": 4, "env": {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}}
    words = (*ON_RAY, "-o", "out.h5")
    ended = fork_server.run(tmp_path, *words, event=9, kill=number, **options)
    assert ended.exit_code == code, ended.stderr
    assert (tmp_path / "out.h5.partial" / "manifest.json").exists()
    again = fork_server.run(tmp_path, *words, **options)
    assert again.exit_code == 0, again.stderr
    once = fork_server.run(tmp_path, *RUN, "-o", "once.h5", shard=4)
    assert once.exit_code == 0, once.stderr
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "once.h5").read_bytes()


# The connection


class Ray:
    """What `connected` calls of Ray's module, which says `fault` when it starts."""

    def __init__(self, fault=""):
        self.fault = fault
        self.options = {}

    def is_initialized(self):
        return False

    def init(self, address, **options):
        self.options = {"address": address, **options}
        if self.fault:
            raise OSError(self.fault)

    def shutdown(self):
        pass


@pytest.fixture
def no_cluster(monkeypatch):
    """Neither an address of Ray nor a token is set, and none stays."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "one")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setattr(ray_cluster, "cpu_count", lambda: 4)


def test_ray_on_one_machine_has_its_cores_and_a_token_of_its_own(no_cluster, capsys):
    ray = Ray()
    with ray_cluster.connected(ray) as is_own:
        assert is_own
        assert (ray.options["address"], ray.options["num_cpus"]) == ("local", 4)
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "starting Ray on this machine" in capsys.readouterr().err


def test_a_ray_that_cannot_start_here_is_refused_with_a_hint(no_cluster):
    ray = Ray("AF_UNIX path is too long")
    message = "cannot start Ray: AF_UNIX path"
    with pytest.raises(ClipkitError, match=message) as caught, ray_cluster.connected(ray):
        pass
    assert caught.value.hint == "set TMPDIR to a folder with a short path"


def test_more_replicas_than_this_machine_has_places_for_are_refused(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "connected", lambda _: contextlib.nullcontext(True))
    words = (*ON_RAY, "-o", tmp_path / "out.h5")
    line = fails(*words, "--replicas", 10_000, exit_code=2)
    assert "room for 10,000 replicas on this machine, with 1 CPU each, got room for 4" in line
    line = fails(*words, "--device", "cuda", exit_code=2)
    assert "room for 1 replica on this machine, with 1 GPU each, got room for 0" in line


@pytest.fixture
def service():
    """The address of a service that is not Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


FAULT = "echo one >&2; echo RuntimeError: Version mismatch >&2; exit 1"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (FAULT, "RuntimeError: Version mismatch"),
        ("sleep 60", "no answer within 0.2 s"),
        ("", "cannot ask ray health-check: Permission denied"),
    ],
)
def test_what_ray_has_against_an_address_is_said_in_one_line(
    script, reason, service, no_cluster, tmp_path, monkeypatch
):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{script}")
    python.chmod(0o755 if script else 0o644)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(ray_cluster, "HEALTH_SECONDS", 0.2 if "sleep" in script else 20)
    monkeypatch.setenv("RAY_ADDRESS", service)
    with pytest.raises(ClipkitError) as caught, ray_cluster.connected(Ray()):
        pass
    assert caught.value.message == f"cannot connect to Ray at {service}: {reason}"
    python.write_text("#!/bin/bash\n")
    python.chmod(0o755)
    with ray_cluster.connected(Ray()):
        pass


@cluster_test
def test_ray_on_one_machine_writes_nothing_into_the_home(fork_server, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    env = {"RAY_ADDRESS": "", "HOME": str(home)}
    done = fork_server.run(tmp_path, *ON_RAY, "-o", "out.h5", env=env)
    assert done.exit_code == 0, done.stderr
    assert not (home / ".ray").exists()
