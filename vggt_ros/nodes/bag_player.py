"""Executable `bag_player`: a rosbag2 bag as live topics. See `bag_player_node.BagPlayer`."""

from __future__ import annotations

from vggt_ros.nodes import process


def main(args: list[str] | None = None) -> None:
    """Play until the end or Ctrl-C; exit code 2 for wrong parameters or an unreadable bag."""
    stop = process.catch_signals()
    # After the signal handlers, for these imports take seconds.
    from vggt_ros.nodes.bag_player_node import BagPlayer

    raise SystemExit(process.run(BagPlayer, stop, args))


if __name__ == "__main__":
    main()
