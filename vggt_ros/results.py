"""The folder of results that replay and demo leave behind."""

from __future__ import annotations

from pathlib import Path

from vggt_ros.errors import ExportError

REPORT, TIMINGS, MAP, TRAJECTORY = "report.json", "timings.json", "map.ply", "cameras.tum"
PREVIEW, CONFIG, FEATURES = "preview.png", "config.yaml", "features.npz"
PATH = "trajectory.tum"


def prepare_folder(path: str | Path) -> Path:
    """Create the folder and check, before long work, that it can be written to.

    Raises:
        ExportError: it cannot be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ExportError(
            f"output folder {folder}: cannot be written ({error.strerror}); "
            "give another folder or free its place"
        ) from error
    return folder


def table(rows: list[tuple[str, str, str, str]], head: tuple[str, str, str, str]) -> str:
    """Left-aligned columns for the terminal."""
    lines = [head, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines]  # fmt: skip
    text.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(text)
