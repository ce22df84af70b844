"""What all tables of rows share."""

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.rows import CHUNK, chunks
from vggt_ros.export.select import filter_cloud, select
from vggt_ros.types import PointCloud


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 0), (7, 3), (9, 3), (CHUNK + 1, 0)])
@pytest.mark.parametrize("progress", [False, True])
def test_chunks_cover_all_rows_once(count, size, progress):
    covered = np.zeros(count, int)
    for part in chunks(count, "a", progress, size):
        assert part.stop - part.start <= (size or CHUNK)
        covered[part] += 1
    assert (covered == 1).all()


def cloud(**fields):
    points = np.float32([[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    confidence = fields.pop("confidence", np.float32([0, 0.5, 1]))
    return PointCloud(points, np.zeros((3, 3), np.uint8), points, confidence, "odom", False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2]),
        ({"min_confidence": 0.5}, [1, 2]),
        ({"confidence_percentile": 100}, [2]),
        ({"box": (0.5, 0.5, 0.5, 1.5, 1.5, 1.5)}, [1]),
        ({"box": (0, 0, 0, 1, 1, 1), "min_confidence": 0.1}, [1]),
    ],
)
def test_filters(options, expected):
    found = filter_cloud(cloud(), **options)
    np.testing.assert_array_equal(found.points[:, 0], expected)
    np.testing.assert_array_equal(found.normals, found.points)
    assert len(found.confidence) == len(found.colours) == len(expected)
    assert (found.frame, found.is_metric) == ("odom", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_confidence": 1.5}, "min_confidence: expected 0 to 1, got 1.5"),
        ({"min_confidence": float("nan")}, "expected 0 to 1"),
        ({"confidence_percentile": -1}, "0 to 100"),
        ({"box": (0, 0, 0, 1, 1, 0)}, "lower corner"),
        ({"box": (0, 0, 0, 1, float("nan"), 1)}, "lower corner"),
    ],
)
def test_wrong_filters(options, message):
    with pytest.raises(ExportError, match=message):
        filter_cloud(cloud(), **options)


def test_a_cloud_without_confidence_cannot_be_filtered_by_it():
    with pytest.raises(ExportError, match="leave the filter out"):
        filter_cloud(cloud(confidence=None), min_confidence=0.1)
    assert len(select(cloud(confidence=None), slice(1, 2))) == 1
