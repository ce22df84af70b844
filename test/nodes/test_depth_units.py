"""Depth images are metres (REP-118) or are not published."""

import logging
from types import SimpleNamespace

import pytest

from vggt_ros.config import Config, PublishConfig
from vggt_ros.nodes.outputs import Outputs


@pytest.mark.parametrize(
    ("is_metric", "asked_for", "expected"),
    [(True, False, 1), (True, True, 1), (False, False, 0), (False, True, 1)],
)
def test_unscaled_depth_must_be_asked_for(monkeypatch, caplog, is_metric, asked_for, expected):
    published = []
    outputs = Outputs.__new__(Outputs)
    outputs.config = Config(publish=PublishConfig(depth_unscaled=asked_for, points=False))
    outputs._unscaled_told = False
    outputs._scene = None
    monkeypatch.setattr(outputs, "_publish_depth", published.append, raising=False)
    for _ in range(3):
        outputs._publish_set((SimpleNamespace(depth_maps=["depth"], stamp_ns=1), is_metric))
    assert len(published) == 3 * expected
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 - expected
    assert all("publish.depth_unscaled" in text for text in warnings)
