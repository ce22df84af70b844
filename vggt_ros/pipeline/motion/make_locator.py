"""Which locator a configuration asks for."""

from __future__ import annotations

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, nearest
from vggt_ros.pipeline.bootstrap import make_bootstrapper
from vggt_ros.pipeline.motion.located import Locator
from vggt_ros.pipeline.motion.tf_locator import TfLocator
from vggt_ros.pipeline.motion.window_locator import WindowLocator
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.rig import Rig

MOTIONS = ("static", "tf", "estimate")

_SCALES = {
    "tf, frame.odom empty": ("auto", "odometry"),
    "tf with frame.odom": ("auto", "rig", "odometry", "depth_camera", "parameter", "none"),
    "estimate": ("auto", "rig", "depth_camera", "parameter", "none"),
}
"""`scale.source` by what moves. A given path is in metres, and the map in its frame; a network of
metric depth is asked by the bootstrap of a rig that stands still only; and `estimate` is not told
where odometry has the rig."""


def make_locator(
    config: Config, rig: Rig | None, bootstrapper: Bootstrapper | None
) -> Locator | None:
    """The locator of `config.motion`; None for a rig that stands still.

    Args:
        bootstrapper: one that knows nothing of the rig, or None: made by `config.bootstrap`.

    Raises:
        ConfigError: there is none of that name, the bootstrapper cannot find a path, or nothing
            that moves so has a metre from `scale.source`.
    """
    if config.motion == "static":
        return None
    if config.motion not in MOTIONS:
        raise ConfigError(
            f"motion: expected one of {', '.join(MOTIONS)}, got '{config.motion}'"
            f"{nearest(config.motion, MOTIONS)}"
        )
    _check_scale(config)
    drifts = config.motion == "estimate" or bool(config.frame.odom)
    if bootstrapper is None and config.bootstrap != "rig":
        bootstrapper = make_bootstrapper(config, None)
    if not drifts:
        return TfLocator(config, rig, bootstrapper)
    if bootstrapper is None and config.motion == "estimate":
        raise ConfigError(
            "bootstrap: motion estimate finds the path from the images; expected sfm or vggt, "
            "got rig"
        )
    return WindowLocator(config, rig, bootstrapper, uses_world=config.motion == "tf")


def _check_scale(config: Config) -> None:
    motion = config.motion
    if motion == "tf":
        motion = "tf with frame.odom" if config.frame.odom else "tf, frame.odom empty"
    possible = _SCALES[motion]
    if config.scale.source not in possible:
        raise ConfigError(
            f"scale.source: expected one of {', '.join(possible)} with motion {motion}, got "
            f"'{config.scale.source}'; docs/scale.md says which goes with which"
        )
