"""A rig that drives through the synthetic world, and what its odometry makes of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.synthetic.primitives import at
from vggt_ros.synthetic.scenes import SyntheticSet
from vggt_ros.synthetic.sensor import SensorModel, apply_sensor
from vggt_ros.synthetic.world import World

Path = Callable[[float], Rigid3]
"""`parent_from_base` at a time [s]."""


def swing_through_room(time_s: float) -> Rigid3:
    """`map_from_base` in `scenes.demo_room`: 1.3 m to the left in 3 s, turning against it.

    The base is on the floor; the robot looks into the room all the while.
    """
    phase = 0.5 - 0.5 * math.cos(math.pi * min(max(time_s, 0.0), 3.0) / 3.0)
    y = -0.65 + 1.3 * phase
    return at(-1.55 + 0.25 * math.sin(math.pi * phase), y, 0.0, 12.0 - 24.0 * phase)


def drifting(map_from_base: Path, stretch: float, turn_rad_per_s: float = 0.0) -> Path:
    """`odom_from_base` of odometry that begins at the identity, too long and turning away.

    Args:
        map_from_base: the truth.
        stretch: odometry shows 1 + `stretch` metres for each.
        turn_rad_per_s: about z of the odometry's frame.
    """
    base_from_map = map_from_base(0.0).inverse()

    def odom_from_base(time_s: float) -> Rigid3:
        true = base_from_map @ map_from_base(time_s)
        moved = Rigid3(true.rotation, (1 + stretch) * true.translation)
        return Rigid3.from_rotation_vector((0, 0, turn_rad_per_s * time_s)) @ moved

    return odom_from_base


def simulate_drive(
    world: World,
    rig: Rig,
    map_from_rig: Path,
    sets: int,
    rate_hz: float,
    start_ns: int = 0,
    sensor: SensorModel | None = None,
    max_skew_ns: int = 4_000_000,
    supersample: int = 2,
) -> Iterator[SyntheticSet]:
    """As `scenes.simulate`, of a rig that moves: every picture is taken from its own place.

    Raises:
        ValueError: a camera without model or pose, or a rate that is not positive.
    """
    if rate_hz <= 0:
        raise ValueError(f"rate_hz: expected > 0, got {rate_hz}")
    missing = [n for n in rig.names if n not in rig.models or n not in rig.poses]
    if missing:
        raise ValueError(f"simulate_drive: cameras {', '.join(missing)}: expected model and pose")
    random = np.random.default_rng(sensor.seed if sensor else 0)
    base = random.uniform(0.0, 0.8, len(rig.cameras))
    for index in range(sets):
        nominal_ns = round(index * 1e9 / rate_hz)
        skews = (base + random.uniform(0.0, 0.2, len(rig.cameras))) * max_skew_ns
        images, stamps, truth = {}, {}, {}
        for name, skew in zip(rig.names, skews, strict=True):
            offset_ns = nominal_ns + int(skew)
            pose = map_from_rig(offset_ns * 1e-9) @ rig.poses[name]
            truth[name] = world.render(rig.models[name], pose, offset_ns * 1e-9, supersample)
            images[name] = apply_sensor(truth[name].rgb, name, index, sensor)
            stamps[name] = start_ns + offset_ns
        yield SyntheticSet(start_ns + nominal_ns, images, stamps, truth)
