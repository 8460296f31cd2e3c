"""Connect to a Ray cluster, or start one on this machine, and leave no trace of it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from clipkit import signals
from clipkit.errors import ClipkitError, UsageError
from clipkit.models.guards import import_library

ADDRESS_SECONDS = 5.0  # for an address to accept a connection
CONNECT_SECONDS = 60.0  # for Ray to answer or to start
POLL_SECONDS = 0.05
CLOSE_SECONDS = 20.0  # for Ray to end
LOGS = "Ray's logs are in /tmp/ray/session_latest/logs on each machine"


def import_ray() -> Any:
    """Import Ray, which sends no usage reports unless the user asks for them.

    Raises
    ------
    ClipkitError
        If it is not installed.
    """
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
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def connected(ray: Any, cpus: int) -> Iterator[None]:
    """Connect to Ray, and disconnect at the end. A cluster that this starts ends with it.

    Raises
    ------
    UsageError
        If RAY_ADDRESS is none.
    ClipkitError
        If Ray does not answer.

    Notes
    -----
    A thread does both. Outside of the main thread, Ray installs no handlers of signals, and a
    cluster that does not answer can be given up. The thread lives as long as the connection, since
    the system ends the processes of a cluster with the thread that started them.
    """
    if ray.is_initialized():  # the caller's own
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "num_cpus": max(cpus, os.cpu_count() or 1)}
    else:
        _check_address(address)
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
        where = f"connect to Ray at {address}"
        hint = "does Ray run there? If it was started with a token, set RAY_AUTH_MODE=token"
    try:
        if not _wait(began, CONNECT_SECONDS):
            raise ClipkitError(f"cannot {where}: no answer within {CONNECT_SECONDS:g} s", hint)
        if errors:
            raise ClipkitError(f"cannot {where}: {last_line(errors[0])}", hint) from errors[0]
        yield
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
    """Refuse an address where nothing answers: Ray would wait for minutes."""
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
        reason = getattr(error, "strerror", None) or str(error)
        raise ClipkitError(
            f"cannot connect to Ray at {address}: {reason}",
            "start the cluster, or unset RAY_ADDRESS to use this machine",
        ) from error


def last_line(error: BaseException) -> str:
    """Return the last line of what an exception of Ray says: it names the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
