"""Files that are either complete or as they were before.

Everything that the package writes goes through here: into a temporary file in the same folder,
then to the disk, then in one step to its name. Whoever reads the name meanwhile, or after a
power cut, finds the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from vggt_ros.config import Config
from vggt_ros.errors import ExportError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block succeeds.

    For writers that want a name instead of an open file. The temporary name has the same
    suffix. When the block raises, the temporary file is removed and `path` stays untouched.

    Raises:
        ExportError: missing or read-only folder, full disk, `path` is a folder.
    """
    with atomic_paths([path]) as temporary:
        yield temporary[0]


@contextlib.contextmanager
def atomic_paths(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """`atomic_path` for files that belong together: no name is taken before all are written.

    Raises:
        ExportError: as `atomic_path`.
    """
    pairs: list[tuple[Path, Path]] = []
    current = Path(paths[0])
    try:
        for path in paths:
            current = Path(path)
            pairs.append(_temporary_for(current))
        try:
            yield [temporary for temporary, _ in pairs]
            for path, (temporary, target) in zip(paths, pairs, strict=True):
                current = Path(path)
                if target.exists():
                    os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
                _sync(temporary)
            for temporary, target in pairs:
                os.replace(temporary, target)
        except OSError as error:
            names = {str(name): given for p, given in zip(pairs, paths, strict=True) for name in p}
            failed = names.get(os.fsdecode(error.filename or ""), current)
            current = Path(failed)
            raise
        # Some file systems cannot sync a folder; the files themselves are safe already.
        with contextlib.suppress(OSError):
            for folder in {target.parent for _, target in pairs}:
                _sync(folder)
    except OSError as error:
        if not _concerns(error, *(path for pair in pairs for path in pair), current):
            raise
        raise ExportError(_explain(current, error)) from error
    finally:
        for temporary, _ in pairs:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _temporary_for(given: Path) -> tuple[Path, Path]:
    """An empty temporary file, and the file whose place it shall take."""
    # A symbolic link stays a link; what it points to is replaced.
    target = Path(os.path.realpath(given))
    if target.is_dir():
        raise ExportError(f"cannot write {given}: it is a folder; give the name of a file")
    temporary = target.with_name(f".{target.stem[:64]}.{secrets.token_hex(6)}{target.suffix}")
    # Fail on the folder now and not after minutes of writing; the mode obeys the umask.
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise ExportError(_explain(given, error)) from error
    return temporary, target


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Yield an open binary file that becomes `path` when the block succeeds.

    When the block raises, whatever stood at `path` is untouched and nothing else is left.

    Raises:
        ExportError: missing or read-only folder, full disk, `path` is a folder.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, atomically (see `atomic_write`)."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON with two blanks of indent, atomically; the same data give the same bytes.

    Raises:
        ExportError: as `atomic_write`, and for NaN or infinity, which JSON cannot hold (write
            None), or for what is not JSON at all.
    """
    try:
        text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"cannot write {path}: the content is not JSON: {error}") from error
    write_text(path, text + "\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _concerns(error: OSError, *paths: Path) -> bool:
    """Whether an error of the block is about writing these paths and not some other file."""
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
    return not names or any(str(path) in names for path in paths)


def _explain(path: Path, error: OSError) -> str:
    folder = path.absolute().parent
    number = error.errno
    if number in (errno.ENOENT, errno.ENOTDIR):
        if folder.exists() and not folder.is_dir():
            what = f"{folder} is not a folder"
        else:
            what = f"the folder {folder} does not exist; create it or give another path"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = f"the folder {folder} is not writable; give another path or change its permissions"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        what = f"no space left in {folder}; free some or give a path on another disk"
    elif number == errno.EFBIG:
        what = "the file would exceed the size limit of this process or file system"
    elif number == errno.ENAMETOOLONG:
        what = "the name is too long"
    else:
        what = error.strerror or str(error)
    kept = "; the previous file is untouched" if path.is_file() else ""
    return f"cannot write {path}: {what}{kept}"


def checked_path(path: str | Path, config: Config) -> Path:
    """A path that a service was asked to read or write, if it is allowed (`export.folder`).

    Links and `..` are resolved first, so neither leads out of the folder. The folder itself is
    no place for a file either: what is written beside it would lie outside.

    Args:
        path: as it was asked for; relative ones lie in `export.folder` where that is set.
        config: `export.folder`; empty: every path is allowed.

    Returns:
        The path to use; absolute and without links where there is a folder.

    Raises:
        ExportError: no path, an impossible one, or one outside the folder.
    """
    text = str(path)
    if not text:
        raise ExportError("path: expected a file to write or read, got nothing")
    if "\0" in text:
        raise ExportError("path: expected the name of a file, got one with a zero byte in it")
    if not config.export.folder:
        return Path(text)
    folder = Path(os.path.realpath(config.export.folder))
    found = Path(os.path.realpath(folder / text))
    if folder not in found.parents:
        raise ExportError(
            f"path {text}: expected one within {folder} (export.folder), got {found}; give a name "
            "in that folder, or have the operator change export.folder"
        )
    return found
