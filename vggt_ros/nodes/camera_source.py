"""Executable `camera_source`: folders, videos and webcams as cameras.

See `camera_source_node.CameraSource`.
"""

from __future__ import annotations

from vggt_ros.nodes import process


def main(args: list[str] | None = None) -> None:
    """Publish until the last image or Ctrl-C; exit code 2 for wrong parameters or sources."""
    stop = process.catch_signals()
    # After the signal handlers, for these imports take seconds.
    from vggt_ros.nodes.camera_source_node import CameraSource

    raise SystemExit(process.run(CameraSource, stop, args))


if __name__ == "__main__":
    main()
