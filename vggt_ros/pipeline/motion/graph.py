"""Many scenes in one frame: a graph of similarities over the points they share.

Every join pulls two scenes together by the points both know; a scale prior pulls a scene to the
metre where something in it knows (a rig, depth images). The residual of a pair of points is
their difference over their distance from the camera, with Cauchy's weight; solved by
Gauss-Newton on one similarity per scene, the first scene's pose held.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_from_vector
from vggt_ros.pipeline.motion.join import Join, join_poses, join_scenes, sure_depth
from vggt_ros.types import Float64, UnscaledScene

_CAUCHY = 0.01
"""Relative error at which a pair counts half."""
_MOST_PAIRS = 300
"""Joins with more pairs weigh no more: the pairs of one join share the errors of its scenes."""
_ITERATIONS = 50
_CONVERGED = 1e-7
_FREE = 7
"""Of a similarity: rotation, translation, logarithm of the scale."""

Key = tuple[str, int]
"""Camera and stamp [ns] of a view."""


@dataclass(frozen=True)
class ScalePrior:
    """Metres per unit of a scene, and how sure that is (relative)."""

    metres_per_unit: float
    sigma: float


class SceneGraph:
    """Scenes, how they lie in each other, and where that puts them all."""

    def __init__(self, seed: int = 0) -> None:
        self.scenes: list[UnscaledScene] = []
        self.priors: list[ScalePrior | None] = []
        self.joins: dict[tuple[int, int], Join] = {}
        self.map_from_scene: list[Sim3] = []
        """Of the last `solve`; map is the first scene, or its metres where priors are given."""
        self._seed = seed

    def add(
        self, scene: UnscaledScene, prior: ScalePrior | None = None, by_poses: bool = False
    ) -> int:
        """Add a scene and join it with all that share enough views; returns its number.

        Args:
            scene: what a bootstrapper found.
            prior: its metre, where something in it knows.
            by_poses: where points join it with none, the poses of shared views do; only for
                scenes whose scale is known.

        Raises:
            AlignmentError: it is not the first, and joins none of those that are there.
        """
        number = len(self.scenes)
        joins, reasons = {}, []
        for other in range(number):
            if not _views(scene) & _views(self.scenes[other]):
                continue
            try:
                joins[other, number] = join_scenes(self.scenes[other], scene, self._seed)
            except AlignmentError as error:
                reasons.append(str(error))
        if number and not joins and by_poses:
            others = [k for k in range(number) if _views(scene) & _views(self.scenes[k])]
            for other in others[-1:]:
                metres = prior.metres_per_unit if prior else 1.0
                a_per_b = metres / self.map_from_scene[other].scale
                joins[other, number] = join_poses(self.scenes[other], scene, a_per_b)
        if number and not joins:
            raise AlignmentError(
                f"motion: a window of {len(scene.views)} views joins none of the {number} before "
                f"it ({'; '.join(reasons) or 'no view in common'}); move more slowly, or let the "
                "windows overlap more"
            )
        self.scenes.append(_what_joins_need(scene))
        self.priors.append(prior)
        self.joins.update(joins)
        if not number:
            scale = prior.metres_per_unit if prior else 1.0
            self.map_from_scene.append(Sim3(scale, np.eye(3), np.zeros(3)))
        else:
            other, _ = max(joins, key=lambda pair: len(joins[pair].points_in_a))
            join = joins[other, number]
            self.map_from_scene.append(self.map_from_scene[other] @ join.a_from_b)
        return number

    @property
    def depth_bytes(self) -> int:
        """Of the dense depth that is kept for joins."""
        return sum(v.depth.nbytes for s in self.scenes for v in s.views if v.depth is not None)

    @property
    def memory_bytes(self) -> int:
        """Of depth, points and joins."""
        points = sum(s.points.nbytes + s.colours.nbytes for s in self.scenes)
        joins = sum(
            j.points_in_a.nbytes + j.points_in_b.nbytes + j.distances_in_a.nbytes
            for j in self.joins.values()
        )
        return self.depth_bytes + points + joins

    def forget_depth(self, kept: Collection[int]) -> None:
        """Forget the depth of views that no window will hold again.

        Args:
            kept: stamps [ns] of the sets that a window may hold again.
        """
        self.scenes = [
            replace(
                scene,
                views=tuple(
                    v if v.depth is None or v.stamp_ns in kept else replace(v, depth=None)
                    for v in scene.views
                ),
            )
            for scene in self.scenes
        ]

    def solve(self) -> list[Sim3]:
        """Put all scenes where their joins and priors agree best; also in `map_from_scene`."""
        found = list(self.map_from_scene)
        for _ in range(_ITERATIONS):
            step = self._step(found)
            found = [_moved(s, d) for s, d in zip(found, step, strict=True)]
            if np.abs(step).max(initial=0.0) < _CONVERGED:
                break
        self.map_from_scene = found
        return found

    def poses(self) -> dict[Key, Rigid3]:
        """`map_from_camera` of every view, the mean over the scenes that hold it."""
        found: dict[Key, list[Rigid3]] = {}
        for scene, map_from_scene in zip(self.scenes, self.map_from_scene, strict=True):
            for view in scene.views:
                pose = map_from_scene.apply_to_pose(view.scene_from_camera)
                found.setdefault((view.camera, view.stamp_ns), []).append(pose)
        return {key: _mean(poses) for key, poses in sorted(found.items(), key=lambda i: i[0][1])}

    def _step(self, found: list[Sim3]) -> Float64:
        """One Gauss-Newton step (N, 7) of all scenes."""
        size = _FREE * len(found)
        normal, right = np.zeros((size, size)), np.zeros(size)
        for (a, b), join in self.joins.items():
            _add_join(normal, right, a, b, join, found)
        has_prior = any(self.priors)
        for k, prior in enumerate(self.priors):
            if prior is not None:
                at = _FREE * k + 6
                weight = prior.sigma**-2
                normal[at, at] += weight
                right[at] += weight * np.log(prior.metres_per_unit / found[k].scale)
        held = 6 if has_prior else _FREE  # without priors the scale of the first is the unit
        free = np.arange(held, size) if held == _FREE else np.r_[6, _FREE:size]
        step = np.zeros(size)
        step[free] = np.linalg.solve(
            normal[np.ix_(free, free)] + 1e-12 * np.eye(len(free)), right[free]
        )
        return step.reshape(-1, _FREE)


def _what_joins_need(scene: UnscaledScene) -> UnscaledScene:
    """A scene without images, features and covariance; depth without confidence is sure."""
    views = []
    for view in scene.views:
        depth = sure_depth(view)
        views.append(replace(view, depth=depth, confidence=None, rgb=None, features=None))
    return replace(scene, views=tuple(views), pose_covariance=None)


def _views(scene: UnscaledScene) -> set[Key]:
    return {(view.camera, view.stamp_ns) for view in scene.views}


def _add_join(
    normal: Float64, right: Float64, a: int, b: int, join: Join, found: list[Sim3]
) -> None:
    """Add the normal equations of one join; residual = S_a p - S_b q over the distance."""
    p, q = found[a].apply(join.points_in_a), found[b].apply(join.points_in_b)
    residuals = p - q
    distances = found[a].scale * join.distances_in_a
    relative = np.linalg.norm(residuals, axis=1) / distances
    weights = 1.0 / (1.0 + (relative / _CAUCHY) ** 2) / (_CAUCHY * distances) ** 2
    weights *= min(1.0, _MOST_PAIRS / len(p))
    blocks = [(a, _jacobian(p)), (b, -_jacobian(q))]
    repeated = np.repeat(weights, 3)
    for i, of_i in blocks:
        rows = slice(_FREE * i, _FREE * (i + 1))
        weighted = (of_i.reshape(-1, _FREE) * repeated[:, None]).T
        right[rows] -= weighted @ residuals.ravel()
        for j, of_j in blocks:
            columns = slice(_FREE * j, _FREE * (j + 1))
            normal[rows, columns] += weighted @ of_j.reshape(-1, _FREE)


def _jacobian(points: Float64) -> Float64:
    """(N, 3, 7) of moved points by rotation, translation and log scale, about the origin."""
    jacobian = np.zeros((len(points), 3, _FREE))
    x, y, z = points.T
    jacobian[:, 0, 1], jacobian[:, 0, 2] = z, -y
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -z, x
    jacobian[:, 2, 0], jacobian[:, 2, 1] = y, -x
    jacobian[:, range(3), range(3, 6)] = 1.0
    jacobian[:, :, 6] = points
    return jacobian


def _moved(similarity: Sim3, step: Float64) -> Sim3:
    return Sim3(float(np.exp(step[6])), rotation_from_vector(step[:3]), step[3:6]) @ similarity


def _mean(poses: list[Rigid3]) -> Rigid3:
    rotation = nearest_rotation(np.sum([p.rotation for p in poses], axis=0))
    return Rigid3(rotation, np.mean([p.translation for p in poses], axis=0))


def unconnected(graph: SceneGraph) -> list[int]:
    """Scenes that no chain of joins ties to the first."""
    reached, frontier = {0}, [0]
    while frontier:
        here = frontier.pop()
        for a, b in graph.joins:
            for one, other in itertools.permutations((a, b)):
                if one == here and other not in reached:
                    reached.add(other)
                    frontier.append(other)
    return [k for k in range(len(graph.scenes)) if k not in reached]
