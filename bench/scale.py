"""How honest the published scale is, and what the check of the rig finds and costs."""

from __future__ import annotations

import os
import threading
import time

import numpy as np

from bench.figures import Figure, at_least, at_most, shared_data
from vggt_ros.config import CheckRigConfig, Config, ScaleConfig, SfmConfig
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.check_rig import check_rig
from vggt_ros.rig import Rig
from vggt_ros.synthetic.correspondences import bumped, random_rig, rig_scene
from vggt_ros.types import Frame, FrameSet, ScaleEstimate

_NICE = 15
"""As in `nodes/rig_check.py`."""

_BLOCK = 8
"""Sets with and without a check take turns, for machines change while one measures."""


def figures() -> list[Figure]:
    """Random rigs with noise of pixels, lenses and calibration (`synthetic.correspondences`)."""
    found = [*_sigma_of_random_rigs(), *_bumps(), *_beside_mapping()]
    return found + (_depth_of_windows() if shared_data() is not None else [])


def _sigma_of_random_rigs() -> list[Figure]:
    scores, relative = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        cameras, size_m = int(random.integers(2, 7)), float(random.uniform(0.3, 1.0))
        found = rig_scene(random, random_rig(random, cameras, size_m))
        scale = align_scene(found.scene, found.rig, ScaleConfig()).scale
        scores.append((scale.value - found.metres_per_unit) / scale.sigma)
        relative.append(scale.sigma / scale.value)
    inside = 100 * float(np.mean(np.abs(scores) < 2))
    note = "2 to 6 cameras, 0.3 to 1 m; pixels 0.5 px, lenses 0.3 px, calibration 0.1 %"
    return [
        Figure(
            "200 random rigs: truth of the scale within 2 sigma", inside, "%", "90 to 99",
            90 <= inside <= 99, note,
        ),
        Figure("the same: sigma, median", 100 * float(np.median(relative)), "%"),
    ]  # fmt: skip


def _bumps() -> list[Figure]:
    config = CheckRigConfig()
    random = np.random.default_rng(11)
    truth = random_rig(random, 4)
    rig = rig_scene(random, truth).rig
    checks = [check_rig(rig_scene(random, truth).scene, rig, config) for _ in range(100)]
    alarms = sum(bool(check.bumped) for check in checks)
    turn = np.degrees(np.median([c.rotation_sigma_rad for k in checks for c in k.cameras]))
    shift = 1e3 * np.median([c.centre_sigma_m for k in checks for c in k.cameras])
    named = wrongly = 0
    for seed in range(100):
        random = np.random.default_rng(1000 + seed)
        cameras = 3 + seed % 4
        before = random_rig(random, cameras)
        name = f"cam{seed % cameras}"
        now = {**before, name: bumped(before[name], random, 0.02, 1.0)}
        results = [
            check_rig(found.scene, found.rig, config).bumped
            for found in (rig_scene(random, now, calibrated=before) for _ in range(2))
        ]
        named += any(name in result for result in results)
        wrongly += any(set(result) - {name} for result in results)
    return [
        at_most("100 checks of a healthy rig of four: false alarms", float(alarms), "", 0),
        at_least(
            "100 rigs of 3 to 6 with a camera off by 2 cm and 1 degree: named in two checks",
            float(named), "", 100,
        ),
        Figure("the same: rigs in which a healthy camera was named too", float(wrongly), ""),
        Figure("sigma of a camera's rotation, median", float(turn), "deg"),
        Figure("sigma of a camera's centre, median", float(shift), "mm"),
    ]  # fmt: skip


