"""Every error that a user can meet: what, what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VggtRosError(Exception):
    """Base of all errors of this package; the CLI turns it into one line and exit code 1."""


class ConfigError(VggtRosError):
    """A parameter, flag, rig file or configuration file is wrong."""


class EngineError(VggtRosError):
    """A network, engine or back end cannot be used as asked."""


class CalibrationError(VggtRosError):
    """Intrinsics, distortion or rig poses are missing or impossible."""


class AlignmentError(VggtRosError):
    """Views could not be registered, or scene and rig or depth and map do not fit together."""


class SourceError(VggtRosError):
    """A bag, folder, video or topic cannot be read."""


class ExportError(VggtRosError):
    """A file could not be written; whatever stood there before is untouched."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the valid name nearest to `name`, or ``""``."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
