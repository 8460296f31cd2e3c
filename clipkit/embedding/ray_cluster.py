"""Connect to a Ray cluster, or start one on this machine, and say how to start workers there."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from joblib import cpu_count  # type: ignore[import-untyped]

from clipkit import models
from clipkit.base import console, signals
from clipkit.base.errors import ClipkitError, UsageError, shorten, system_reason
from clipkit.models.libraries import import_library

ADDRESS_SECONDS = 5.0  # for an address to accept a connection
HEALTH_SECONDS = 20.0  # for Ray to answer whether it runs there
CONNECT_SECONDS = 60.0  # for Ray to answer or to start
POLL_SECONDS = 0.05
LONGEST_REASON = 200  # characters
CLOSE_SECONDS = 20.0  # for Ray to end
HINT = "does Ray run there? RAY_AUTH_MODE and the token must be the same as where it was started"
LOGS = "Ray's logs are on each machine in ray/session_latest/logs below TMPDIR, or else below /tmp"


# By Ray, of the calls to a worker that dies. It may spend them before another one runs.
RETRIES = 1


@dataclass(frozen=True)
class Pool:
    """A connection to Ray, which starts workers."""

    ray: Any
    new_actor: Callable[[], Any]
    wanted: Callable[[], int]  # workers, which follow the cluster unless the number was given
    needs: str  # of a worker
    node: str  # that this process runs on

    def check_node(self) -> None:
        """Refuse to go on if Ray has lost the node of this process: no worker would get a place."""
        if self.node not in {node["NodeID"] for node in _live_nodes(self.ray)}:
            raise _lost_connection("its process on this machine has ended")


@contextlib.contextmanager
def open_pool(
    worker: type, arguments: tuple[Any, ...], device: str, replicas: int | None, concurrency: int
) -> Iterator[Pool]:
    """Connect to Ray, and say how to start a worker with these arguments.

    A worker takes one GPU, or as many CPUs of one machine as PyTorch has threads. If its process
    dies, Ray starts another one and repeats the calls RETRIES times.
    """
    ray = import_ray()
    with stdout_for_data(), connected(ray) as is_own:
        with ray_errors():
            node = ray.get_runtime_context().get_node_id()
        cpus, gpus = _count(ray, "CPU"), _count(ray, "GPU")
        resources: dict[str, Any]  # of a worker, as options of Ray
        if device == "cuda" or (device == "auto" and any(gpus)):
            name, needed = "GPU", 1
            resources = {"num_cpus": 1, "num_gpus": 1}
        else:
            name = "CPU"
            needed = min(models.num_threads(), max(cpus, default=0)) or 1  # a head may lend no CPU
            resources = {"num_cpus": needed, "scheduling_strategy": "SPREAD"}
        needs = console.count(needed, name)
        console.note(
            f"Ray has {sum(cpus):,} CPUs and {sum(gpus):,} GPUs on "
            f"{console.count(len(cpus), 'machine')}; each replica takes {needs}"
        )
        places = sum(count // needed for count in _count(ray, name))
        if is_own and (replicas or 1) > places:  # it never grows
            raise UsageError(
                f"expected room for {console.count(replicas or 1, 'replica')} on this machine, "
                f"with {needs} each, got room for {places:,}",
                "set RAY_ADDRESS to use a cluster; on CPUs, each replica takes OMP_NUM_THREADS",
            )
        actor = ray.remote(worker).options(
            max_restarts=-1, max_task_retries=RETRIES, max_concurrency=concurrency, **resources
        )

        def wanted() -> int:
            counts = _count(ray, name)
            if name == "CPU":  # one per machine
                counts = [min(1, count // needed) for count in counts]
            return replicas or max(1, sum(counts))

        yield Pool(ray, lambda: actor.remote(*arguments), wanted, needs, node)


def _live_nodes(ray: Any) -> list[dict[str, Any]]:
    """Return what Ray knows of each machine of the cluster."""
    with ray_errors():
        return [node for node in ray.nodes() if node["Alive"]]


def _count(ray: Any, resource: str) -> list[int]:
    """Return how many CPUs or GPUs each machine lends."""
    return [int(node["Resources"].get(resource, 0)) for node in _live_nodes(ray)]


@contextlib.contextmanager
def ray_errors() -> Iterator[None]:
    """Turn what a call to Ray raises into an error of one line.

    A signal raises afterwards: Ray turns its exception into another one.
    """
    try:
        with signals.deferred():
            yield
    except ClipkitError:
        raise
    except Exception as error:  # Ray raises OSError and plain Exception, too
        raise _lost_connection(last_line(error)) from error


def _lost_connection(reason: str) -> ClipkitError:
    return ClipkitError(
        f"lost the connection to Ray: {reason}", "finished shards are kept; run it again"
    )


def import_ray() -> Any:
    """Import Ray, which sends no usage reports unless the user asks for them."""
    if importlib.util.find_spec("ray") is None:
        raise ClipkitError(
            "--engine ray needs Ray, which is not installed",
            "install it: pip install 'clipkit-vl[ray]'",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return import_library("ray")


@contextlib.contextmanager
def stdout_for_data() -> Iterator[None]:
    """Keep what Ray prints, such as the death of a worker, from standard output: it may be a file.

    Nothing else writes there meanwhile, since the output is published after the connection ends.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)  # what is printed by code that is not Python's
    try:
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def connected(ray: Any) -> Iterator[bool]:
    """Connect to Ray, and disconnect at the end. A cluster that this starts ends with it.

    Yield whether this started it, on this machine alone.

    A thread does both. Outside of the main thread, Ray installs no handlers of signals, and a
    cluster that does not answer can be given up. The thread lives as long as the connection, since
    the system ends the processes of a cluster with the thread that started them.
    """
    if ray.is_initialized():  # the caller's own
        yield False
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "num_cpus": int(cpu_count())}
        # Ray would write a token into the home, which switches tokens on for each later `ray start`
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        console.note("starting Ray on this machine")
    else:
        _check_address(address)
        console.note(f"connecting to Ray at {address}")
    began, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def hold() -> None:
        try:
            ray.init(address, log_to_driver=False, configure_logging=False, **options)
        except BaseException as error:
            errors.append(error)
        began.set()
        ended.wait()
        ray.shutdown()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    where, hint = "start Ray", LOGS
    if address != "local":
        where, hint = f"connect to Ray at {address}", HINT
    try:
        if not _wait(began, CONNECT_SECONDS):
            raise ClipkitError(f"cannot {where}: no answer within {CONNECT_SECONDS:g} s", hint)
        if errors:
            line = last_line(errors[0])
            if "AF_UNIX" in line:  # the system's limit for the path of a socket
                hint = "set TMPDIR to a folder with a short path"
            raise ClipkitError(f"cannot {where}: {line}", hint) from errors[0]
        yield address == "local"
    finally:
        ended.set()
        if began.is_set():
            thread.join(CLOSE_SECONDS)


