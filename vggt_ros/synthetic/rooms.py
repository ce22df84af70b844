"""A flat of four rooms around a block, and a drive through their doors: for rigs that move."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry import Rigid3
from vggt_ros.synthetic import furniture as f
from vggt_ros.synthetic.primitives import SceneObject, at, box
from vggt_ros.synthetic.textures import brick, clouds, plaster, wallpaper
from vggt_ros.synthetic.world import World
from vggt_ros.types import Float64

FLAT_M = (17.0, 11.0, 2.5)
_BLOCK_M = (10.0, 4.0)
_DOOR_M = 1.6
_WALL_M = 0.12
_CORNER_M = 1.5
"""Radius of the path where it turns."""
_TURN_PER_DRIFT = 8.0
"""Radians per round that bring the end of the round off by the drift."""
_LANE_M = (13.5, 7.5)
"""Of the path, along x and y."""


@functools.lru_cache(maxsize=1)
def four_rooms() -> World:
    """A flat of 17 x 11 x 2.5 m, map origin on the floor in its middle.

    In the middle stands a closed block; from each side of it a wall with a door goes to the
    outer wall. Boxes and cabinets stand along the walls.
    """
    sx, sy, sz = FLAT_M
    bx, by = _BLOCK_M
    coarse = clouds(0.012)
    walls = (coarse, wallpaper(), brick(), plaster((206, 198, 184), 2.0))
    objects: list[SceneObject] = [
        f.room(FLAT_M, clouds(0.015), coarse, (coarse, coarse, coarse, coarse)),
        SceneObject("block", (box((bx, by, sz), at(0, 0, 0), coarse),), at(0, 0, 0)),
    ]
    depth = (sy - by) / 2
    for number, (sign, x) in enumerate(((1, 1.8), (-1, -1.8))):
        middle = sign * (by + depth) / 2
        objects += _wall_with_door(f"wall {number}", x, middle, depth, 0.0, walls[number])
    depth = (sx - bx) / 2
    for number, (sign, y) in enumerate(((1, -0.6), (-1, 0.6))):
        middle = sign * (bx + depth) / 2
        objects += _wall_with_door(f"wall {number + 2}", y, middle, depth, 90.0, walls[number + 2])
    random = np.random.default_rng(5)
    for k in range(26):
        angle = 2 * math.pi * (k + 0.4 * random.random()) / 26
        x, y = (
            (sx / 2 - 0.45) * np.sign(math.cos(angle)),
            (sy / 2 - 0.45) * np.sign(math.sin(angle)),
        )
        if k % 2:
            x = (sx - 2.0) / 2 * math.cos(angle)
        else:
            y = (sy - 2.0) / 2 * math.sin(angle)
        size = tuple(float(v) for v in random.uniform((0.3, 0.3, 0.4), (0.7, 0.7, 1.9)))
        paint = f.poster(k) if k % 3 == 0 else clouds(0.008)
        part = box((size[0], size[1], size[2]), at(0, 0, 0), paint)
        objects.append(SceneObject(f"box {k}", (part,), at(x, y, 0, float(random.uniform(0, 90)))))
    return World(tuple(objects), seed=11)


def _wall_with_door(
    name: str, along: float, across: float, length: float, yaw_deg: float, paint: object
) -> list[SceneObject]:
    """A wall of `length` across the path at `along`, its door in the middle."""
    side = (length - _DOOR_M) / 2
    parts = []
    for sign in (-1, 1):
        place = at(0, sign * (side + _DOOR_M) / 2, 0)
        parts.append(box((_WALL_M, side, FLAT_M[2]), place, paint))  # type: ignore[arg-type]
    x, y = (along, across) if not yaw_deg else (across, along)
    return [SceneObject(name, tuple(parts), at(x, y, 0, yaw_deg))]


@dataclass(frozen=True, eq=False)
class Drive:
    """A drive through the rooms and what the wheels say of it."""

    map_from_rig: list[Rigid3]
    odom_from_rig: list[Rigid3]
    """Begins as the true path does."""

    @property
    def length_m(self) -> float:
        """Of the true path."""
        centres = np.array([pose.translation for pose in self.map_from_rig])
        return float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())


def drive_round(step_m: float, drift: float, beyond_m: float = 3.0, seed: int = 0) -> Drive:
    """Once round the block, and `beyond_m` farther, in steps of `step_m`.

    Odometry counts lengths too long by `drift` and turns steadily, so that at the end of a round
    it is off by about `drift` of the path; besides, every step is noisy.
    """
    lx, ly = _LANE_M
    straight = 2 * (lx - 2 * _CORNER_M) + 2 * (ly - 2 * _CORNER_M)
    length = straight + 2 * math.pi * _CORNER_M
    count = round((length + beyond_m) / step_m)
    poses = [_on_lane(k * step_m % length) for k in range(count + 1)]
    random = np.random.default_rng(seed)
    odometry = [poses[0]]
    for before, after in itertools.pairwise(poses):
        step = before.inverse() @ after
        part = float(np.linalg.norm(step.translation)) / length
        turn = _TURN_PER_DRIFT * drift * part + random.normal(0, 0.0005)
        scale = 1 + drift + random.normal(0, 0.01)
        wrong = Rigid3.from_rotation_vector((0, 0, turn), np.zeros(3))
        moved = Rigid3(step.rotation @ wrong.rotation, scale * step.translation)
        odometry.append(odometry[-1] @ moved)
    return Drive(poses, odometry)


def _on_lane(at_m: float) -> Rigid3:
    """The rig's frame (x forward) after so many metres, counter-clockwise, from the front."""
    lx, ly = _LANE_M[0] / 2 - _CORNER_M, _LANE_M[1] / 2 - _CORNER_M
    arc = math.pi / 2 * _CORNER_M
    corners = [(lx, -ly), (lx, ly), (-lx, ly), (-lx, -ly)]
    sides = [lx, 2 * ly, 2 * lx, 2 * ly, lx]
    for k, side in enumerate(sides):
        heading = k * math.pi / 2
        forward = np.array([math.cos(heading), math.sin(heading)])
        outward = np.array([forward[1], -forward[0]])
        if at_m <= side or k == 4:
            end = np.array(corners[k % 4]) + _CORNER_M * outward
            if k == 4:
                end = np.array([0.0, -ly]) + _CORNER_M * outward
            return _pose(end - (side - at_m) * forward, heading)
        at_m -= side
        if at_m <= arc:
            angle = at_m / _CORNER_M
            turned = heading + angle
            out = np.array([math.sin(turned), -math.cos(turned)])
            return _pose(np.array(corners[k % 4]) + _CORNER_M * out, turned)
        at_m -= arc
    raise AssertionError("the last side takes the rest")


def _pose(place: Float64, heading: float) -> Rigid3:
    return at(float(place[0]), float(place[1]), 1.0, math.degrees(heading))
