"""What the worker learns and tells of where a moving rig is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vggt_ros.config import Config
from vggt_ros.geometry import Rigid3
from vggt_ros.nodes.calibration import Calibrated, rig_from_cameras
from vggt_ros.types import AlignedScene


@dataclass(frozen=True, eq=False)
class Motion:
    """What a set has told of where a moving rig was."""

    places: tuple[tuple[int, Rigid3], ...]
    """Stamp and `map_from_rig` of what was located since the set before, by stamp: this set, and
    keyframes that waited for their window."""
    map_from_world: Rigid3 | None


@dataclass(frozen=True, eq=False)
class RigInTf:
    """How the worker learns where TF says the rig is (motion tf)."""

    lookup: Callable[[str, str, int], Rigid3 | str]
    """`target_from_source` at a stamp, or why there is none."""
    forget: Callable[[], None]
    """Called when the stamps have jumped back."""
    now_ns: Callable[[], int]
    """The node's clock."""


def world_frame(config: Config) -> str:
    """The frame in which TF says where the rig is: odometry, or the map of another localiser."""
    return config.frame.odom or config.frame.map


MOST_BETWEEN = 1000
"""Places of sets that are no keyframes (yet) which are remembered as told: a keyframe waits for
its window for fewer sets."""


class PlacesTold:
    """Which places of a moving rig were told already, and the newest one."""

    def __init__(self) -> None:
        self._told: set[int] = set()
        self._told_between: deque[int] = deque(maxlen=MOST_BETWEEN)
        self._newest: tuple[int, Rigid3] | None = None

    @property
    def map_from_rig(self) -> Rigid3 | None:
        """Of the newest set that has a place."""
        return self._newest[1] if self._newest else None

    def clear(self) -> None:
        """Forget all."""
        self._told.clear()
        self._told_between.clear()
        self._newest = None

    def update(self, pipeline: Any, result: Any) -> Motion:
        """What is new after a set; sets may be located later, several at a time."""
        found: dict[int, Rigid3] = {}
        follows_path = bool(result.depth_maps or result.bootstrapped)
        if follows_path:
            found = dict(pipeline.path())
        if result.map_from_rig is not None:
            found[result.stamp_ns] = result.map_from_rig
        told = self._told.union(self._told_between)
        places = [(s, found[s]) for s in sorted(found) if s not in told]
        if follows_path:
            self._told = set(found)
        self._told_between.extend(s for s, _ in places if s not in self._told)
        if found:
            newest_ns = max(found)
            if self._newest is None or newest_ns >= self._newest[0]:
                self._newest = newest_ns, found[newest_ns]
        return Motion(tuple(places), pipeline.map_from_world)

    def cameras(
        self, calibrated: Calibrated | None, scene: AlignedScene | None
    ) -> dict[str, Rigid3]:
        """`map_from_camera` at the newest place; empty without one."""
        map_from_rig = self.map_from_rig
        if map_from_rig is None or calibrated is None or scene is None:
            return {}
        places = rig_from_cameras(calibrated, scene)
        return {camera: map_from_rig @ pose for camera, pose in places.items()}
