"""What the mapping thread tells the others about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.stages import EngineInUse
from vggt_ros.types import AlignedScene, DepthAlignment


@dataclass(frozen=True, eq=False)
class Health:
    """What the worker last knew, replaced as a whole; read by other threads."""

    stamp_ns: int = 0
    state: str = "collecting"
    detail: str = ""
    scene: AlignedScene | None = None
    bootstrapper: str = ""
    depth_estimator: str = ""
    engines: Mapping[str, EngineInUse] = field(default_factory=dict)
    map_points: int = 0
    memory_bytes: int = 0
    sets_received: int = 0
    sets_used: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    camera_drops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    camera_errors: Mapping[str, str] = field(default_factory=dict)
    alignments: Mapping[str, DepthAlignment] = field(default_factory=dict)
    timings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    skews_ms: Mapping[str, float] = field(default_factory=dict)
    """Stamp of a camera's images minus that of their sets."""
    clock_jumps: int = 0
    overlap: float = math.nan
    internal_errors: int = 0
    publishing_errors: int = 0
    step_s: float = 0.0
    """So long the set in hand has been mapped; 0 between sets."""
    waits: bool = False
    """Sets are not taken on purpose: the calibration is not complete."""
    map_from_rig: Rigid3 | None = None
    """Of the newest set; where the rig stands still, of the bootstrap."""
    map_from_world: Rigid3 | None = None
    """`map` from the frame in which others say where the rig is (motion tf)."""
    keyframes: int = 0
    loops: int = 0
    place_fault: str = ""
    """Why the newest set has no place, where others say where the rig is."""
    unplaced_s: float = 0.0
    """Seconds since a set had a place; 0 without a fault."""
    map_from_camera: Mapping[str, Rigid3] = field(default_factory=dict)
    """Of a rig that moves, where the newest set has its cameras; else empty."""
    set_back: tuple[str, ...] = ()
    """Cameras whose stamps have gone back while those of the others go on."""
    scale_drift: float = math.nan
