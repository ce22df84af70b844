"""Launch files name what is there. They cannot be imported without a ROS distribution, where
`launch` comes from; there they are loaded too."""

import ast
import importlib.util

import pytest
import yaml

FILES = (
    "static_rig.launch.py",
    "replay.launch.py",
    "demo.launch.py",
    "camera_source.launch.py",
)
HAS_LAUNCH = importlib.util.find_spec("launch_ros") is not None


def calls(repository, name):
    tree = ast.parse((repository / "launch" / name).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def strings(node):
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value]


@pytest.mark.parametrize("name", FILES)
def test_executables_and_files_exist(repository, name):
    for call in calls(repository, name):
        keywords = {k.arg: k.value for k in call.keywords}
        if "executable" in keywords:
            package = keywords["package"].value
            if package == "vggt_ros":
                executable = keywords["executable"].value
                assert (repository / "scripts" / executable).is_file(), executable
                assert (repository / "vggt_ros" / "nodes" / f"{executable}.py").is_file()
        if getattr(call.func, "id", "") == "PathJoinSubstitution":
            parts = [part for part in strings(call) if part != "vggt_ros"]
            if parts and parts[0] in ("config", "launch") and parts[-1] != "default.yaml":
                assert (repository / "/".join(parts)).is_file(), parts


@pytest.mark.parametrize("name", FILES)
def test_arguments_that_are_used_are_declared(repository, name):
    declared, used = set(), set()
    for call in calls(repository, name):
        function = getattr(call.func, "id", "")
        if function == "DeclareLaunchArgument":
            declared.add(call.args[0].value)
        if function == "LaunchConfiguration":
            used.add(call.args[0].value)
    assert used
    assert used <= declared


@pytest.mark.parametrize(
    ("name", "included"), [(FILES[1], FILES[0]), (FILES[2], FILES[1]), (FILES[3], FILES[0])]
)
def test_included_files_know_the_arguments(repository, name, included):
    declared = {
        call.args[0].value
        for call in calls(repository, included)
        if getattr(call.func, "id", "") == "DeclareLaunchArgument"
    }
    for call in calls(repository, name):
        for keyword in call.keywords:
            if keyword.arg == "launch_arguments":
                assert {k.value for k in keyword.value.func.value.keys} <= declared


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not HAS_LAUNCH, reason="launch is part of a ROS distribution")
def test_they_load(repository, name):
    spec = importlib.util.spec_from_file_location(name, repository / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.generate_launch_description().entities


@pytest.mark.parametrize(("name", "config"), [(FILES[1], "BagPlayer"), (FILES[3], "CameraSource")])
def test_parameters_of_the_nodes_exist(repository, name, config):
    from vggt_ros.nodes import node_config

    known = getattr(node_config, f"{config}Config")()
    text = (repository / "launch" / name).read_text()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "parameters":
            for entry in node.value.elts:
                for key in entry.keys:
                    assert hasattr(known, key.value), key.value


def test_rviz_keeps_late_joiners_in_mind(repository):
    config = yaml.safe_load((repository / "config" / "vggt.rviz").read_text())
    displays = {d["Name"]: d for d in config["Visualization Manager"]["Displays"]}
    for name, topic in (("Map", "/mapper/map"), ("Cameras", "/mapper/cameras")):
        assert displays[name]["Topic"]["Value"] == topic
        assert displays[name]["Topic"]["Durability Policy"] == "Transient Local"


def test_large_data_is_the_same_everywhere(repository):
    from vggt_ros.cli.demo import dds_environment

    value = dds_environment(1)["FASTDDS_BUILTIN_TRANSPORTS"]
    assert value in (repository / "launch" / "static_rig.launch.py").read_text()
    kind, _, options = value.partition("?")
    xml = (repository / "config" / "fastdds_large_data.xml").read_text()
    assert f">{kind}</builtinTransports>" in xml
    for option in options.split("&"):
        key, _, setting = option.partition("=")
        assert f'{key}="{setting}"' in xml
