"""Write what NVIDIA's Python bindings really offer into small JSON files beside this script.

    python test/inference/tensorrt_surface/extract.py

TensorRT's libraries need gigabytes and a GPU; its bindings are one shared object that loads over
a dozen C functions. They are fetched from PyPI, loaded over stubs of those functions in a process
of their own, and read: classes, members, which properties can be set, enum values, signatures.
Needs pip, a C compiler and a CPython that the wheels are made for, on x86-64 Linux.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUDA_BINDINGS = "13.5.0"

_INFER = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
)
_PARSER = (
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getNvOnnxParserVersion",
)
"""Undefined symbols of the bindings; each stub returns null."""
_PLUGIN = ("initLibNvInferPlugins",)


def _libraries(major: int) -> dict[str, tuple[str, ...]]:
    return {
        f"libnvinfer.so.{major}": _INFER,
        f"libnvinfer_plugin.so.{major}": _PLUGIN,
        f"libnvonnxparser.so.{major}": _PARSER,
    }


TENSORRT = {
    "tensorrt_10": ("tensorrt-cu13-bindings==10.16.1.11", "tensorrt_bindings", _libraries(10)),
    "tensorrt_11": ("tensorrt-cu13-bindings==11.4.0.106", "tensorrt_bindings", _libraries(11)),
    "tensorrt_rtx": (
        "tensorrt-rtx-cu13-bindings==1.7.1.116",
        "tensorrt_rtx_bindings",
        {"libtensorrt_rtx.so.1": _INFER, "libtensorrt_onnxparser_rtx.so.1": _PARSER},
    ),
}
"""Package, module, and the libraries that it asks for, by the name of the file written."""

_LEFT_OUT = re.compile(r"Layer$|Plugin|Dims[A-Z]|SymExpr|Calibrator|^IAlgorithm")
"""Classes for those who build networks by hand; nothing here does."""


def fetch(requirement: str, folder: Path) -> None:
    """Download a wheel through pip and unpack it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    wheels = folder / "wheels"
    subprocess.run([*pip, "--no-deps", "--dest", str(wheels), requirement], check=True)
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)


def make_stubs(folder: Path, libraries: dict[str, tuple[str, ...]]) -> None:
    """Compile the libraries that the bindings ask for."""
    for name, symbols in libraries.items():
        source = "\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in symbols)
        # with a soname the loader knows it as loaded
        subprocess.run(
            ["cc", "-x", "c", "-", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
            + ["-o", str(folder / name)],
            input=source.encode(),
            check=True,
        )


def read_tensorrt(folder: Path, module: str) -> dict:
    """Load the bindings that lie in a folder, with their stubs, and describe them."""
    import ctypes
    from importlib import import_module

    for stub in sorted(folder.glob("lib*.so.*")):
        ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    trt = import_module(module)
    names = {name: getattr(trt, name) for name in dir(trt) if not name.startswith("_")}
    classes, functions, constants = {}, {}, {}
    for name, value in names.items():
        if isinstance(value, type) and not _LEFT_OUT.search(name):
            classes[name] = describe_class(value)
        elif callable(value) and not isinstance(value, type):
            functions[name] = signatures(value)
        elif (
            not isinstance(value, type)
            and not hasattr(value, "__path__")
            and type(value).__name__ != "module"
        ):
            constants[name] = type(value).__name__
    return {
        "version": trt.__version__,
        "classes": classes,
        "functions": functions,
        "constants": constants,
    }


def describe_class(cls: type) -> dict:
    """Members of a class and of those it inherits from."""
    described: dict = {"bases": [b.__name__ for b in cls.__mro__[1:] if b is not object]}
    members = getattr(cls, "__members__", None)
    if isinstance(members, dict) or (members is not None and hasattr(members, "keys")):
        described["enum"] = {name: int(members[name]) for name in members}
    described["init"] = signatures(cls.__init__)
    methods, properties, attributes = {}, {}, []
    for name in dir(cls):
        if name.startswith("_") or name in described.get("enum", ()):
            continue
        # plainly from the class's own dictionaries: a property's value would need an object
        raw = next(c.__dict__[name] for c in cls.__mro__ if name in c.__dict__)
        if isinstance(raw, property):
            properties[name] = "rw" if raw.fset is not None else "r"
        elif isinstance(raw, type):
            attributes.append(name)
        elif callable(raw) or isinstance(raw, staticmethod | classmethod):
            methods[name] = signatures(getattr(cls, name))
        else:
            attributes.append(name)
    special = [n for n in ("__getitem__", "__len__", "__buffer__", "__iter__") if hasattr(cls, n)]
    return described | {
        "methods": methods,
        "properties": properties,
        "attributes": attributes,
        "special": special,
    }


def signatures(function: object) -> list[str]:
    """Signatures of a pybind11 function, as its docstring gives them; without module names."""
    name = getattr(function, "__name__", "")
    found = []
    for line in (getattr(function, "__doc__", None) or "").splitlines():
        line = re.sub(r"^\d+\. ", "", line.strip())
        if line.startswith(f"{name}(") and "->" in line:
            line = re.sub(r"\b(?:tensorrt(?:_rtx)?(?:_bindings)?\.)+", "", line)
            found.append(re.sub(r" object at 0x[0-9a-f]+", "", line))
    return [s for s in found if "(*args, **kwargs)" not in s]


def read_cuda(folder: Path) -> dict:
    """Names of `cuda.bindings.runtime`, with the signatures of its functions."""
    sys.path.insert(0, str(folder))
    import cuda.bindings
    from cuda.bindings import runtime

    functions, enums, constants = {}, {}, {}
    for name in dir(runtime):
        value = getattr(runtime, name)
        if not name.startswith("cuda"):
            continue
        if isinstance(value, type):
            members = getattr(value, "__members__", None)
            if members:
                enums[name] = {key: int(member) for key, member in members.items()}
        elif isinstance(value, int):
            constants[name] = value
        elif callable(value):
            functions[name] = (value.__doc__ or "").split("\n", 1)[0]
    wanted = ("cudaError_t", "cudaMemcpyKind")
    return {
        "version": cuda.bindings.__version__,
        "functions": functions,
        "constants": constants,
        "enums": {name: enums[name] for name in wanted},
        "properties": [n for n in dir(runtime.cudaDeviceProp) if not n.startswith("_")],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the JSON files")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # the inner process
    parser.add_argument("--module", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        surface = read_tensorrt(args.read, args.module) if args.module else read_cuda(args.read)
        print(json.dumps(surface))
        return 0
    for file, (requirement, module, libraries) in TENSORRT.items():
        with tempfile.TemporaryDirectory() as name:
            fetch(requirement, Path(name))
            make_stubs(Path(name), libraries)
            write(args.out / f"{file}.json", inner(name, "--module", module))
    with tempfile.TemporaryDirectory() as name:
        fetch(f"cuda-bindings=={CUDA_BINDINGS}", Path(name))
        fetch("cuda-pathfinder", Path(name))
        write(args.out / "cuda_bindings.json", inner(name))
    return 0


def inner(folder: str, *arguments: str) -> dict:
    """Read in a process of its own: one process cannot load two versions."""
    command = [sys.executable, __file__, "--read", folder, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def write(path: Path, surface: dict) -> None:
    # one class or function a line: small, and a new version shows as a readable difference
    parts = []
    for key, value in surface.items():
        if isinstance(value, dict):
            lines = [f"  {json.dumps(k)}: {json.dumps(value[k])}" for k in sorted(value)]
            parts.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
