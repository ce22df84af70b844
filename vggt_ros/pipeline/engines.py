"""The engine of a stage: opened from its parameters, described for people, closed."""

from __future__ import annotations

import logging

from vggt_ros.config import EngineConfig
from vggt_ros.errors import ConfigError, EngineError
from vggt_ros.inference.backend import BackendOptions
from vggt_ros.inference.engine_store import Engine, open_engine
from vggt_ros.pipeline.stages import EngineInUse

_LOG = logging.getLogger(__name__)


class EngineSlot:
    """Holds the engine that a group of parameters names.

    Args:
        group: of the parameters, for messages: "vggt", "depth_anything".
        family: of the model that the stage can read, as passports name it.
        config: the group.
        contexts: calls of `run` that go on at the same time.
    """

    def __init__(self, group: str, family: str, config: EngineConfig, contexts: int = 1) -> None:
        self._group = group
        self._family = family
        self._config = config
        self._contexts = contexts
        self._engine: Engine | None = None
        self.in_use: EngineInUse | None = None
        """What people are told of the engine that runs, or ran last; None before any did."""

    @property
    def is_open(self) -> bool:
        """Whether there is an engine to run."""
        return self._engine is not None

    def open(self) -> Engine:
        """The engine, loaded and verified where it is not yet.

        Raises:
            ConfigError: none is named.
            EngineError: it is missing, does not fit its passport or this machine, or is of
                another family.
        """
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def close(self) -> None:
        """Free it."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _load(self) -> Engine:
        config = self._config
        if not config.engine:
            raise ConfigError(
                f"{self._group}.engine: expected the path of an engine or a checkpoint, got "
                "none; give it, or make one: vggt-ros engine export"
            )
        options = BackendOptions(config.device, config.precision, self._contexts)
        engine = open_engine(
            config.engine, config.backend, options, verify=not config.allow_unverified
        )
        family = engine.passport.model.family
        if family != self._family:
            engine.close()
            raise EngineError(
                f"{self._group}.engine: {config.engine}: expected an engine of {self._family}, "
                f"got one of {family} ({engine.passport.model.name}); name the right file"
            )
        level = logging.WARNING if config.allow_unverified else logging.INFO
        _LOG.log(level, "%s: %s", self._group, engine.summary)
        self.in_use = _described(engine)
        return engine


def _described(engine: Engine) -> EngineInUse:
    model = engine.passport.model
    return EngineInUse(
        file=engine.path.name,
        backend=engine.backend.name,
        device=engine.backend.device,
        precision=engine.backend.precision,
        model=model.name,
        licence=model.licence,
        sha256=engine.passport.sha256,
        verified=engine.report is not None,
    )
