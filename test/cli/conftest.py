"""One small recording that many tests replay, and copies of it with faults."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.sources.bag import BagReader, BagWriter
from vggt_ros.synthetic.record import record
from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL, SyntheticSet, arc_rig, box_world, simulate
from vggt_ros.synthetic.sensor import apply_sensor
from vggt_ros.synthetic.world import World

WORLD_FROM_RIG = Rigid3(RIG_FROM_OPTICAL.T, np.zeros(3))
"""The rig looks along its x, the world of `box_world` lies along z."""


@dataclass(frozen=True)
class Recording:
    """A bag and all that is true of it."""

    path: Path
    rig: Rig
    world: World
    world_from_rig: Rigid3
    sets: int


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """Three cameras, 8 sets at 10 Hz, 320x240, before a box and a wall that stand still.

    cam0 is compressed, the others are raw; CameraInfo and /tf_static are there.
    """
    rig = arc_rig(3, 0.25, math.radians(8), 320, 240, math.radians(65), pitch_rad=0.0)
    world = box_world(1.6, 2.4)
    (first,) = simulate(world, rig, WORLD_FROM_RIG, 1, 10.0, start_ns=10**18, noise=False)
    sets = []
    for k in range(8):  # nothing moves: the same picture with other noise
        shift = k * 10**8
        images = {n: apply_sensor(rgb, n, k) for n, rgb in first.images.items()}
        stamps = {n: stamp + shift for n, stamp in first.stamps_ns.items()}
        sets.append(SyntheticSet(first.stamp_ns + shift, images, stamps, first.truth))
    path = tmp_path_factory.mktemp("recording") / "bag"
    record(path, rig, sets, compressed=["cam0"])
    return Recording(path, rig, world, WORLD_FROM_RIG, len(sets))


@pytest.fixture
def edited(recording, tmp_path):
    """Copy the recording; `edit(topic, stamp_ns, message)` gives the (topic, message, stamp)s
    that take the place of a message. Topics stay, also those without a message left."""

    def copy(edit, name="edited"):
        path = tmp_path / name
        with BagReader(recording.path) as bag, BagWriter(path) as out:
            for info in bag.topics.values():
                out.add_topic(info.name, info.msgtype)
            for topic, stamp, message in bag.messages():
                for new_topic, new_message, new_stamp in edit(topic, stamp, message):
                    out.write(new_topic, new_message, new_stamp)
        return path

    return copy


@pytest.fixture
def small_graph(tmp_path):
    """Write an ONNX graph of four nodes with the interface of VGGT's depth, and its passport.

    `gain` of the file that is written may differ from that of the reference: a wrong graph.
    """
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install .[export])")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from vggt_ros.engine.passports import graph_passport
    from vggt_ros.inference.golden import make_golden
    from vggt_ros.inference.passport import ModelFacts, Precision, write_passport

    shape = (2, 3, 28, 42)

    def make(name="engines/small.onnx", precision="fp32", gain=1.0, folder=tmp_path):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        nodes = [
            helper.make_node("ReduceMean", ["images", "axis"], ["mean"], keepdims=0),
            helper.make_node("Add", ["mean", "one"], ["brighter"]),
            helper.make_node("Mul", ["brighter", "gain"], ["depth"]),
            helper.make_node("Exp", ["mean"], ["depth_conf"]),
        ]
        constants = {
            "axis": np.array([1], np.int64),
            "one": np.array(1, np.float32),
            "gain": np.array(gain, np.float32),
        }
        out = (2, 28, 42)
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("images", kind, shape)],
            [helper.make_tensor_value_info(n, kind, out) for n in ("depth", "depth_conf")],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opset = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)

        def reference(images):
            return {"depth": 1 + images.mean(axis=1), "depth_conf": np.exp(images.mean(axis=1))}

        golden = make_golden(shape, "zero_to_one", "numpy fp32", reference, precision)
        model = ModelFacts("vggt", "facebook/VGGT-1B", "unknown", "", "zero_to_one")
        passport = graph_passport(path, model, golden, Precision(precision, precision), {})
        write_passport(path, passport)
        return path

    return make


@pytest.fixture
def photographs(tmp_path):
    """Write a folder of small pictures."""
    import cv2

    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(5)
    for k in range(4):
        coarse = generator.integers(0, 255, (6, 9, 3), np.uint8)
        cv2.imwrite(str(folder / f"{k}.png"), cv2.resize(coarse, (90, 60)))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The world of `recording` as a folder of folders of images, with calibration files.

    `images/cam<k>/<n>.png`, 4 sets; `k.json`; `poses.json` of the world, in which the first
    camera has the identity.
    """
    import json

    import cv2

    rig = arc_rig(3, 0.25, math.radians(8), 320, 240, math.radians(65), pitch_rad=0.0)
    world = box_world(1.6, 2.4)
    (first,) = simulate(world, rig, WORLD_FROM_RIG, 1, 10.0, start_ns=10**18, noise=False)
    root = tmp_path_factory.mktemp("folders")
    poses = []
    for name in rig.names:
        (root / "images" / name).mkdir(parents=True)
        for k in range(4):
            rgb = apply_sensor(first.images[name], name, k)
            bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(root / "images" / name / f"{k}.png"), bgr)
        pose = WORLD_FROM_RIG @ rig.poses[name]
        poses.append({"camera": name, "frame": 0, "matrix": pose.matrix.tolist()})
    matrices = {name: rig.models[name].matrix.tolist() for name in rig.names}
    (root / "k.json").write_text(json.dumps({"intrinsics": matrices}))
    (root / "poses.json").write_text(json.dumps({"poses": poses}))
    return Recording(root, rig, world, WORLD_FROM_RIG, 4)
