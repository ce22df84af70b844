"""Where a TSDF is kept: blocks of voxels in Open3D's hash, within a budget.

Besides the voxels it is known of each block when a set last touched it, and whether the bootstrap
made it; by that and by its weight it is evicted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.tsdf_open3d import open3d_camera, packed

logger = logging.getLogger(__name__)

Keys = NDArray[np.int32]
Rows = NDArray[np.int64]

BLOCK = 16
"""Voxels along the edge of a block. Blocks of 8 leave a third as many voxels empty, but rays
take twice as long through them."""

MOST_WEIGHT = 12
"""Depth maps that a voxel remembers when `map.carve` is set; as many looks through a surface
that has moved away remove it."""

ATTRIBUTES = ("tsdf", "weight", "color")
CHANNELS = (1, 1, 3)
TYPES: tuple[np.dtype[Any], ...] = (
    np.dtype(np.float32),
    np.dtype(np.uint16),
    np.dtype(np.uint16),
)

_VOXEL_BYTES = sum(n * t.itemsize for n, t in zip(CHANNELS, TYPES, strict=True))
BLOCK_BYTES = BLOCK**3 * _VOXEL_BYTES + 128
"""A block with its share of the hash."""

_FIRST_BLOCKS = 512
_LEAST_BLOCKS = 32

_LEAST_SPARE, _SPARE_FRACTION = 32, 0.12
"""Rows of the hash that stay free. Whatever is integrated is counted by Open3D as if it were new,
and if it does not fit the hash doubles; so it is integrated in parts that fit."""

_EVICTION_SLACK = 0.05
"""Fraction of the budget that is freed beyond need, so that not every set has to evict."""

_FRAGMENTS_PER_BLOCK = 4
"""Pieces of 16x16 cells of eight pixels that a block may take up in an image."""


class TsdfBlocks:
    """The blocks of a map, found by their key: block coordinates (3,) int32.

    Args:
        o3d: the module.
        device: of Open3D.
        config: `map.voxel_m` and `map.budget_mb`.

    Raises:
        ConfigError: the budget is too small for any map.
    """

    def __init__(self, o3d: Any, device: Any, config: MapConfig) -> None:
        self._o3d, self._device = o3d, device
        self._voxel_m, self._budget_mb = config.voxel_m, config.budget_mb
        self._most_rows = int(config.budget_mb * 1e6 / BLOCK_BYTES)
        self.capacity = _usable(self._most_rows)
        """Blocks that the budget holds."""
        if self.capacity < _LEAST_BLOCKS:
            least = (_LEAST_BLOCKS + _LEAST_SPARE) * BLOCK_BYTES / 1e6
            raise ConfigError(
                f"map.budget_mb: expected room for {_LEAST_BLOCKS} blocks of a TSDF "
                f"({least:.2g} MB) or more, got {config.budget_mb} MB; raise it"
            )
        self.clear()

    def clear(self, blocks: int = 0) -> None:
        """Drop everything, and have room for so many blocks."""
        o3c = self._o3d.core
        self.grid = self._o3d.t.geometry.VoxelBlockGrid(
            ATTRIBUTES,
            (o3c.float32, o3c.uint16, o3c.uint16),
            tuple(o3c.SizeVector([channels]) for channels in CHANNELS),
            voxel_size=self._voxel_m,
            block_resolution=BLOCK,
            block_count=min(self._most_rows, max(_FIRST_BLOCKS, _rows_for(blocks))),
            device=self._device,
        )
        self._has_fragments = False
        rows = int(self.grid.hashmap().capacity())
        self._seen = np.zeros(rows, np.int64)
        self._first = np.zeros(rows, bool)

    @property
    def count(self) -> int:
        """Blocks in use."""
        return int(self.grid.hashmap().size())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the blocks, spare ones included."""
        return int(self.grid.hashmap().capacity()) * BLOCK_BYTES

    def hold(self, wanted: Keys, number: int, bootstrap: bool) -> tuple[int, int]:
        """Have blocks, as a set touches them; what is least worth keeping makes room.

        Args:
            wanted: (B, 3), each once.
            number: of the set.
            bootstrap: new blocks are evicted after all others.

        Returns:
            (blocks evicted, blocks that are new).

        Raises:
            ConfigError: these blocks alone exceed the budget; nothing has changed.
        """
        if len(wanted) > self.capacity:
            raise ConfigError(
                f"map.budget_mb: one set needs {len(wanted)} blocks, the budget of "
                f"{self._budget_mb} MB holds {self.capacity}; raise it to "
                f"{math.ceil(len(wanted) * BLOCK_BYTES / 1e6)} MB or enlarge map.voxel_m"
            )
        rows, known = self._find(wanted)
        missing = len(wanted) - int(known.sum())
        evicted = 0
        if missing:
            evicted = self._make_room(missing, wanted)
            rows = self._activate(wanted)
        if bootstrap:
            self._first[rows[self._seen[rows] == 0]] = True
        self._seen[rows] = number
        return evicted, missing

    def flat(self, name: str) -> Any:
        """An attribute of all rows, (rows, values of a block), sharing its memory."""
        attribute = self.grid.attribute(name)
        return attribute.reshape(
            (attribute.shape[0], attribute.num_elements() // attribute.shape[0])
        )

    def clip_weight(self, most: int, keys: Keys | None = None) -> None:
        """Bound the weights of the voxels of some blocks, or of all."""
        weight = self.flat("weight")
        if keys is None:
            weight[:] = weight.clip(0, most)
        else:
            index = self.tensor(self._find(keys)[0])
            weight[index] = weight[index].clip(0, most)

    def parts(self, keys: Keys) -> Iterator[Any]:
        """Tensors of keys, so few at a time that Open3D does not enlarge the hash."""
        part = int(self.grid.hashmap().capacity()) - self.count
        for start in range(0, len(keys), part):
            yield self.tensor(keys[start : start + part])

    def visible(self, model: CameraModel, map_from_camera: Rigid3, far: float) -> Keys:
        """Keys of the blocks whose bounding sphere meets the view cone up to `far`."""
        _, keys = self._keys()
        edge = BLOCK * self._voxel_m
        reach = 0.5 * math.sqrt(3) * edge
        x, y, z = map_from_camera.inverse().apply((keys + 0.5) * edge).T
        seen = (z > -reach) & (z < far + reach)
        for low, high, focal, middle, size in (
            (x, x, model.fx, model.cx, model.width),
            (y, y, model.fy, model.cy, model.height),
        ):
            left, right = (-0.5 - middle) / focal, (size - 0.5 - middle) / focal
            seen &= low - left * z > -reach * math.hypot(1, left)
            seen &= right * z - high > -reach * math.hypot(1, right)
        return keys[seen]

    def reserve_fragments(self, keys: Keys, far: float) -> None:
        """Make Open3D's buffer of image fragments large enough, once for each grid.

        It is sized by the first image that is rendered, pixels / 256 / voxel size, and if it is
        too small blocks are left out of the image. So the first image is a large empty one.
        """
        if self._has_fragments:
            return
        wanted = _FRAGMENTS_PER_BLOCK * self.capacity
        side = math.ceil(math.sqrt(256 * self._voxel_m * wanted))
        model = CameraModel(side, side, 1.0, 1.0, -2.0 * side, -2.0 * side)
        self.grid.ray_cast(
            self.tensor(keys[:1]),
            *open3d_camera(self._o3d, model, Rigid3.identity(), 0.0),
            side,
            side,
            ["depth"],
            depth_scale=1.0,
            depth_max=far,
            range_map_down_factor=1,
        )
        self._has_fragments = True

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that there is, by key, for a file."""
        rows, keys = self._keys()
        order = np.lexsort(keys.T)
        rows = rows[order]
        values = {name: self.flat(name).cpu().numpy()[rows] for name in ATTRIBUTES}
        return {
            "keys": keys[order],
            "seen": self._seen[rows],
            "first": self._first[rows],
            **values,
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace everything with what `arrays` has given."""
        keys: Keys = arrays["keys"]
        self.clear(len(keys))
        if not len(keys):
            return
        rows = self._activate(keys)
        index = self.tensor(rows)
        for name in ATTRIBUTES:
            self.flat(name)[index] = self.tensor(arrays[name])
        self._seen[rows] = arrays["seen"]
        self._first[rows] = arrays["first"]

    def tensor(self, array: NDArray[Any]) -> Any:
        """A copy for Open3D."""
        return self._o3d.core.Tensor(np.ascontiguousarray(array), device=self._device)

    def _activate(self, keys: Keys) -> Rows:
        """Have the blocks in the hash, empty if they are new; returns their rows."""
        rows, known = self._find(keys)
        if known.all():
            return rows
        new, _ = self.grid.hashmap().activate(self.tensor(keys[~known]))
        for name in ATTRIBUTES:  # rows that were erased are handed out as they were left
            flat = self.flat(name)
            flat[new.to(self._o3d.core.int64)] = self._o3d.core.Tensor.zeros(
                (len(new), flat.shape[1]), flat.dtype, self._device
            )
        rows[~known] = new.cpu().numpy()
        self._seen[rows[~known]] = 0
        self._first[rows[~known]] = False
        return rows

    def _find(self, keys: Keys) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows of blocks, and whether they are there."""
        rows, known = self.grid.hashmap().find(self.tensor(keys))
        return rows.cpu().numpy().astype(np.int64), known.cpu().numpy()

    def _keys(self) -> tuple[Rows, Keys]:
        """Rows in use and their keys (B, 3)."""
        hashmap = self.grid.hashmap()
        rows = hashmap.active_buf_indices().cpu().numpy().astype(np.int64)
        keys: Keys = hashmap.key_tensor().cpu().numpy()[rows]
        return rows, keys

    def _make_room(self, missing: int, wanted: Keys) -> int:
        """Have room for so many more blocks; returns how many were evicted."""
        evicted = 0
        surplus = self.count + missing - self.capacity
        if surplus > 0:
            evicted = self._evict(surplus + int(_EVICTION_SLACK * self.capacity), wanted)
        needed = self.count + missing
        rows = int(self.grid.hashmap().capacity())
        if needed > _usable(rows):
            self._grow(min(self._most_rows, max(_rows_for(needed), int(1.5 * rows))))
        return evicted

    def _grow(self, most: int) -> None:
        rows, keys = self._keys()
        seen, first = self._seen[rows], self._first[rows]
        self.grid.hashmap().reserve(most)
        capacity = int(self.grid.hashmap().capacity())
        self._seen = np.zeros(capacity, np.int64)
        self._first = np.zeros(capacity, bool)
        if len(keys):
            rows, _ = self._find(keys)
            self._seen[rows], self._first[rows] = seen, first

    def _evict(self, count: int, wanted: Keys) -> int:
        """Drop the blocks of least weight and longest unseen, the bootstrap's last."""
        rows, keys = self._keys()
        places = packed(keys)
        is_wanted = np.isin(places, packed(wanted))
        weight = self.flat("weight").cpu().numpy()[rows].max(axis=1)
        newest, oldest = int(self._seen[rows].max()), int(self._seen[rows].min())
        age = (newest - self._seen[rows]) / max(1, newest - oldest)
        priority = np.minimum(weight, MOST_WEIGHT) / MOST_WEIGHT - age
        # The hash gives the blocks in no fixed order; ties go by place.
        order = np.lexsort((places, priority, self._first[rows], is_wanted))
        gone = order[: min(count, len(order) - int(is_wanted.sum()))]
        self.grid.hashmap().erase(self.tensor(keys[gone]))
        logger.debug("map: evicted %d of %d blocks", len(gone), len(rows))
        return len(gone)


def _usable(rows: int) -> int:
    """Blocks that a hash of so many rows may hold."""
    return rows - max(_LEAST_SPARE, math.ceil(_SPARE_FRACTION * rows))


def _rows_for(blocks: int) -> int:
    """Rows of a hash for so many blocks."""
    return max(blocks + _LEAST_SPARE, math.ceil(blocks / (1 - _SPARE_FRACTION)) + 1)
