"""A short version of `make soak`: no lifecycle transition is lost, memory settles."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture
def soak(repository, monkeypatch):
    """`bench` is not installed, only `vggt_ros` is."""
    monkeypatch.syspath_prepend(str(repository))
    return importlib.import_module("bench.soak")


def test_growth_and_latency_of_made_up_series(soak):
    memory = [(float(t), 300.0 + min(t, 120) + 0.01 * max(t - 120, 0)) for t in range(600)]
    assert soak.growth(memory, 120.0) == pytest.approx(0.01 * 432 / 420.24, rel=0.01)
    assert np.isnan(soak.growth(memory[:100], 120.0))
    latency = [(t / 10, 50.0 + (t % 20) + (10.0 if t > 4000 else 0.0)) for t in range(2000, 6000)]
    first, second = soak.latency_p95(latency, 200.0)
    assert second - first == pytest.approx(10.0)
    assert first == pytest.approx(68.0, abs=0.1)


@pytest.mark.slow
def test_a_minute_of_four_cameras(soak, ros_environment, repository, tmp_path):
    path = tmp_path / "soak.json"
    command = [sys.executable, "-m", "bench.soak", "--minutes", "1.2", "--out", str(path)]
    done = subprocess.run(
        command, env=ros_environment, cwd=repository, capture_output=True, text=True, timeout=400
    )
    assert path.exists(), done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["lost"] == [], done.stdout
    assert found["transitions"] >= 8
    assert found["status"]["sets_used"] > 20
    # the goal of 2 % is that of the ten minutes, latencies are for a quiet machine
    assert soak.growth(found["memory"], 30.0) < 0.05
    missed = [g["name"] for g in found["goals"] if g["met"] is False]
    assert done.returncode == (1 if missed else 0)
    used, status = found["status"]["sets_received"], found["status"]
    waiting = sum(status["received"].values()) - 4 * used - sum(status["dropped"].values())
    assert 0 <= waiting <= 100  # in the queues, and come since the worker last reported
