"""`pcd_inference`: the old name of `inference_pcd`, with the same flags and a warning."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vggt_ros.cli import reconstruct


def main(arguments: Sequence[str] | None = None) -> int:
    """Warn and run."""
    print(
        "pcd_inference: deprecated: use inference_pcd or vggt-ros reconstruct, which take the "
        "same flags",
        file=sys.stderr,
    )
    return reconstruct.main(arguments, "pcd_inference")


if __name__ == "__main__":
    sys.exit(main())
