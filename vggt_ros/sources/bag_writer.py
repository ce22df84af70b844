"""Writing of rosbag2 bags without ROS."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from vggt_ros.errors import ConfigError, ExportError
from vggt_ros.sources.messages import typestore

_STORAGES = ("mcap", "sqlite3")


class BagWriter:
    """A new rosbag2 folder, written beside its place and renamed when it is complete.

    Use as a context manager; an exception inside leaves what stood at `path` as it was.

    Args:
        path: folder of the bag; its parent must exist.
        storage: "mcap" or "sqlite3".
        overwrite: replace a bag that is there; anything else than a bag is never replaced.

    Raises:
        ConfigError: unknown storage.
        ExportError: the folder exists, or cannot be written.
    """

    def __init__(self, path: str | Path, storage: str = "mcap", *, overwrite: bool = False):
        if storage not in _STORAGES:
            raise ConfigError(f"bag storage: expected {' or '.join(_STORAGES)}, got '{storage}'")
        self.path = Path(path)
        self.count = 0
        self._storage = storage
        self._overwrite = overwrite
        self._connections: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._temporary: Path | None = None
        self._writer: Any = None

    def __enter__(self) -> BagWriter:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self._check_target()
        try:
            self._temporary = Path(
                tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.absolute().parent)
            )
        except OSError as error:
            raise ExportError(
                f"bag {self.path}: cannot be written: {error.strerror}; choose an existing "
                f"folder that can be written"
            ) from error
        self._writer = Writer(
            self._temporary / self.path.name,
            version=9,
            storage_plugin=StoragePlugin[self._storage.upper()],
        )
        self._guarded(self._writer.open)
        return self

    def write(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Append a `rosbags` message (see `sources.messages`) with its log time."""
        msgtype = message.__msgtype__
        self.write_raw(topic, msgtype, typestore().serialize_cdr(message, msgtype), stamp_ns)

    def write_raw(self, topic: str, msgtype: str, data: bytes | memoryview, stamp_ns: int) -> None:
        """Append serialized bytes (CDR) of a type of the Jazzy store."""
        self.add_topic(topic, msgtype)
        self._guarded(self._writer.write, self._connections[topic], stamp_ns, data)
        self.count += 1

    def add_topic(self, topic: str, msgtype: str) -> None:
        """Announce a topic; the first message does so too.

        Raises:
            ExportError: the topic has another type, or the bag is not open.
        """
        if self._writer is None:
            raise ExportError(f"bag {self.path}: is not open; use it in a 'with' statement")
        if self._types.setdefault(topic, msgtype) != msgtype:
            raise ExportError(
                f"bag {self.path}: topic '{topic}' holds {self._types[topic]}, got {msgtype}"
            )
        if topic not in self._connections:
            self._connections[topic] = self._guarded(
                self._writer.add_connection,
                topic,
                msgtype,
                typestore=typestore(),
                offered_qos_profiles=[_qos(latched=topic.endswith("/tf_static"))],
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None or self._writer is None:  # None: a write failed and said so
            self._abort()
            return
        self._guarded(self._writer.close)
        self._writer = None
        self._publish()

    def _check_target(self) -> None:
        if not self.path.name:
            raise ExportError(f"bag '{self.path}': expected the name of a new folder")
        if not self.path.exists():
            return
        if not self._overwrite:
            raise ExportError(f"bag {self.path}: exists; choose another name or --overwrite")
        content = list(self.path.iterdir()) if self.path.is_dir() else [self.path]
        if any(
            item.is_dir() or item.suffix not in (".mcap", ".db3", ".yaml", ".zstd")
            for item in content
        ):
            raise ExportError(f"bag {self.path}: exists and is not a bag; it is not overwritten")

    def _publish(self) -> None:
        assert self._temporary is not None  # set by __enter__
        new, old = self._temporary / self.path.name, self._temporary / "replaced"
        try:
            if self.path.exists():
                self.path.rename(old)
            try:
                new.rename(self.path)
            except OSError:
                if old.exists():
                    old.rename(self.path)
                raise
        except OSError as error:
            raise ExportError(
                f"bag {self.path}: cannot be put in place: {error.strerror}"
            ) from error
        finally:
            self._discard()

    def _discard(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _abort(self) -> None:
        import sqlite3

        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError, sqlite3.Error):  # may be beyond closing
                writer.abort()
        self._discard()

    def _guarded(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Turn a full disk and refusals of the storage into an `ExportError` and clean up."""
        import sqlite3

        from rosbags.rosbag2 import WriterError

        try:
            return call(*args, **kwargs)
        except (OSError, sqlite3.Error, WriterError) as error:
            self._abort()
            raise ExportError(f"bag {self.path}: cannot be written: {error}") from error


def _qos(*, latched: bool) -> Any:
    """What `ros2 bag play` offers: reliable; transient local for `/tf_static`."""
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    unlimited = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE
    return Qos(
        QosHistory.KEEP_LAST,
        100 if latched else 10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        unlimited,
        unlimited,
        QosLiveliness.AUTOMATIC,
        unlimited,
        False,
    )
