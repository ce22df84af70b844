import pytest

from vggt_ros.engine import memory
from vggt_ros.errors import EngineError


def test_refusal_names_both_figures(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 3.5 * memory.GIB)
    memory.require_memory(3.4 * memory.GIB, "export", "wait")
    with pytest.raises(
        EngineError, match=r"export: needs about 6\.0 GiB of memory, 3\.5 GiB are available; wait"
    ):
        memory.require_memory(6.0 * memory.GIB, "export", "wait")


def test_what_there_is_and_was_is_plausible():
    assert memory.available_memory() > 2**26
    assert 2**20 < memory.peak_rss() < 2**45
