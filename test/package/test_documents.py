"""Documents for operators name what exists: parameters, launch arguments, services, files."""

import re
from pathlib import Path

import pytest

from vggt_ros.config import CameraConfig
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.parameters.tree import flatten

DOCUMENTS = ("README.md", "docs/operations.md", "docs/install.md")


@pytest.fixture(params=DOCUMENTS)
def text(request, repository):
    return (repository / request.param).read_text()


def test_parameters(text):
    known = set(flatten(MapperConfig()))
    groups = {name.split(".")[0] for name in known if "." in name}
    named = set(re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)", text))
    named |= set(re.findall(r"ros2 param set \S+ (\S+)", text))
    wrong = {
        name
        for name in named
        if name.split(".")[0] in groups and name not in known and not is_a_file(name)
    }
    assert wrong == set()
    for key in re.findall(r"`camera\.(?:<name>|\w+)\.(\w+)", text):
        assert hasattr(CameraConfig(), key), key
    for group in re.findall(r"`([a-z_]+)\.\*`", text):
        assert group in groups | {"qos_overrides"}, group


def is_a_file(name):
    return name.rsplit(".", 1)[-1] in ("md", "py", "yaml", "launch", "xml", "ply", "json", "tum")


def test_launch_arguments(text, repository):
    declared = set()
    for file in [
        *(repository / "launch").glob("*.py"),
        repository / "vggt_ros/nodes/launching.py",
    ]:
        source = file.read_text()
        declared |= set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', source))
        declared |= set(re.findall(r'^    "(\w+)": \(', source, re.MULTILINE))
    commands = re.findall(
        r"ros2 launch vggt_ros (\S+\.launch\.py)((?:[^\n`]|\\\n)*)", text.replace("\\\n", " ")
    )
    for file, arguments in commands:
        assert (repository / "launch" / file).is_file(), file
        for name in re.findall(r"(?:^|\s)(\w+):=", arguments):
            assert name in declared, (file, name)


def test_services(text, repository):
    for name in re.findall(r"vggt_ros/srv/(\w+)", text):
        assert (repository / "srv" / f"{name}.srv").is_file()
    for kind, body in re.findall(r"vggt_ros/srv/(\w+) \"\{(.*?)\}\"", text):
        fields = (repository / "srv" / f"{kind}.srv").read_text().split("---")[0]
        for key in re.findall(r"(\w+):\s", body):
            assert re.search(rf"^\w+ {key}\b", fields, re.MULTILINE), (kind, key)


def test_links(text, repository, request):
    folder = (repository / request.node.callspec.params["text"]).parent
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (folder / target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert anchor in headings, anchor


def test_commands_of_the_tool_exist(text):
    from vggt_ros.cli.main import build_parser

    actions = next(a for a in build_parser()._actions if a.dest == "command").choices
    for name in re.findall(r"^(?:sudo )?vggt-ros (\w[\w-]*)", text, re.MULTILINE):
        assert name in actions, name


def test_modules_of_the_benches_exist(text):
    for name in re.findall(r"python -m bench (\w+)", text):
        assert (Path(__file__).parents[2] / "bench" / f"{name}.py").is_file()
