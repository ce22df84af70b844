"""Similarity transforms: rotation, translation and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vggt_ros.geometry.rigid3 import Array, Rigid3, nearest_rotation


@dataclass(frozen=True, eq=False)
class Sim3:
    """`target_from_source`: x_target = scale * rotation @ x_source + translation."""

    scale: float
    rotation: Array
    translation: Array

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"similarity: expected a scale > 0, got {self.scale}")
        rigid = Rigid3(self.rotation, self.translation)
        object.__setattr__(self, "rotation", rigid.rotation)
        object.__setattr__(self, "translation", rigid.translation)

    @staticmethod
    def identity() -> Sim3:
        """The transform that changes nothing."""
        return Sim3(1.0, np.eye(3), np.zeros(3))

    @property
    def matrix(self) -> Array:
        """(4, 4) float64, with scale times rotation in the corner."""
        m = np.eye(4)
        m[:3, :3] = self.scale * self.rotation
        m[:3, 3] = self.translation
        return m

    def inverse(self) -> Sim3:
        """`source_from_target`."""
        return Sim3(
            1 / self.scale, self.rotation.T, -self.rotation.T @ self.translation / self.scale
        )

    def __matmul__(self, other: Sim3) -> Sim3:
        """`a_from_b @ b_from_c` is `a_from_c`."""
        if not isinstance(other, Sim3):
            return NotImplemented
        return Sim3(
            self.scale * other.scale,
            nearest_rotation(self.rotation @ other.rotation),
            self.scale * self.rotation @ other.translation + self.translation,
        )

    def apply(self, points: ArrayLike) -> Array:
        """Points (..., 3) in source to points (..., 3) in target, float64."""
        turned = np.asarray(points, np.float64) @ self.rotation.T
        return np.asarray(self.scale * turned + self.translation)

    def apply_to_pose(self, source_from_body: Rigid3) -> Rigid3:
        """The pose of a body in target: its origin is moved and scaled, its axes turned."""
        return Rigid3(
            nearest_rotation(self.rotation @ source_from_body.rotation),
            self.apply(source_from_body.translation),
        )
