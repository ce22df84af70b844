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


def make_locator(
    config: Config, rig: Rig | None, bootstrapper: Bootstrapper | None
) -> Locator | None:
    """The locator of `config.motion`; None for a rig that stands still.

    Args:
        bootstrapper: one that knows nothing of the rig, or None: made by `config.bootstrap`.

    Raises:
        ConfigError: there is none of that name, or the bootstrapper cannot find a path.
    """
    if config.motion == "static":
        return None
    if config.motion not in MOTIONS:
        raise ConfigError(
            f"motion: expected one of {', '.join(MOTIONS)}, got '{config.motion}'"
            f"{nearest(config.motion, MOTIONS)}"
        )
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
