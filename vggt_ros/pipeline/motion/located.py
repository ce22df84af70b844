"""What a moving rig hands to the stages of depth: a few sets, each with its place in the map.

The views of several instants are to stereo what the cameras of a rig are: images of a static
world from known places. `as_rig` makes such a rig of them; its cameras' names never leave the
pipeline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.motion.poses import mean_pose
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    Float64,
    FrameSet,
    Image,
    ScaleEstimate,
    UnscaledScene,
)

Key = tuple[str, int]
"""Camera and stamp [ns] of a view's set."""
NO_TRANSFORM = "no transform"
"""Why a set is dropped of which nobody said where the rig was."""


@dataclass(frozen=True, eq=False)
class Located:
    """Sets whose cameras have places in the map, and what else is known of their surroundings.

    Args:
        frame_sets: undistorted, with models; those that only help to find depth included.
        new: stamps of the sets whose depth goes into the map.
        map_from_camera: of the views that are registered.
        points_in_map: (M, 3) sparse points that the views see, with `colours`.
        number: of the window, whose views move as one when the map is corrected.
        map_from_window: where the window's own frame lies; the scale of its depth too.
        unscaled: what the bootstrapper found, if one was asked: its depth seeds the map.
    """

    frame_sets: tuple[FrameSet, ...]
    new: frozenset[int]
    map_from_camera: dict[Key, Rigid3]
    points_in_map: Float64
    colours: Image
    scale: ScaleEstimate
    number: int
    map_from_window: Sim3
    unscaled: UnscaledScene | None = None
    afresh: bool = False
    """The map begins again with this window: the intrinsics were found anew."""


@dataclass(frozen=True, eq=False)
class PseudoRig:
    """The views of several instants as cameras of one."""

    scene: AlignedScene
    frame_set: FrameSet
    keys: dict[str, Key]
    """Camera and stamp by the name in `scene`."""


class Locator(Protocol):
    """Says where the cameras of a moving rig were; one per `motion` but static."""

    scene: AlignedScene | None
    """Intrinsics, scale and places on the rig as the first window found them; a new object where
    the scale was found anew."""
    dropped: Counter[str]
    """Sets that led to nothing, by reason."""

    def locate(self, frame_set: FrameSet) -> list[Located]:
        """Take one set; nothing where it only waits for others, or is dropped (counted).

        Raises:
            AlignmentError: what it completed could not be registered.
            EngineError: the bootstrapper's network failed.
        """
        ...

    def finish(self) -> list[Located]:
        """Use the sets that still wait; raises as `locate`."""
        ...

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig."""
        ...

    def reset(self) -> None:
        """Forget everything but the rig."""
        ...

    def map_from_window(self, number: int) -> Sim3:
        """Where a window lies now, after corrections."""
        ...

    @property
    def path(self) -> list[tuple[int, Rigid3]]:
        """Stamp and `map_from_rig` of the keyframes, corrected, in order of time."""
        ...

    @property
    def map_from_world(self) -> Rigid3 | None:
        """What turns places that others say into the map's; None where nobody says any."""
        ...

    def map_from_rig_by_others(self, frame_set: FrameSet) -> Rigid3 | None:
        """Where others say the rig was at a set, corrected; None where nobody says it."""
        ...

    def undistorted(self, frame_set: FrameSet) -> FrameSet:
        """A set with models, as the windows are; cameras that have none are left out."""
        ...

    @property
    def rig_from_camera(self) -> dict[str, Rigid3]:
        """As given or found."""
        ...

    @property
    def models(self) -> dict[str, CameraModel]:
        """Intrinsics, with distortion, that were found or given so far."""
        ...

    @property
    def keyframes(self) -> int:
        """Sets with a place."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Of the images and features that are kept of keyframes."""
        ...

    @property
    def loops(self) -> int:
        """Loops that were closed."""
        ...


def view_name(camera: str, stamp_ns: int) -> str:
    """The name of a view among those of several instants."""
    return f"{camera}@{stamp_ns}"


def as_rig(located: Located) -> PseudoRig:
    """The registered views as the cameras of a rig that stands still."""
    frames, models, poses, keys = [], {}, {}, {}
    for frame_set in located.frame_sets:
        for frame in frame_set.frames:
            key = (frame.camera, frame_set.stamp_ns)
            if key not in located.map_from_camera or frame.model is None:
                continue
            name = view_name(*key)
            frames.append(replace(frame, camera=name))
            models[name] = frame.model
            poses[name] = located.map_from_camera[key]
            keys[name] = key
    scene = AlignedScene(
        models,
        poses,
        located.points_in_map,
        located.colours,
        located.scale,
        Sim3.identity(),
        {},
        "none",
        (),
        "motion",
    )
    stamp_ns = max((s.stamp_ns for s in located.frame_sets), default=0)
    return PseudoRig(scene, FrameSet(stamp_ns, tuple(frames)), keys)


def map_from_rig_by_cameras(
    map_from_camera: Mapping[str, Rigid3], rig_from_camera: Mapping[str, Rigid3]
) -> Rigid3 | None:
    """Where the rig was by its cameras of one instant; None where no camera's place is known."""
    found = [
        pose @ rig_from_camera[name].inverse()
        for name, pose in map_from_camera.items()
        if name in rig_from_camera
    ]
    return mean_pose(found) if found else None
