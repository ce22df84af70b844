"""Choice of the bootstrapper by name."""

from __future__ import annotations

from vggt_ros.config import Config
from vggt_ros.errors import CalibrationError, ConfigError, nearest
from vggt_ros.pipeline.rig_bootstrap import RigBootstrapper
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.rig import Rig

BOOTSTRAPPERS = ("sfm", "rig", "vggt")
FROM_RIG = ("rig",)
"""Those that must know the rig when they are made."""


def make_bootstrapper(config: Config, rig: Rig | None) -> Bootstrapper:
    """The bootstrapper that `config.bootstrap` names.

    Raises:
        ConfigError: unknown name.
        CalibrationError: `rig` without a pose of at least one camera.
    """
    if config.bootstrap == "vggt":
        from vggt_ros.pipeline.vggt_bootstrap import VggtBootstrapper  # only where it is chosen

        return VggtBootstrapper(config.vggt, config.cameras)
    if config.bootstrap == "sfm":
        return SfmBootstrapper(config.sfm)
    if config.bootstrap == "rig":
        if rig is None or not rig.poses:
            raise CalibrationError(
                "bootstrap rig: expected rig_from_camera of the cameras, got none; give "
                "rig_file or TF, or choose bootstrap: sfm"
            )
        return RigBootstrapper(rig, config.rig, config.sfm)
    raise ConfigError(
        f"bootstrap: expected one of {', '.join(BOOTSTRAPPERS)}, got '{config.bootstrap}'"
        f"{nearest(config.bootstrap, BOOTSTRAPPERS)}"
    )
