"""ONNX graphs on the disk: written atomically with their weights beside them, hashed, described.

A graph is `<name>.onnx` and its weights `<name>.onnx.data`, beyond a size in which both fit into
one file. The passes work on the graph and leave the weights in the file until they are written
again, one tensor at a time: VGGT-1B passes through each of them in a few hundred megabytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.errors import EngineError, ExportError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

DATA_SUFFIX = ".data"
_ONE_FILE_BYTES = 256 * 2**20
"""Up to this many bytes of weights stand in the graph itself; protobuf ends at 2 GiB."""
_KEY = "vggt_ros."
_INSTALL = "install the extra: pip install 'vggt_ros[export]'"


def import_onnx_ir() -> None:
    """Fail in words where onnx, onnx_ir or onnxscript is missing.

    Raises:
        EngineError: not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"ONNX graphs need {error.name}, which is missing; {_INSTALL}"
        ) from error


def require_file(path: str | Path) -> Path:
    """The path of a graph that exists.

    Raises:
        EngineError: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise EngineError(
            f"{path}: no such ONNX file; make one with: vggt-ros engine export, or give --onnx-in"
        )
    return path


def load_graph(path: str | Path) -> ir.Model:
    """Read a graph; its external weights stay in their file until somebody asks for them.

    Raises:
        EngineError: no file, not an ONNX graph, or its weights are missing or too short.
    """
    proto = load_proto(path)
    _data_files(proto, Path(path))
    import onnx_ir as ir

    from vggt_ros.engine.opset import DEFAULT_OPSET

    try:
        model = ir.from_proto(proto)
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path}: not a readable ONNX graph ({error})") from error
    ir.external_data.set_base_dir(model.graph, Path(path).resolve().parent)
    if "" not in model.graph.opset_imports:
        model.graph.opset_imports[""] = DEFAULT_OPSET
    return model


def load_proto(path: str | Path) -> onnx.ModelProto:
    """Read a graph as protobuf, without its external weights: fast, for looking at.

    Raises:
        EngineError: no file, or not an ONNX graph.
    """
    path = require_file(path)
    import_onnx_ir()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise EngineError(
            f"{path}: expected an ONNX graph, got something else ({error})"
        ) from error
    if not model.graph.input and not model.graph.node:
        raise EngineError(f"{path}: expected an ONNX graph, got an empty one")
    return model


def save_graph(model: ir.Model, path: str | Path) -> None:
    """Write a graph and its weights, atomically (see `atomic_model`).

    Raises:
        ExportError: the files cannot be written; what stood there is untouched.
    """
    import onnx_ir as ir

    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    with atomic_model(path) as temporary:
        if weights > _ONE_FILE_BYTES:
            ir.save(model, temporary, external_data=temporary.name + DATA_SUFFIX)
        else:
            ir.external_data.load_to_model(model)
            ir.save(model, temporary)


@contextlib.contextmanager
def working_folder(parent: str | Path) -> Iterator[Path]:
    """Yield a folder inside `parent`, so that files in it can be moved and linked; then remove it.

    Raises:
        ExportError: `parent` cannot be made or written.
    """
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".vggt_ros.", dir=parent))
    except OSError as error:
        raise ExportError(
            f"cannot write into {parent}: {error.strerror or error}; give another folder, or copy "
            "the graph to one that can be written"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_model(path: str | Path) -> Iterator[Path]:
    """Yield a path in a temporary folder; graph and data move to `path` when the block succeeds.

    When the block raises, what stood at `path` is untouched and nothing is left over. Between
    the old graph and the new one there is a moment with none: never one with the other's data.

    Raises:
        ExportError: missing or read-only folder, full disk.
    """
    target = Path(path)
    data = Path(f"{target}{DATA_SUFFIX}")
    if target.is_dir():
        raise ExportError(f"cannot write {target}: it is a folder; give the name of a file")
    with working_folder(target.parent) as folder:
        temporary = folder / target.name
        try:
            yield temporary
            new_data = Path(f"{temporary}{DATA_SUFFIX}")
            for file in (new_data, temporary):
                if file.exists():
                    _sync(file)
            if new_data.exists() or data.exists():
                target.unlink(missing_ok=True)
                data.unlink(missing_ok=True)
            if new_data.exists():
                os.replace(new_data, data)
            os.replace(temporary, target)
        except OSError as error:
            raise ExportError(
                f"cannot write {target}: {error.strerror or error}; free space or give another "
                "folder"
            ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def data_files(path: str | Path) -> list[Path]:
    """Files that a graph keeps weights in, in the order of their names.

    Raises:
        EngineError: a place outside of the graph's folder, or a file that is missing or too short.
    """
    return _data_files(load_proto(path), Path(path))


def _data_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    import onnx

    ends: dict[Path, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise EngineError(f"{path}: weights at '{location}', expected them beside the graph")
        end = int(fields.get("offset", 0)) + int(fields.get("length", 0))
        file = path.parent / location
        ends[file] = max(ends.get(file, 0), end)
    for file, end in ends.items():
        size = file.stat().st_size if file.is_file() else -1
        if size < end:
            what = "is missing" if size < 0 else f"has {size} bytes, expected {end}"
            raise EngineError(f"{path}: its weights {file.name}: the file {what}; export it again")
    return sorted(ends)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def sha256_of_model(path: str | Path) -> str:
    """Hash of a graph and, behind it, of the files with its weights."""
    digest = hashlib.sha256()
    for file in (Path(path), *data_files(path)):
        _hash(file, digest)
    return digest.hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """Hash of one file."""
    digest = hashlib.sha256()
    _hash(Path(path), digest)
    return digest.hexdigest()


def _hash(path: Path, digest: hashlib._Hash) -> None:
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)


def size_of_model(path: str | Path) -> int:
    """Bytes of a graph with its weights."""
    return sum(file.stat().st_size for file in (Path(path), *data_files(path)))


def release(tensor: ir.TensorProtocol) -> None:
    """Let go of the pages of a weight file that reading a tensor has brought into memory."""
    import onnx_ir as ir

    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()


def static_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Shape of a constant."""
    return tuple(int(str(n)) for n in tensor.shape)


def describe(model: ir.Model, facts: Mapping[str, object]) -> None:
    """Write facts about the origin into a graph; later passes carry them along."""
    for key, value in facts.items():
        model.metadata_props[_KEY + key] = str(value)


def opset_of(path: str | Path) -> int:
    """Version of the operators of a graph; 0 where it does not say."""
    model = load_proto(path)
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)


def inputs_of(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shape of each input by its name; -1: free."""
    graph = load_proto(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return {
        i.name: tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in i.type.tensor_type.shape.dim
        )
        for i in graph.input
        if i.name not in weights
    }


def facts_of(path: str | Path) -> dict[str, str]:
    """What `describe` wrote; empty for graphs of others."""
    model = load_proto(path)
    return {
        entry.key.removeprefix(_KEY): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(_KEY)
    }
