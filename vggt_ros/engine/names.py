"""Names of graphs, engines and caches; readers and writers share them.

`onnx_exports/<quant_mode>/` holds of each stem, `vggt-8x3x518x518-pcd` or so:

* `<stem>.onnx` as exported, `<stem>.NOSEQ.onnx` and `<stem>.simp.onnx` after passes that had
  something to do, `<stem>_fp16.onnx` of a precision;
* `<stem>_fp16.engine`;
* `trt_timing.cache` and `calibration-8x3x518x518.cache`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vggt_ros.errors import EngineError, nearest

OUTPUT_DIR = "onnx_exports"
"""Default root of everything that is exported."""
PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")
ALL_PRECISIONS = ("fp16", "bf16", "fp8", "int8")
"""What `--all-precisions` makes of one export, in this order."""
QUANT_MODES = (
    "none",
    "torch-int8-dynamic",
    "bitsandbytes-8bit",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "modelopt-fp8",
    "modelopt-nvfp4",
)
TIMING_CACHE = "trt_timing.cache"

_STEM = re.compile(
    r"vggt-(?P<n>\d+)x3x(?P<h>\d+)x(?P<w>\d+)(?P<pcd>-pcd)?"
    r"(?:_(?P<precision>[a-z0-9]+))?(?:\.(?:NOSEQ|simp))?(?:\.(?:onnx|engine))?"
)


@dataclass(frozen=True)
class Stem:
    """What the name of a VGGT graph or engine says."""

    num_cams: int
    height: int
    width: int
    pcd_only: bool = False

    def __str__(self) -> str:
        suffix = "-pcd" if self.pcd_only else ""
        return f"vggt-{self.num_cams}x3x{self.height}x{self.width}{suffix}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input `images`."""
        return (self.num_cams, 3, self.height, self.width)


@dataclass(frozen=True)
class EngineName:
    """A stem and the precision after it; an engine without one is fp32, as upstream writes it."""

    stem: Stem
    precision: str


def parse_name(path: str | Path) -> EngineName | None:
    """Read shape and precision from the name of a graph or engine, or return None."""
    match = _STEM.fullmatch(Path(path).name)
    if match is None or (match["precision"] or "fp32") not in PRECISIONS:
        return None
    stem = Stem(int(match["n"]), int(match["h"]), int(match["w"]), match["pcd"] is not None)
    return EngineName(stem, match["precision"] or "fp32")


def check_precision(precision: str) -> str:
    """Return it.

    Raises:
        EngineError: not one of `PRECISIONS`.
    """
    return _one_of("precision", precision, PRECISIONS)


def check_quant_mode(mode: str) -> str:
    """Return it.

    Raises:
        EngineError: not one of `QUANT_MODES`.
    """
    return _one_of("quant mode", mode, QUANT_MODES)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise EngineError(
            f"{what}: expected one of {', '.join(known)}, got '{value}'{nearest(value, known)}"
        )
    return value


def mode_folder(output_dir: str | Path, quant_mode: str) -> Path:
    """`<output_dir>/<quant_mode>`; a folder that has this name already is taken as it is."""
    folder = Path(output_dir)
    return folder if folder.name == check_quant_mode(quant_mode) else folder / quant_mode


def onnx_path(folder: str | Path, stem: Stem | str) -> Path:
    """The exported graph, fp32."""
    return Path(folder) / f"{stem}.onnx"


def noseq_path(folder: str | Path, stem: Stem | str) -> Path:
    """After sequence removal; written only where there were sequences."""
    return Path(folder) / f"{stem}.NOSEQ.onnx"


def simp_path(folder: str | Path, stem: Stem | str) -> Path:
    """After simplification; written only where it was done."""
    return Path(folder) / f"{stem}.simp.onnx"


def precision_path(folder: str | Path, stem: Stem | str, precision: str) -> Path:
    """The graph whose content is a precision; TensorRT 11 knows no other way to ask for one."""
    return Path(folder) / f"{stem}_{check_precision(precision)}.onnx"


def engine_path(folder: str | Path, stem: Stem | str, precision: str) -> Path:
    """The engine to write."""
    return Path(folder) / f"{stem}_{check_precision(precision)}.engine"


def find_engine(folder: str | Path, stem: Stem | str, precision: str) -> Path:
    """The engine to read: for fp32 also `<stem>.engine`, as upstream wrote it.

    Raises:
        EngineError: there is none.
    """
    path = engine_path(folder, stem, precision)
    candidates = [path, path.with_name(f"{stem}.engine")] if precision == "fp32" else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    fp32 = precision == "fp32"
    graph = onnx_path(folder, stem) if fp32 else precision_path(folder, stem, precision)
    raise EngineError(
        f"{folder}: expected {' or '.join(c.name for c in candidates)}, found none; make it with: "
        f"vggt-ros engine build {graph}"
    )


def engine_of_graph(graph: str | Path, precision: str) -> Path:
    """The engine to write beside a graph; that of an exported one, fp32, is named `_fp32`."""
    path = Path(graph).with_suffix("")
    bare = precision == "fp32" and not path.name.endswith("_fp32")
    return path.with_name(f"{path.name}{'_fp32' if bare else ''}.engine")


def timing_cache_path(folder: str | Path) -> Path:
    """Timings of TensorRT's tactics; good for one TensorRT version and one GPU."""
    return Path(folder) / TIMING_CACHE


def calibration_cache_path(folder: str | Path, shape: tuple[int, ...]) -> Path:
    """Ranges of the activations, found by calibration with inputs of this shape."""
    return Path(folder) / f"calibration-{'x'.join(str(n) for n in shape)}.cache"


def report_path(graph: str | Path) -> Path:
    """What was done to a graph and how far its answers are from fp32, as JSON beside it."""
    return Path(f"{graph}.report.json")
