"""The container of a saved map: one zip file of stored members with a manifest of checksums.

`manifest.json` is the first member: format, version of the format, version of the package, and of
every other member its size and sha256. Members are not compressed: what is damaged stays local,
`unzip` and every other tool can look inside, and the size of the file bounds what is read.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vggt_ros.errors import SourceError
from vggt_ros.export.files import atomic_write

FORMAT, VERSION = "vggt_ros map", 1
MANIFEST = "manifest.json"
SUFFIX = ".vggtmap"
"""By habit; nothing depends on it."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of all members: the same content gives the same bytes."""

_PART = 1 << 20

_LARGEST_MANIFEST = 1 << 24


@dataclass(frozen=True)
class Members:
    """A checked archive: what the manifest says beside the list, and the bytes by name."""

    about: dict[str, Any]
    content: dict[str, bytes]


def write_members(
    path: str | Path, about: Mapping[str, Any], members: Mapping[str, bytes | memoryview]
) -> int:
    """Write an archive, atomically, and return its size [bytes].

    Args:
        path: file to write.
        about: what else the manifest says, as JSON.
        members: content by name.

    Raises:
        ExportError: the file cannot be written; what stood there stays.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "package_version": package_version(),
        **about,
        "members": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        },
    }
    text = json.dumps(manifest, indent=2, allow_nan=False).encode()
    with atomic_write(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in {MANIFEST: text, **members}.items():
                with archive.open(zipfile.ZipInfo(name, _DATE), "w", force_zip64=True) as member:
                    view = memoryview(content)
                    for start in range(0, len(view), _PART):
                        member.write(view[start : start + _PART])
        return file.tell()


def read_members(path: str | Path) -> Members:
    """Read an archive; size and sha256 of every member are compared.

    Raises:
        SourceError: no such file, no archive, of another version, cut off or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _manifest(path, archive)
            return Members(manifest, _checked(path, archive, manifest["members"]))
    except FileNotFoundError as error:
        raise SourceError(f"map archive {path}: no such file") from error
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        NotImplementedError,  # a compression or encryption that zipfile does not know
        RuntimeError,  # an encrypted member
        zipfile.BadZipFile,
    ) as error:
        raise SourceError(
            f"map archive {path}: expected a complete archive of ~/save_map, but it is cut off, "
            f"damaged or something else ({error}); use another copy"
        ) from error


def is_archive(path: str | Path) -> bool:
    """Whether a file looks like an archive; it may still be damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def package_version() -> str:
    """Of this package; "unknown" where it runs from a source tree."""
    try:
        return metadata.version("vggt_ros")
    except metadata.PackageNotFoundError:
        return "unknown"


def _manifest(path: str | Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    info = archive.getinfo(MANIFEST)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _LARGEST_MANIFEST:
        raise ValueError(f"its {MANIFEST} is compressed or of {info.file_size} bytes")
    manifest: dict[str, Any] = json.loads(archive.read(MANIFEST))
    found = manifest.get("format"), manifest.get("version")
    if found[0] != FORMAT:
        raise ValueError(f"its format is {found[0]!r}")
    if found[1] != VERSION:
        raise SourceError(
            f"map archive {path}: expected version {VERSION}, got {found[1]}, written by release "
            f"{manifest.get('package_version')}; load it with that release"
        )
    return manifest


def _checked(
    path: str | Path, archive: zipfile.ZipFile, wanted: Mapping[str, Mapping[str, Any]]
) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    infos = {info.filename: info for info in archive.infolist()}
    surplus = set(infos) - set(wanted) - {MANIFEST}
    if surplus or len(infos) != len(archive.infolist()):
        raise ValueError(f"members that the manifest does not name: {sorted(surplus)}")
    for name, entry in wanted.items():
        if name not in infos:
            raise ValueError(f"member {name} is missing")
        info = infos[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != entry["bytes"]:
            raise ValueError(f"member {name} has not the size that the manifest says")
        content[name] = archive.read(name)
        if hashlib.sha256(content[name]).hexdigest() != entry["sha256"]:
            raise ValueError(f"member {name} has not the sha256 that the manifest says")
    return content
