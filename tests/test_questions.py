"""The contract of questions: all keep it, a broken one is found out, and a new one is known."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Annotated

import numpy as np
import pytest
from shell import clipkit, fails, ok, rows
from typer.testing import CliRunner

import clipkit as library
from clipkit import analysis, cli, features, report
from clipkit.analysis.options import Cluster, LabelledFile, Seed, Splits, Table
from clipkit.analysis.question import Analysis, FeatureFile
from clipkit.analysis.samples import Samples
from clipkit.base.options import option
from clipkit.commands import contract
from clipkit.commands.contract import PROMISES, Trial
from clipkit.features import columns
from clipkit.features.columns import HIGHER, LABELS, NOTHING, ROWS, SHARE, TEXT, Column
from clipkit.features.model import FeatureFile as File
from clipkit.features.model import Split

# What a question does not keep yet, and why
EXPECTED_FAILURES = {
    ("describe", "counts copies once"): "t is in standard errors of rows; only p is of clusters",
    ("retrieve", "counts copies once"): "an image competes with its copies, and a text with theirs",
}
DRAWING_PAGES = ("survives hostile names", "shows every column in every format")


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """The trial of each question; its promises share what it answered."""
    return {
        name: Trial(analysis.find(name), tmp_path_factory.mktemp(name)) for name in analysis.names()
    }


def cases():
    """Return each question with each promise."""
    found = []
    for promise in PROMISES:
        for name in analysis.names():
            marks = [pytest.mark.long] if promise.name in DRAWING_PAGES else []
            if (name, promise.name) in EXPECTED_FAILURES:
                marks.append(pytest.mark.xfail(reason=EXPECTED_FAILURES[name, promise.name]))
            case = f"{name} {promise.name}"
            found.append(pytest.param(name, promise, id=case, marks=marks))
    return found


@pytest.mark.whole
@pytest.mark.parametrize(("name", "promise"), cases())
def test_every_question_keeps_its_promises(name, promise, trials):
    assert promise.broken(trials[name]) == []
