"""Reading of bag files that were cut off: what is there is played, and the cut is told.

MCAP is read record by record, without its index (mcap.dev, specification). SQLite is read leaf
page by leaf page, without the tree that leads to them (sqlite.org, file format).
"""

from __future__ import annotations

import abc
import io
import mmap
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vggt_ros.errors import SourceError

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_SQLITE_LEAF = 0x0D


class RawMessage(NamedTuple):
    """One serialized message; `stamp_ns` is when it was recorded."""

    topic: str
    msgtype: str
    stamp_ns: int
    data: bytes


class _Cut(Exception):
    """The file ends within a record."""


@dataclass
class DamagedFile(abc.ABC):
    """What both readers know after a first pass over the file."""

    path: Path
    types: dict[str, str] = field(default_factory=dict)
    """Topic to message type."""
    definitions: dict[str, str] = field(default_factory=dict)
    """Message type to its definition in the ros2msg format, where the file holds one."""
    counts: Counter[str] = field(default_factory=Counter)
    """Readable messages by topic."""
    is_cut: bool = False

    @abc.abstractmethod
    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Readable messages of `topics`."""


class DamagedMcap(DamagedFile):
    """An MCAP file without an index, with or without its end.

    Raises:
        SourceError: not an MCAP file at all.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, tuple[str, str]] = {}
        self._size = path.stat().st_size
        for message in self._scan():
            self.counts[message.topic] += 1
        self.types = dict(self._channels.values())

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Messages in the order of the chunks, sorted by log time within each."""
        return (message for message in self._scan() if message.topic in topics)

    def _scan(self) -> Iterator[RawMessage]:
        with self.path.open("rb") as file:
            if file.read(8) != _MCAP_MAGIC:
                raise SourceError(f"bag {self.path}: is not an MCAP file (wrong first bytes)")
            try:
                yield from self._records(file, nested=False)
            except (_Cut, struct.error):
                self.is_cut = True

    def _records(self, file: BinaryIO, *, nested: bool) -> Iterator[RawMessage]:
        while True:
            head = file.read(9)
            if not head and nested:
                return
            if len(head) < 9:
                raise _Cut
            opcode, size = head[0], int.from_bytes(head[1:], "little")
            if opcode == _DATA_END:
                return
            if opcode == _CHUNK and not nested:
                yield from self._chunk(file, size)
                continue
            if size > self._size and not nested:
                raise _Cut
            record = _exactly(file, size)
            if opcode == _SCHEMA:
                self._add_schema(io.BytesIO(record))
            elif opcode == _CHANNEL:
                self._add_channel(io.BytesIO(record))
            elif opcode == _MESSAGE:
                channel, _, log_time, _ = struct.unpack_from("<HIQQ", record)
                if channel in self._channels:
                    yield RawMessage(*self._channels[channel], log_time, record[22:])

    def _chunk(self, file: BinaryIO, size: int) -> Iterator[RawMessage]:
        head = _exactly(file, 28)
        compression = _string(file)
        (length,) = struct.unpack("<Q", _exactly(file, 8))
        if length > size:
            raise _Cut
        length = min(length, self._size)  # what a damaged length asks for is not allocated
        data = file.read(length)
        is_cut = len(data) < length
        (uncompressed,) = struct.unpack_from("<Q", head, 16)
        content = _decompress(compression, data, self.path)
        is_cut = is_cut or len(content) < uncompressed
        messages = []
        try:
            for message in self._records(io.BytesIO(content), nested=True):
                messages.append(message)  # kept when the next record turns out to be cut
        except (_Cut, struct.error):
            is_cut = True
        yield from sorted(messages, key=lambda message: message.stamp_ns)
        if is_cut:
            raise _Cut

    def _add_schema(self, record: BinaryIO) -> None:
        (number,) = struct.unpack("<H", _exactly(record, 2))
        name, encoding, definition = _string(record), _string(record), _string(record)
        self._schemas[number] = (name, encoding, definition)
        if encoding == "ros2msg":
            self.definitions[name] = definition

    def _add_channel(self, record: BinaryIO) -> None:
        number, schema = struct.unpack("<HH", _exactly(record, 4))
        topic = _string(record)
        if schema in self._schemas:
            self._channels[number] = (topic, self._schemas[schema][0])


def _exactly(file: BinaryIO, size: int) -> bytes:
    if size > sys.maxsize:
        raise _Cut
    data = file.read(size)
    if len(data) < size:
        raise _Cut
    return data


def _string(file: BinaryIO) -> str:
    (size,) = struct.unpack("<I", _exactly(file, 4))
    return _exactly(file, size).decode(errors="replace")


def _decompress(compression: str, data: bytes, path: Path) -> bytes:
    """As much of a chunk as its bytes give; damage inside ends it early."""
    if not compression:
        return data
    errors: tuple[type[Exception], ...]
    decompress: Callable[[bytes], bytes]
    if compression == "lz4":
        import lz4.frame

        decompress = lz4.frame.LZ4FrameDecompressor().decompress
        errors = (RuntimeError, EOFError)
    elif compression == "zstd":
        try:
            from compression import zstd  # Python 3.14
        except ImportError:
            from backports import zstd
        decompress, errors = zstd.ZstdDecompressor().decompress, (zstd.ZstdError, EOFError)
    else:
        raise SourceError(f"bag {path}: unknown chunk compression '{compression}'")
    content = bytearray()
    step = 1 << 16  # small pieces, so that damage costs at most one of them
    for start in range(0, len(data), step):
        try:
            content += decompress(data[start : start + step])
        except errors:
            break
    return bytes(content)


class DamagedSqlite(DamagedFile):
    """A rosbag2 SQLite file whose end is missing or that was not closed.

    Raises:
        SourceError: the head with the list of topics cannot be read.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            topics = self._read_topics()
        except sqlite3.Error as error:
            raise SourceError(
                f"bag {path}: the list of topics cannot be read ({error}); nothing to play"
            ) from error
        self.types = dict(topics.values())
        index: dict[int, tuple[int, str, int, int]] = {}
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for row, topic, stamp, page, cell in _message_cells(data, topics):
                index[row] = (stamp, topic, page, cell)  # the later of two copies of a row
            expected = int.from_bytes(data[28:32], "big") * _page_size(data)
            self.is_cut = len(data) < expected
        self._index = sorted(index.values())
        for _, topic, _, _ in self._index:
            self.counts[topic] += 1

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Messages sorted by log time."""
        wanted = set(topics)
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            for stamp, topic, page, cell in self._index:
                if topic in wanted:
                    payload = _payload(data, page, cell)[1]
                    blob = _columns(payload)[3]
                    yield RawMessage(topic, self.types[topic], stamp, blob)

    def _read_topics(self) -> dict[int, tuple[str, str]]:
        connection = sqlite3.connect(f"file:{self.path.absolute()}?immutable=1", uri=True)
        try:
            # Without it SQLite refuses a file that is shorter than its header says.
            connection.execute("PRAGMA writable_schema=ON")
            rows = connection.execute("SELECT id, name, type FROM topics").fetchall()
            try:
                for name, encoding, definition in connection.execute(
                    "SELECT topic_type, encoding, encoded_message_definition "
                    "FROM message_definitions"
                ):
                    if encoding == "ros2msg":
                        self.definitions[name] = definition
            except sqlite3.Error:  # bags before Iron have no such table
                pass
            return {
                row[0]: (row[1], row[2])
                for row in rows
                if isinstance(row[1], str) and isinstance(row[2], str)
            }
        finally:
            connection.close()


def _page_size(data: mmap.mmap) -> int:
    size = int.from_bytes(data[16:18], "big")
    return 65536 if size == 1 else max(size, 512)


def _message_cells(
    data: mmap.mmap, topics: dict[int, tuple[str, str]]
) -> Iterator[tuple[int, str, int, int, int]]:
    """(row, topic, stamp, page, cell) of rows (id, topic_id, timestamp, data) that are whole."""
    size = _page_size(data)
    for page in range(len(data) // size):
        start = page * size + (100 if page == 0 else 0)
        if data[start] != _SQLITE_LEAF:
            continue
        (cells,) = struct.unpack_from(">H", data, start + 3)
        if cells * 2 + 8 > size:
            continue
        for pointer in struct.unpack_from(f">{cells}H", data, start + 8):
            try:
                row, payload = _payload(data, page, pointer)
                columns = _columns(payload)
            except (_Cut, IndexError, struct.error):
                continue
            if (
                len(columns) == 4
                and columns[0] is None
                and columns[1] in topics
                and isinstance(columns[2], int)
                and isinstance(columns[3], bytes)
            ):
                yield row, topics[columns[1]][0], columns[2], page, pointer


def _payload(data: mmap.mmap, page: int, cell: int) -> tuple[int, bytes]:
    """Row number and record of a table leaf cell, with its overflow pages.

    Sizes as in "B-tree Cell Format" of the SQLite file format.
    """
    size = _page_size(data)
    usable = size - data[20]
    at = page * size + cell
    length, at = _varint(data, at)
    row, at = _varint(data, at)
    if length > len(data):
        raise _Cut
    local = length
    if length > usable - 35:
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        if local > usable - 35:
            local = least
    parts = [data[at : at + local]]
    missing = length - local
    following = at + local
    while missing > 0:
        (number,) = struct.unpack_from(">I", data, following)
        following = (number - 1) * size
        if number == 0 or following + size > len(data):
            raise _Cut
        parts.append(data[following + 4 : following + 4 + min(missing, usable - 4)])
        missing -= usable - 4
    return row, b"".join(parts)


def _columns(record: bytes) -> list[Any]:
    """Values of a record; numbers that rosbag2 does not store are left as bytes."""
    end, at = _varint(record, 0)
    kinds = []
    while at < end:
        kind, at = _varint(record, at)
        kinds.append(kind)
    values: list[Any] = []
    for kind in kinds:
        if kind in (0, 8, 9):
            values.append(None if kind == 0 else kind - 8)
            continue
        size = (kind - 12) // 2 if kind >= 12 else (0, 1, 2, 3, 4, 6, 8, 8)[kind]
        value = record[at : at + size]
        if len(value) < size:
            raise _Cut
        values.append(int.from_bytes(value, "big", signed=True) if kind < 7 else value)
        at += size
    return values


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


def damage_errors() -> tuple[type[Exception], ...]:
    """What `rosbags` raises on damaged bytes: its own error, and what its parsers run into."""
    import apsw
    from rosbags.rosbag2.errors import ReaderError

    return (
        ReaderError,
        apsw.Error,
        OSError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        OverflowError,
        MemoryError,
        RuntimeError,
        EOFError,
        AssertionError,
        struct.error,
        *_zstd_errors(),
    )


def _zstd_errors() -> tuple[type[Exception], ...]:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        from backports import zstd
    return (zstd.ZstdError,)
