"""Executable `mapper`: images of several cameras in, a map out. See `mapper_node.Mapper`."""

from __future__ import annotations

from vggt_ros.nodes import process


def main(args: list[str] | None = None) -> None:
    """Run the node until Ctrl-C; exit code 2 for wrong parameters, 1 for a failed start."""
    stop = process.catch_signals()
    # After the signal handlers, for these imports take seconds.
    from vggt_ros.nodes.mapper_node import Mapper

    raise SystemExit(process.run(Mapper, stop, args, threads=5))


if __name__ == "__main__":
    main()
