"""The engines that `reconstruct` is to run, and how to build those that are not there."""

from __future__ import annotations

from pathlib import Path

from vggt_ros.errors import EngineError

_CLASSICAL = "or go without networks: --bootstrap sfm --depth plane_sweep"
_STEREO = ", or use stereo: --depth plane_sweep"


def vggt_engine(path: str | None, num_cams: int) -> str:
    """The engine of VGGT that was named.

    Raises:
        EngineError: none is named or there; the message has the command that builds it.
    """
    if path and Path(path).exists():
        return path
    what = f"--vggt_engine {path}: there is no such engine" if path else (
        "--bootstrap vggt: expected --vggt_engine (or --vggt-backend huggingface), got none"
    )  # fmt: skip
    raise EngineError(f"{what}; build it: {vggt_command(path or '', num_cams)}, {_CLASSICAL}")


def vggt_command(path: str, num_cams: int) -> str:
    """The command that makes an engine of this name, as far as the name says."""
    from vggt_ros.engine.names import OUTPUT_DIR, QUANT_MODES, parse_name

    words = ["vggt_to_trt", "--export"]
    name = parse_name(path) if path else None
    precision = name.precision if name else "fp16"
    cameras, _, height, width = name.stem.shape if name else (num_cams, 3, 518, 518)
    words += ["--num-cams", str(cameras), "--height", str(height), "--width", str(width)]
    words += ["--precision", precision]
    if name is None or name.stem.pcd_only:
        words.append("--pcd-only")
    folder = Path(path).parent
    if path and folder.name in QUANT_MODES and folder.name != "none":
        words += ["--quant-mode", folder.name]
    if precision in ("int8", "fp8"):
        words += ["--calib-data", "IMAGES_DIR"]
    return " ".join([*words, "--output-dir", str(folder) if path else f"{OUTPUT_DIR}/none"])


def depth_engine(
    path: str | None, folder: str, precision: str, flag: str = "--depth_engine"
) -> str:
    """The engine of Depth Anything: the one that is named, or the best of a folder.

    Raises:
        EngineError: it is not there, or none of the folder fits; the message has the command
            that builds one.
    """
    from vggt_ros.inference.engine_store import find_engine

    if path:
        if Path(path).exists():
            return path
        raise EngineError(
            f"{flag} {path}: there is no such engine; build it: "
            f"{depth_commands(str(Path(path).parent))}{_STEREO if flag != '--engine' else ''}"
        )
    try:
        return str(find_engine(folder, "depth_anything", precision=precision))
    except EngineError as error:
        raise EngineError(
            f"--depth_engine_dir {folder}: no engine of Depth Anything to run ({error}); build "
            f"it: {depth_commands(folder)}{_STEREO}"
        ) from error


def depth_commands(folder: str) -> str:
    """The commands that make an engine of Depth Anything in a folder."""
    graph = f"{folder}/depth_anything-Bx3x252x336_fp16.onnx"
    return (
        "vggt-ros engine export depth-anything/Depth-Anything-V2-Small-hf --height 252 --width "
        f"336 --out {folder} && vggt-ros engine build {graph} --min-shape 1x3x252x336 "
        "--opt-shape 4x3x252x336 --max-shape 8x3x252x336"
    )


def hugging_face(weights: str | None, checkpoint: str | None) -> str:
    """Local weights, or those of a repository of Hugging Face, downloaded where necessary.

    Raises:
        EngineError: not there, and cannot be downloaded.
    """
    from vggt_ros.engine.checkpoints import resolve_checkpoint

    return str(resolve_checkpoint(weights or checkpoint or "facebook/VGGT-1B"))
