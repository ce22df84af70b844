"""PointCloud2 bytes, read back with numpy's own structured types."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.mapping.packing import pack_xyzrgb, point_fields, point_step
from vggt_ros.types import PointCloud


def some_cloud(n: int = 1000, normals: bool = True, confidence: bool = True) -> PointCloud:
    rng = np.random.default_rng(0)
    return PointCloud(
        rng.normal(size=(n, 3)).astype(np.float32),
        rng.integers(0, 256, (n, 3), dtype=np.uint8),
        rng.normal(size=(n, 3)).astype(np.float32) if normals else None,
        rng.random(n, dtype=np.float32) if confidence else None,
    )


def read(data: np.ndarray, normals: bool) -> np.ndarray:
    names = [name for name, _, _ in point_fields(normals)]
    offsets = [offset for _, offset, _ in point_fields(normals)]
    dtype = np.dtype(
        {
            "names": names,
            "formats": ["<u4" if name == "rgb" else "<f4" for name in names],
            "offsets": offsets,
            "itemsize": point_step(normals),
        }
    )
    return np.frombuffer(data.tobytes(), dtype)


@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_what_is_packed_is_read_back(normals, n):
    cloud = some_cloud(n)
    points = read(pack_xyzrgb(cloud, normals=normals), normals)
    assert len(points) == n
    for i, axis in enumerate("xyz"):
        assert points[axis].tobytes() == cloud.points[:, i].tobytes()
        if normals:
            assert points[f"normal_{axis}"].tobytes() == cloud.normals[:, i].tobytes()
    assert points["confidence"].tobytes() == cloud.confidence.tobytes()
    assert (points["rgb"] >> 16 == cloud.colours[:, 0]).all()
    assert ((points["rgb"] >> 8) & 255 == cloud.colours[:, 1]).all()
    assert (points["rgb"] & 255 == cloud.colours[:, 2]).all()


def test_layout_is_the_documented_one():
    assert point_step(False) == 20
    assert point_step(True) == 32
    assert point_fields(False)[3] == ("rgb", 12, 7)


def test_missing_fields_have_stated_values():
    points = read(pack_xyzrgb(some_cloud(5, normals=False, confidence=False), normals=True), True)
    assert (points["confidence"] == 1).all()
    assert np.isnan(points["normal_y"]).all()


def test_buffer_is_reused_if_it_is_large_enough():
    cloud = some_cloud()
    out = np.full(30_000, 7, np.uint8)
    data = pack_xyzrgb(cloud, out)
    assert np.shares_memory(data, out)
    assert len(data) == 20_000
    assert (out[20_000:] == 7).all()
    assert data.tobytes() == pack_xyzrgb(cloud).tobytes()
    assert not np.shares_memory(pack_xyzrgb(cloud, np.empty(10, np.uint8)), out)
    odd = np.empty(30_001, np.uint8)[1:]
    shifted = pack_xyzrgb(cloud, odd)
    assert np.shares_memory(shifted, odd)
    assert shifted.tobytes() == data.tobytes()


def test_wrong_arrays_are_errors():
    cloud = some_cloud()
    with pytest.raises(ValueError, match="colours"):
        pack_xyzrgb(PointCloud(cloud.points, cloud.colours[:10]))
    with pytest.raises(ValueError, match="confidence"):
        pack_xyzrgb(PointCloud(cloud.points, cloud.colours, confidence=cloud.confidence[:1]))
    with pytest.raises(ValueError, match="uint8 vector"):
        pack_xyzrgb(cloud, np.empty(30_000, np.float32))
    frozen = np.empty(30_000, np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        pack_xyzrgb(cloud, frozen)
