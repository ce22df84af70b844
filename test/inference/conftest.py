"""A back end made of NumPy, and an engine of it with a right passport."""

import dataclasses
import sys
from types import ModuleType
from typing import ClassVar

import pytest

from vggt_ros.inference.backend import BackendOptions, TensorSpec
from vggt_ros.inference.golden import make_golden
from vggt_ros.inference.passport import (
    ModelFacts,
    Passport,
    Precision,
    Runtime,
    Tensor,
    write_passport,
)
from vggt_ros.inference.verify import file_sha256

SHAPE = (2, 3, 28, 42)


def brightness(images):
    """The network of these tests."""
    return {"depth": 1 + images.mean(axis=1), "depth_conf": 2 - images[:, 0]}


class FakeBackend:
    """Answers `brightness`, times the gain that the file holds."""

    def __init__(self, name, path, options):
        self.name, self.device, self.precision = name, "cpu", "fp32"
        self.options = options or BackendOptions()
        self.inputs = (TensorSpec("images", SHAPE, "float32"),)
        self.outputs = tuple(
            TensorSpec(name, (2, 28, 42), "float32") for name in ("depth", "depth_conf")
        )
        self.gain = float(path.read_text()) if path.is_file() else 1.0
        self.closed = False
        self.opened.append(self)

    opened: ClassVar[list] = []

    def run(self, inputs):
        (images,) = inputs.values()
        return {name: value * self.gain for name, value in brightness(images).items()}

    def close(self):
        self.closed = True


@pytest.fixture
def fake_backends(monkeypatch):
    """Put the fake in the place of every back end; the list holds those that were opened."""
    monkeypatch.setattr(FakeBackend, "opened", [])
    for name in ("torch", "onnxruntime", "openvino", "tensorrt"):
        module = ModuleType(f"vggt_ros.inference.{name}_backend")
        module.open_file = lambda path, options, name=name: FakeBackend(name, path, options)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return FakeBackend.opened


@pytest.fixture
def make_engine(tmp_path):
    """Write an engine file with its passport; keywords replace fields of the passport."""

    def make(name="tiny_fp32.onnx", gain=1.0, precision="fp32", **fields):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(gain))
        golden = make_golden(SHAPE, "zero_to_one", "numpy fp32", brightness, precision)
        runtime = Runtime("onnxruntime", "")
        if path.suffix == ".engine":
            runtime = Runtime("tensorrt", "10.16.1", "NVIDIA H200", "9.0", "580.1")
        passport = Passport(
            file=path.name,
            sha256=file_sha256(path),
            model=ModelFacts("vggt", "facebook/VGGT-1B", "unknown", "", "zero_to_one"),
            precision=Precision(precision, precision),
            runtime=runtime,
            inputs=(Tensor("images", SHAPE, "float32"),),
            outputs=tuple(
                Tensor(name, (2, 28, 42), "float32") for name in ("depth", "depth_conf")
            ),
            golden=golden,
            notes={"source": "tiny.onnx", "checkpoint": "weights/tiny.safetensors"},
        )
        write_passport(path, dataclasses.replace(passport, **fields))
        return path

    return make


@pytest.fixture
def with_parity():
    """A golden whose outputs were all measured at one error."""

    def add(golden, error):
        outputs = tuple(dataclasses.replace(o, parity=error) for o in golden.outputs)
        return dataclasses.replace(golden, outputs=outputs)

    return add
