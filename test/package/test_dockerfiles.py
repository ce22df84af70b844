"""The dockerfiles, as far as they can be judged without Docker: syntax, files, secrets."""

import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

FILES = ("jazzy.Dockerfile", "jetson.Dockerfile")
INSTRUCTIONS = {
    *("ARG", "FROM", "SHELL", "ENV", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"),
}


def parse(path):
    """(instruction, arguments) of every line, continuation lines joined, comments left out."""
    joined, parts = "", []
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("#") or (not line.strip() and not joined):
            continue
        assert line.strip(), "an empty line within an instruction"
        joined += line.rstrip("\\").rstrip() + " " if line.endswith("\\") else line
        if not line.endswith("\\"):
            instruction, _, arguments = joined.strip().partition(" ")
            parts.append((instruction, arguments.strip()))
            joined = ""
    assert not joined, "the last line goes on"
    return parts


def ignored(repository, name):
    kept = False
    for pattern in (repository / ".dockerignore").read_text().splitlines():
        bare = pattern.lstrip("!")
        if pattern and not pattern.startswith("#") and fnmatch(name, bare):
            kept = not pattern.startswith("!")
    return kept


@pytest.fixture(params=FILES)
def dockerfile(request, repository):
    return repository / "docker" / request.param


def test_instructions(dockerfile):
    parts = parse(dockerfile)
    names = [name for name, _ in parts]
    assert set(names) <= INSTRUCTIONS
    assert next(n for n in names if n != "ARG") == "FROM"
    assert names.count("FROM") == names.count("ENTRYPOINT") == names.count("CMD") == 1
    for name, arguments in parts:
        assert arguments, name
        if name in ("SHELL", "ENTRYPOINT", "CMD"):
            assert arguments.startswith("["), "the form that needs no shell"


def test_shell_commands_are_valid(dockerfile):
    for name, arguments in parse(dockerfile):
        if name == "RUN":
            done = subprocess.run(
                ["bash", "-n", "-c", arguments], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (arguments, done.stderr)


def test_what_is_copied_is_there_and_not_ignored(dockerfile, repository):
    copied = [shlex.split(a) for name, a in parse(dockerfile) if name == "COPY"]
    assert ["."] in [c[:-1] for c in copied]
    for *sources, _ in copied:
        for source in sources:
            assert (repository / source).exists(), source
            assert source == "." or not ignored(repository, source)
    assert ignored(repository, ".venv")
    assert ignored(repository, "engines/vggt.engine")
    assert not ignored(repository, "engines/vggt.json")
    entrypoint = repository / "docker" / "entrypoint.sh"
    assert entrypoint.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(entrypoint)], check=False).returncode == 0


def test_no_hosts_users_or_secrets(dockerfile, repository):
    for file in (dockerfile, repository / "docker" / "entrypoint.sh"):
        text = "\n".join(
            line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")
        )
        assert not re.search(r"https?://|\b\d{1,3}(\.\d{1,3}){3}\b", text)
        assert not re.search(r"(?i)token|passw|secret|api_?key|--(extra-)?index-url", text)
        assert "/home/" not in text


def test_images_share_memory_and_the_profile(dockerfile, repository):
    assert "--ipc=host" in dockerfile.read_text()
    value = dict(parse(dockerfile))["ENV"].split("=")
    assert value[0] == "FASTRTPS_DEFAULT_PROFILES_FILE"
    installed = "/opt/vggt_ros/ws/install/vggt_ros/share/vggt_ros/"
    assert value[1].startswith(installed)
    assert (repository / value[1].removeprefix(installed)).is_file()


def test_paths_agree(repository):
    """Workspace and environment stand in three files."""
    entrypoint = (repository / "docker" / "entrypoint.sh").read_text()
    for name in FILES:
        parts = parse(repository / "docker" / name)
        (workspace,) = [Path(a) for n, a in parts if n == "WORKDIR"]
        assert f"source {workspace}/install/setup.bash" in entrypoint
        built = next(a for n, a in parts if n == "RUN" and "colcon build" in a)
        assert built.rstrip().endswith("vggt-ros doctor")