def _beside_mapping() -> list[Figure]:
    """Sets of the demo's room mapped while checks run in a thread of low priority, and without."""
    from vggt_ros.pipeline.check_rig_images import check_rig_of_sets
    from vggt_ros.pipeline.mapping import MappingPipeline
    from vggt_ros.synthetic.scenes import demo_rig, demo_room, simulate

    rig, world_from_rig = demo_rig()
    (taken,) = simulate(demo_room(), rig, world_from_rig, 1, 10.0)
    config = Config(cameras=list(rig.names), bootstrap="rig")
    pipeline = MappingPipeline(config, rig)
    pipeline.prepare()
    stop, running, idle = threading.Event(), threading.Event(), threading.Event()
    idle.set()
    costs: list[float] = []

    def check_again() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not stop.is_set():
            if not running.wait(0.05):
                continue
            idle.clear()
            start = time.monotonic()
            check_rig_of_sets([_frame_set(taken, rig, 0)], rig, {}, config)
            costs.append(time.monotonic() - start)
            idle.set()

    thread = threading.Thread(target=check_again, daemon=True)
    thread.start()
    times: dict[bool, list[float]] = {False: [], True: []}
    for k in range(64):
        checking = k // _BLOCK % 2 == 1
        if checking:
            running.set()
        elif running.is_set():
            running.clear()
            time.sleep(0.1)
            idle.wait()  # the check in hand ends first
        start = time.monotonic()
        pipeline.step(_frame_set(taken, rig, k * 10**8))
        if k >= _BLOCK:  # the first ones fill caches
            times[checking].append(time.monotonic() - start)
    stop.set()
    running.set()
    thread.join()
    ratio = float(np.median(times[True]) / np.median(times[False]))
    p95 = float(np.percentile(times[True], 95) / np.percentile(times[False], 95))
    return [
        at_most("a set mapped beside a check, over one without: median", ratio, "x", 1.5),
        Figure("the same: 95th percentile", p95, "x"),
        Figure("a check of four 640 x 480 images beside mapping", float(np.median(costs)), "s"),
    ]


def _frame_set(taken: object, rig: Rig, stamp_ns: int) -> FrameSet:
    images = taken.images  # type: ignore[attr-defined]
    frames = []
    from vggt_ros.pipeline.decode import Undistorter

    undistorter = Undistorter()
    for camera in rig.cameras:
        assert camera.model is not None
        rgb, model = undistorter.undistort(images[camera.name], camera.model)
        frames.append(Frame(camera.name, stamp_ns, rgb, model))
    return FrameSet(stamp_ns, tuple(frames))


def _depth_of_windows() -> list[Figure]:
    """Windows of twelve recorded frames: the scale of recorded depth against recorded poses."""
    from bench.indoor_sequence import load
    from vggt_ros.pipeline.scale_depth import depth_of_sets, scale_of_depth
    from vggt_ros.pipeline.scale_odometry import scale_from_odometry
    from vggt_ros.pipeline.sfm import SfmBootstrapper

    frames = load("given")
    off, path = [], []
    for first in (0, 16, 40):
        sets = [
            FrameSet(k * 10**9, (Frame("cam", k * 10**9, f.rgb, f.model, f.depth),))
            for k, f in enumerate(frames[first : first + 12])
        ]
        scene = SfmBootstrapper(SfmConfig(sets=12)).bootstrap(sets)
        places = {k * 10**9: f.map_from_camera for k, f in enumerate(frames[first : first + 12])}
        depth = scale_of_depth(scene, depth_of_sets(sets))
        poses = scale_from_odometry(scene, places, {"cam": Rigid3.identity()}, 0.0)
        assert isinstance(depth, ScaleEstimate)
        if isinstance(poses, ScaleEstimate):
            off.append(abs(depth.value / poses.value - 1))
            path.append(poses.sigma / poses.value)
    return [
        Figure(
            "scale of recorded depth against that of recorded poses, worst of three windows",
            100 * max(off, default=float("nan")), "%",
            note="one hand-held camera, twelve frames over a quarter of a metre",
        ),
        Figure("the same: sigma that the poses' scale says", 100 * max(path, default=0.0), "%"),
    ]  # fmt: skip
