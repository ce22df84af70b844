"""What the interchangeable stages promise. `mapping.MappingPipeline` knows only these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vggt_ros.config import Config
from vggt_ros.types import AlignedScene, DepthPrediction, FrameSet, UnscaledScene


class Bootstrapper(Protocol):
    """Finds the cameras of one or several frame sets, up to an unknown similarity."""

    name: str
    sets_needed: int
    """How many frame sets `bootstrap` wants."""

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """Register the views in the order in which the sets hold them.

        Frames with a `model` are undistorted and keep it; for the others the intrinsics are
        estimated and come back in `View.model`, with distortion where there is any.

        Raises:
            AlignmentError: too few views or points; the message counts them.
        """
        ...


class DepthEstimator(Protocol):
    """Gives a dense depth per image."""

    name: str

    def set_config(self, config: Config) -> None:
        """Take over the parameters that may change while mapping."""
        ...

    def prepare(self, scene: AlignedScene) -> None:
        """Take over new camera poses: choose sources, depth range; compile or warm up."""
        ...

    def estimate(self, frame_set: FrameSet) -> list[DepthPrediction]:
        """Depth of the frames that are registered in the scene.

        Every frame has a `model`; a camera that cannot be served is left out.
        """
        ...


@dataclass(frozen=True)
class EngineInUse:
    """What people are told of a network that runs."""

    file: str
    """Name of the engine, without its folder."""
    backend: str
    device: str
    precision: str
    """What it effectively computes in."""
    model: str
    licence: str
    sha256: str
    """Of the file; empty for a folder."""
    verified: bool
    """False for a checkpoint, and with `allow_unverified`: it was not held against a passport."""


@runtime_checkable
class EngineUser(Protocol):
    """A stage that asks a network; the pipeline opens it in `prepare` and closes it at the end."""

    @property
    def engine(self) -> EngineInUse | None:
        """What runs, or ran last; None before it is open."""
        ...

    def open(self) -> None:
        """Load the engine, check it, run it once; nothing where it is open already.

        Raises:
            EngineError: it cannot be used, with what mends it.
        """
        ...

    def close(self) -> None:
        """Free the engine; `open` may follow."""
        ...
