"""A tree of fixed transforms: where the cameras sit relative to one frame."""

from __future__ import annotations

from collections.abc import Mapping

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import Rigid3


class TransformTree:
    """Fixed transforms, child to (parent, `parent_from_child`)."""

    def __init__(self, transforms: Mapping[str, tuple[str, Rigid3]]):
        self._transforms = dict(transforms)

    @property
    def frames(self) -> set[str]:
        """Every frame that is a child or a parent."""
        return set(self._transforms) | {parent for parent, _ in self._transforms.values()}

    def ancestors(self, frame: str) -> list[str]:
        """`frame`, its parent, and so on up to the root.

        Raises:
            CalibrationError: the frames form a loop.
        """
        chain = [frame]
        while chain[-1] in self._transforms:
            parent = self._transforms[chain[-1]][0]
            if parent in chain:
                raise CalibrationError(
                    f"transforms: expected a tree, got the loop {' -> '.join([*chain, parent])}"
                )
            chain.append(parent)
        return chain

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """`target_from_source`, None where the two are not connected."""
        up_target, up_source = self.ancestors(target), self.ancestors(source)
        common = next((frame for frame in up_source if frame in up_target), None)
        if common is None:
            return None
        return self._from(common, target).inverse() @ self._from(common, source)

    def common_ancestor(self, frames: list[str]) -> str | None:
        """The nearest frame above all of `frames` that is not one of them, if there is one.

        A rig frame has z up (REP-103), an optical frame has not: where the nearest ancestor is
        an optical frame, the search goes on above it as far as the tree reaches.
        """
        if not frames:
            return None
        chains = [self.ancestors(frame) for frame in frames]
        common = [f for f in chains[0] if all(f in chain for chain in chains[1:])]
        for frame in common:
            if frame not in frames and not frame.endswith("_optical_frame"):
                return frame
        return common[0] if common else None

    def camera_poses(
        self, frames: Mapping[str, str], rig_frame: str = ""
    ) -> tuple[dict[str, Rigid3], str]:
        """`rig_from_camera` by camera, and the rig frame; empty where the tree knows none.

        Args:
            frames: camera to its optical frame.
            rig_frame: the frame to use; empty: the common ancestor.

        Raises:
            CalibrationError: two cameras share a frame that has a pose.
        """
        known = {c: f.lstrip("/") for c, f in frames.items() if f.lstrip("/") in self.frames}
        owners: dict[str, str] = {}
        for camera, frame in known.items():
            if frame in owners:
                raise CalibrationError(
                    f"cameras '{owners[frame]}' and '{camera}' both have the frame_id '{frame}': "
                    f"their poses cannot be told apart; give each camera its own frame_id (in the "
                    f"driver, or camera.{camera}.frame_id), or a rig file with poses"
                )
            owners[frame] = camera
        root = rig_frame or self.common_ancestor(list(known.values())) or ""
        poses = {}
        if root:
            for camera, frame in known.items():
                pose = self.lookup(root, frame)
                if pose is not None:
                    poses[camera] = pose
        return poses, root

    def _from(self, ancestor: str, frame: str) -> Rigid3:
        pose = Rigid3.identity()
        while frame != ancestor:
            frame, parent_from_child = self._transforms[frame]
            pose = parent_from_child @ pose
        return pose
