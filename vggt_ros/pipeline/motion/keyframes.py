"""Which sets of a moving rig are worth keeping: those that have moved enough."""

from __future__ import annotations

from vggt_ros.config import TrajectoryConfig
from vggt_ros.pipeline.motion.places import Place, compare, describe
from vggt_ros.types import FrameSet


class KeyframeChooser:
    """Compares every set with the last one that it took."""

    def __init__(self, config: TrajectoryConfig) -> None:
        self.config = config
        self.newest: Place | None = None
        """Of the set that was taken last."""

    def take(self, frame_set: FrameSet) -> bool:
        """Whether a set has moved enough, or sees something else."""
        place = describe(frame_set.frames[0].rgb)
        if self.newest is not None:
            seen = compare(self.newest, place)
            moved = seen.displacement >= self.config.min_displacement
            if not moved and seen.overlap >= self.config.max_overlap:
                return False
        self.newest = place
        return True
