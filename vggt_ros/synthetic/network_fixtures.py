"""Small networks for tests of what runs networks. FIXTURES: none of them sees anything.

Two sorts. Random weights in the real architectures, which run through every back end and whose
answers mean nothing: a bootstrap from them must be refused. And graphs that give one fixed answer
whatever they are shown, made from the truth of a synthetic scene: with them all that comes after a
network can be tested to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.export.files import write_text
from vggt_ros.types import DepthKind

LICENCE = "fixture for tests: no working depth"
"""Stands in passports, in the status and in reports of whoever runs one."""

_OPSET = 18


def write_tiny_vggt(folder: str | Path, seed: int = 0) -> Path:
    """A checkpoint of VGGT with 1.5 million random weights; needs torch.

    Returns:
        The folder, which a back end opens.

    Raises:
        ExportError: it cannot be written.
    """
    from vggt_ros.engine.random_weights import random_vggt
    from vggt_ros.models.checkpoint import save_vggt
    from vggt_ros.models.vggt_config import VggtConfig

    folder = _made(folder, "VGGT")
    save_vggt(random_vggt(VggtConfig.tiny(), seed), folder / "model.safetensors")
    return folder


def write_tiny_depth_anything(
    folder: str | Path, seed: int = 0, kind: DepthKind = DepthKind.DISPARITY
) -> Path:
    """A folder of Depth Anything with 0.2 million random weights; needs torch and transformers.

    Returns:
        The folder, which a back end opens.

    Raises:
        ExportError: it cannot be written.
    """
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=518,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=48,
        patch_size=14,
        neck_hidden_sizes=[12, 24, 48, 48],
        fusion_hidden_size=16,
        head_hidden_size=8,
        depth_estimation_type="metric" if kind is DepthKind.METRIC_DEPTH else "relative",
        max_depth=20 if kind is DepthKind.METRIC_DEPTH else 1,
    )
    network = DepthAnythingForDepthEstimation(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in network.named_parameters():
            noise = torch.randn(values.shape, generator=generator)
            if values.ndim > 1:
                values.copy_(noise * values[0].numel() ** -0.5)
            else:
                values.copy_(0.1 * noise + (1.0 if name.endswith("norm.weight") else 0.0))
        network.head.conv3.bias.fill_(1.0)  # disparity of a ReLU that is not zero everywhere
    folder = _made(folder, "Depth Anything")
    network.save_pretrained(folder)
    path = folder / "config.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), "license": LICENCE}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return folder


def _made(folder: str | Path, what: str) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(
        folder / "FIXTURE.txt",
        f"Random weights in the architecture of {what}, for tests of what runs networks.\n"
        "They see nothing: never use them for depth.\n",
    )
    return folder


def write_fixed_answer(
    path: str | Path,
    input_shape: tuple[int | None, ...],
    answer: Mapping[str, NDArray[Any]],
    depth_kind: DepthKind | None = None,
) -> Path:
    """An ONNX graph that gives one answer whatever it is shown, with its passport; needs onnx.

    Args:
        path: `*.onnx`.
        input_shape: of `images`, float32; None is free.
        answer: outputs by name, float32.
        depth_kind: what `depth` means for Depth Anything; None makes it a VGGT.

    Returns:
        The graph.

    Raises:
        ExportError: it cannot be written.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from vggt_ros.engine.passports import graph_passport
    from vggt_ros.inference.golden import make_golden
    from vggt_ros.inference.passport import ModelFacts, Precision, write_passport

    path = Path(path)
    float32 = {n: np.ascontiguousarray(a, np.float32) for n, a in answer.items()}
    nodes, constants = [], []
    # zero times the mean of the input: a graph must use what it is given
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    nodes.append(helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for name, array in float32.items():
        constants.append(numpy_helper.from_array(array, f"{name}_fixed"))
        nodes.append(helper.make_node("Add", [f"{name}_fixed", "nothing"], [name]))
    shape = [size if size is not None else f"n{k}" for k, size in enumerate(input_shape)]
    graph = helper.make_graph(
        nodes,
        "fixed_answer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in float32.items()],
        [zero, *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9  # of onnxruntime 1.17 and newer
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    family = "vggt" if depth_kind is None else "depth_anything"
    facts = ModelFacts(
        family,
        f"fixture: fixed answer of {family}",
        LICENCE,
        "",
        "zero_to_one" if depth_kind is None else "imagenet",
        "" if depth_kind is None else depth_kind.value,
    )
    golden = make_golden(
        tuple(size or 2 for size in input_shape),
        facts.normalisation,
        "the answer itself",
        lambda _: float32,
    )
    precision = Precision("fp32", "fp32")
    write_passport(path, graph_passport(path, facts, golden, precision, {"warning": LICENCE}))
    return path


def write_room_answers(folder: str | Path, image_px: int = 252) -> tuple[Path, Path]:
    r"""Fixed answers for the room and the cameras of `vggt-ros demo`, for both networks.

    With them the graph of nodes can be seen running without weights and without a GPU:

        vggt-ros replay demo_out/bag --out result --set bootstrap=vggt \
            --set cameras=[front_left,center_left,center_right,front_right] \
            --set vggt.engine=FOLDER/vggt_fixture.onnx --set depth=depth_anything \
            --set depth_anything.engine=FOLDER/depth_anything_fixture.onnx

    The answers are in the order of the demo's cameras, which must be named: a bag alone has them
    by name. Nothing that moves there moves in the answers.
    """
    from vggt_ros.synthetic.answers import disparity_answer, vggt_answer
    from vggt_ros.synthetic.scenes import demo_rig, demo_room

    rig, map_from_rig = demo_rig()
    models = [camera.model for camera in rig.cameras if camera.model is not None]
    poses = [map_from_rig @ rig.poses[name] for name in rig.names]
    answer = vggt_answer(demo_room(), models, poses, image_px, metres_per_unit=0.37)
    views = len(models)
    vggt = write_fixed_answer(
        Path(folder) / "vggt_fixture.onnx",
        (views, 3, *answer.size),
        {
            "pose_enc": answer.pose_enc[None],
            "depth": answer.depth[None],
            "depth_conf": answer.depth_conf[None],
        },
    )
    disparity = disparity_answer(demo_room(), models, poses, image_px, 0.8, 0.05)
    depth = write_fixed_answer(
        Path(folder) / "depth_anything_fixture.onnx",
        (views, 3, *disparity.shape[1:]),
        {"depth": disparity},
        DepthKind.DISPARITY,
    )
    return vggt, depth
