import numpy as np
import pytest

from vggt_ros.engine.parity import compare
from vggt_ros.errors import EngineError


def test_known_errors():
    reference = {"depth": np.array([1.0, 2.0, 4.0], np.float32)}
    got = {"depth": np.array([1.1, 2.0, 4.0], np.float32), "other": np.zeros(1)}
    found = compare(reference, got)["depth"]
    assert found.max_rel == pytest.approx(0.1 / 4, rel=1e-5)
    assert found.median_rel == 0.0
    assert found.rel_l2 == pytest.approx(0.1 / np.sqrt(21), rel=1e-5)


def test_equal_is_zero_even_where_all_is_zero():
    same = {"a": np.zeros((2, 3), np.float32), "b": np.full(2, np.nan, np.float32)}
    for value in compare(same, same).values():
        assert (value.max_rel, value.median_rel, value.rel_l2) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_infinitely_wrong(bad):
    found = compare({"a": np.ones(2)}, {"a": np.array([1.0, bad])})["a"]
    assert found.max_rel == found.median_rel == found.rel_l2 == np.inf


def test_missing_and_misshapen_outputs_are_named():
    with pytest.raises(EngineError, match="missing are depth"):
        compare({"depth": np.ones(2)}, {"dpeth": np.ones(2)})
    with pytest.raises(EngineError, match=r"depth: expected shape \(2,\), got \(3,\)"):
        compare({"depth": np.ones(2)}, {"depth": np.ones(3)})
