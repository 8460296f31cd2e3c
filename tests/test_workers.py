"""Processes fit what one process fits, and end with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from factories import assert_computed_alike
from sklearn.datasets import load_digits

from clipkit.probes import svm, sweep_context

pytestmark = pytest.mark.long  # a process that fits loads its libraries first


@pytest.fixture
def start_at_once(monkeypatch):
    monkeypatch.setattr(sweep_context, "ALONE_SECONDS", 0)
    monkeypatch.setattr(sweep_context, "cpu_count", lambda: 2)


def process_id(_):
    return os.getpid()


def kill_process(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fit():
    """Fit SVMs at two C; return their solutions and the ids of the processes."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32) / 16
    settings = [sweep_context.Setting(1.0, C) for C in (0.01, 1)]
    with sweep_context.Workers(None) as workers:
        pids = set(workers.imap(process_id, range(20), is_short=True))
        context = sweep_context.SweepContext(X, y, X, settings, 0, workers, keep=True)
        return svm._fit_along_axes(context), pids


def exists(pid):
    return Path("/proc", str(pid)).exists()


def test_processes_fit_the_svms_that_one_process_fits(monkeypatch, start_at_once):
    shared, pids = fit()
    monkeypatch.setattr(sweep_context, "cpu_count", lambda: 1)
    alone, own_pid = fit()
    assert own_pid == {os.getpid()}
    assert os.getpid() not in pids
    assert not any(map(exists, pids))
    for one, other in zip(alone, shared, strict=True):
        assert_computed_alike(other.model.hyperplanes, one.model.hyperplanes)
        assert np.mean(other.best == one.best) > 0.995


def test_a_process_that_the_system_kills_means_too_little_memory(start_at_once):
    with sweep_context.Workers(None) as workers, pytest.raises(MemoryError):
        list(workers.imap(kill_process, [0], is_short=True))


PROGRAM = """
import os, time
from clipkit.probes import sweep_context

sweep_context.ALONE_SECONDS = 0
sweep_context.cpu_count = lambda: 2

def wait(_):
    print(os.getpid(), flush=True)
    time.sleep(600)

with sweep_context.Workers(None) as workers:
    list(workers.imap(wait, [0, 1], is_short=True))
"""


def test_processes_end_with_a_parent_that_was_killed(tmp_path):
    printed = tmp_path / "pids"
    with printed.open("w") as output:
        line = [sys.executable, "-c", PROGRAM]
        parent = subprocess.Popen(line, stdout=output, stderr=subprocess.DEVNULL)
    until(lambda: printed.read_text().count("\n") == 2)
    pids = re.findall(r"\d+", printed.read_text())
    parent.kill()
    parent.wait()
    until(lambda: not any(map(exists, pids)))


def until(condition):
    """Wait until a condition holds, for a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