def _wait(event: threading.Event, seconds: float) -> bool:
    """Wait for Ray, and take back the signals for which its library installs own handlers."""
    last = time.monotonic() + seconds
    while True:
        is_set = event.wait(POLL_SECONDS)
        if threading.current_thread() is threading.main_thread():
            for number in signals.SIGNALS:
                # Python does not know of the library's handler, and puts its own one back
                signal.signal(number, signal.getsignal(number))
        if is_set or time.monotonic() > last:
            return is_set


def _check_address(address: str) -> None:
    """Refuse an address where nothing answers, or not Ray: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(
            f"RAY_ADDRESS: expected HOST:PORT, got {address!r}",
            "it is what ray start --head prints; run the command on a machine of the cluster",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ADDRESS_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClipkitError(
            f"cannot connect to Ray at {address}: {system_reason(error)}",
            "start the cluster, or unset RAY_ADDRESS to use this machine",
        ) from error
    # another process asks: here, Ray would write many lines about a connection that fails
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(
            ask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=HEALTH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        fault = f"no answer within {HEALTH_SECONDS:g} s"
    except OSError as error:  # the system starts no more processes
        fault = f"cannot ask ray health-check: {system_reason(error)}"
    else:
        if done.returncode == 0:
            return
        fault = done.stderr.strip() or f"exit code {done.returncode}"
    raise ClipkitError(f"cannot connect to Ray at {address}: {last_line(fault)}", HINT)


def last_line(error: BaseException | str) -> str:
    """Return the last line of what Ray says: it names the reason, and then guesses at length."""
    line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return shorten(line[0].strip(), LONGEST_REASON)
