"""Atomic files: complete or untouched, and what the errors say."""

import dataclasses
import errno
import os
import resource
import stat
import subprocess
import sys

import pytest

from vggt_ros.config import Config, ExportConfig
from vggt_ros.errors import ExportError
from vggt_ros.export.files import (
    atomic_path,
    atomic_write,
    checked_path,
    write_json,
    write_text,
)


def test_new_file_and_replaced_file(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "two"):
        write_text(path, text)
        assert path.read_text() == text
    assert os.listdir(tmp_path) == ["a.txt"]


def test_old_file_is_seen_until_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), ExportError("no")])
def test_failure_in_the_block_leaves_everything(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_missing_folder(tmp_path):
    with pytest.raises(ExportError, match=r"missing does not exist; create it"):
        write_text(tmp_path / "missing" / "a.txt", "x")


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(ExportError, match=r"f is not a folder"):
        write_text(tmp_path / "f" / "a.txt", "x")


def test_path_that_is_a_folder(tmp_path):
    with pytest.raises(ExportError, match="it is a folder"):
        write_text(tmp_path, "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ExportError, match="not writable"):
            write_text(path, "new")
    finally:
        tmp_path.chmod(0o755)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.EROFS, "not writable"), (errno.EACCES, "not writable"), (errno.ENOSPC, "no space")],
)
def test_errors_of_the_file_system_are_explained(tmp_path, monkeypatch, number, text):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ExportError, match=f"{text}.*previous file is untouched"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_that_really_runs_out_of_room(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(ExportError, match="size limit"), atomic_write(path) as file:
            file.write(bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_errors_of_other_files_are_not_taken_for_ours(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "other").read_bytes()


def test_permissions_follow_umask_and_the_previous_file(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        (tmp_path / "a").chmod(0o604)
        write_text(tmp_path / "a", "y")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604


def test_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_atomic_path_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "a.ply") as temporary:
        assert temporary.suffix == ".ply"
        assert temporary.parent == tmp_path
        temporary.write_text("x")
    assert (tmp_path / "a.ply").read_text() == "x"


def test_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    script = (
        "import os, sys\n"
        "from vggt_ros.export.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 9
    assert path.read_bytes() == b"old"


def test_json_is_strict(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    2.5\n  ]\n}\n'
    for data in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises(ExportError, match=r"a\.json: the content is not JSON"):
            write_json(path, data)


@pytest.fixture
def fenced(tmp_path):
    """A configuration with an allowed folder, which holds links out of it and within it."""
    folder = tmp_path / "maps"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "maps too").mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "link out").symlink_to(tmp_path)
    (folder / "file out").symlink_to(tmp_path / "secret")
    (folder / "link in").symlink_to(folder / "sub")
    return dataclasses.replace(Config(), export=ExportConfig(str(folder))), folder


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "link out/secret",
        "link out/new",
        "file out",
        "sub/../link out/maps too/map.ply",
        "../maps too/map.ply",
        "../maps",
        ".",
        "sub/..",
        "/",
    ],
)
def test_paths_that_lead_out_of_the_folder_are_refused(fenced, path):
    config, folder = fenced
    for given in (path, str(folder / path)):
        with pytest.raises(ExportError, match=r"expected one within .*maps \(export.folder\)"):
            checked_path(given, config)


@pytest.mark.parametrize("path", ["map.ply", "sub/map.ply", "sub/../map.ply", "link in/map.ply"])
def test_paths_within_the_folder_are_allowed(fenced, path):
    config, folder = fenced
    for given in (path, str(folder / path)):
        found = checked_path(given, config)
        assert found == (folder / path).resolve()
        assert folder in found.parents


def test_without_a_folder_every_path_is_allowed(tmp_path):
    assert checked_path(tmp_path / "a", Config()) == tmp_path / "a"
    for path in ("", "a\0b"):
        with pytest.raises(ExportError, match="path: expected"):
            checked_path(path, Config())


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    config = dataclasses.replace(Config(), export=ExportConfig(str(tmp_path / "link")))
    assert checked_path("a", config) == tmp_path / "real" / "a"
    assert checked_path(tmp_path / "link" / "a", config) == tmp_path / "real" / "a"
