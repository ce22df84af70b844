"""What the launch files start, with which parameters.

`launch` comes with a ROS distribution only. Elsewhere a stand-in runs the files; where it is
installed they are loaded by it too.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lifecycle_msgs", reason="needs ROS 2: lifecycle_msgs is not installed")
from lifecycle_msgs.msg import Transition

from vggt_ros.nodes import node_config
from vggt_ros.nodes.transport import LARGE_DATA, PROFILE_VARIABLES, profile_environment
from vggt_ros.parameters.tree import flatten

HERE = Path(__file__).resolve().parent
FILES = sorted(path.name for path in (HERE.parents[1] / "launch").glob("*.launch.py"))
WITH_MAPPER = [name for name in FILES if name != "demo.launch.py"]
REQUIRED = {"replay.launch.py": {"bag": "some_bag"}}
HAS_LAUNCH = importlib.util.find_spec("launch_ros") is not None


@pytest.fixture
def launch(repository, monkeypatch):
    spec = importlib.util.spec_from_file_location("launch_double", HERE / "launch_double.py")
    double = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "launch_double", double)
    spec.loader.exec_module(double)
    double.install(monkeypatch)

    def run(name, **arguments):
        return double.run(repository, name, **{**REQUIRED.get(name, {}), **arguments})

    return run


def test_a_bag_must_be_named(launch, monkeypatch):
    monkeypatch.setitem(REQUIRED, "replay.launch.py", {})
    with pytest.raises(KeyError, match="'bag' is required"):
        launch("replay.launch.py")


@pytest.mark.parametrize("name", FILES)
def test_every_node_is_there_and_knows_its_parameters(launch, repository, name):
    context = launch(name)
    configs = {"bag_player": "BagPlayerConfig", "camera_source": "CameraSourceConfig"}
    assert context.node("mapper").lifecycle
    for node in context.nodes:
        if node.package != "vggt_ros":
            continue
        assert (repository / "scripts" / node.executable).is_file()
        assert (repository / "vggt_ros" / "nodes" / f"{node.executable}.py").is_file()
        config = getattr(node_config, configs.get(node.executable, "MapperConfig"))()
        known = flatten(config) if node.executable == "mapper" else vars(config)
        assert not {k for k in node.parameters if k not in known and k != "use_sim_time"}
        for key, value in node.parameters.items():
            if key in known:
                default = getattr(known[key], "default", known[key])
                assert type(default) is type(value), (key, value)


@pytest.mark.parametrize("name", WITH_MAPPER)
def test_the_mapper_is_configured_activated_and_ends_the_launch_where_it_fails(launch, name):
    context = launch(name)
    mapper = context.node("mapper")
    assert mapper.name == "mapper"
    assert mapper.on_exit.reason == "the mapper has ended"
    (configure,) = context.events
    assert configure.transition_id == Transition.TRANSITION_CONFIGURE
    states = {h.goal_state: h for h in context.handlers if hasattr(h, "goal_state")}
    assert set(states) == {"inactive", "unconfigured"}
    assert all(h.start_state == "configuring" for h in states.values())
    assert all(h.target is mapper.action for h in states.values())
    assert states["inactive"].handle_once
    activate = states["inactive"].entities[0].event
    assert activate.transition_id == Transition.TRANSITION_ACTIVATE
    assert states["unconfigured"].entities[-1].reason == "configure failed"


def test_a_lifecycle_manager_has_the_transitions_to_itself(launch):
    context = launch("static_rig.launch.py", autostart="false")
    assert context.events == []
    assert context.handlers == []
    assert len(context.nodes) == 1


@pytest.mark.parametrize("name", WITH_MAPPER)
def test_arguments_that_are_not_given_leave_the_parameter_file_as_it_is(launch, name):
    given = launch(name, params_file="mapper.yaml").node("mapper")
    assert given.files == ["mapper.yaml"]
    assert set(given.parameters) <= {"use_sim_time", "motion"}
    default = launch(name).node("mapper")
    assert default.files[0].endswith("config/default.yaml")
    assert Path(default.files[0]).is_file()


@pytest.mark.parametrize("name", WITH_MAPPER)
def test_arguments_reach_the_mapper(launch, name):
    mapper = launch(
        name,
        rig_file="rig.yaml",
        bootstrap="vggt",
        vggt_engine="v.engine",
        depth="depth_anything",
        depth_anything_engine="d.engine",
        motion="estimate",
        namespace="robot1",
        frame_prefix="robot1/",
        log_level="debug",
        tf_in_namespace="true",
    ).node("mapper")
    assert mapper.namespace == "robot1"
    assert mapper.ros_arguments == ["--log-level", "debug"]
    assert mapper.remappings == {"/tf": "tf", "/tf_static": "tf_static"}
    mapper.parameters.pop("use_sim_time")
    assert mapper.parameters == {
        "rig_file": "rig.yaml",
        "bootstrap": "vggt",
        "vggt.engine": "v.engine",
        "depth": "depth_anything",
        "depth_anything.engine": "d.engine",
        "motion": "estimate",
        "frame.prefix": "robot1/",
    }


@pytest.fixture
def no_profile(monkeypatch):
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_the_large_data_profile_is_an_argument(launch, no_profile, monkeypatch, repository):
    folder = repository / "config"
    found = launch("static_rig.launch.py").environment
    assert found == dict.fromkeys(PROFILE_VARIABLES, str(folder / "fastdds_large_data.xml"))
    assert launch("static_rig.launch.py", dds_large_data="false").environment == {}
    monkeypatch.setenv("ROS_DISTRO", "humble")
    found = launch("static_rig.launch.py").environment
    assert set(found.values()) == {str(folder / "fastdds_humble.xml")}


def test_a_profile_of_the_user_is_left_alone(launch, no_profile, monkeypatch):
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "mine.xml")
    assert launch("static_rig.launch.py").environment == {}


def test_rviz_follows_namespace_and_prefix(launch, repository):
    assert [n.executable for n in launch("static_rig.launch.py").nodes] == ["mapper"]
    rviz = launch("static_rig.launch.py", rviz="true").node("rviz2")
    assert rviz.arguments == ["-d", str(repository / "config" / "vggt.rviz")]
    assert rviz.remappings == {}
    rviz = launch(
        "static_rig.launch.py", rviz="true", namespace="robot1", frame_prefix="robot1/"
    ).node("rviz2")
    assert rviz.arguments[2:] == ["-f", "robot1/map"]
    config = yaml.safe_load((repository / "config" / "vggt.rviz").read_text())
    shown = {
        display["Topic"]["Value"]
        for display in config["Visualization Manager"]["Displays"]
        if "Topic" in display
    }
    assert rviz.remappings == {topic: f"/robot1{topic}" for topic in shown}


def test_replay_and_demo(launch):
    context = launch("replay.launch.py", bag="a_bag", rate="2", loop="true")
    player = context.node("bag_player")
    assert player.parameters["bag"] == "a_bag"
    assert player.parameters["rate"] == 2.0
    assert player.parameters["loop"] is True
    assert player.parameters["clock"] is True
    assert context.node("mapper").parameters == {"use_sim_time": True}
    assert not [h for h in context.handlers if hasattr(h, "on_exit")]
    context = launch("replay.launch.py", exit_at_end="true")
    (end,) = [h for h in context.handlers if hasattr(h, "on_exit")]
    assert end.target is context.node("bag_player").action
    context = launch("demo.launch.py", out="out")
    assert context.node("bag_player").parameters["bag"] == "out/bag"
    assert context.node("mapper").files == ["out/mapper.yaml"]
    assert context.node("rviz2")


def test_camera_source_alone_or_with_the_mapper(launch):
    context = launch("camera_source.launch.py", kind="webcams", webcams="['front=0']", mapper="0")
    assert [n.executable for n in context.nodes] == ["camera_source"]
    assert context.nodes[0].parameters["webcams"] == ["front=0"]
    context = launch("camera_source.launch.py", namespace="robot1", frame_prefix="robot1/")
    source = context.node("camera_source")
    assert source.namespace == context.node("mapper").namespace == "robot1"
    assert source.parameters["frame_prefix"] == "robot1/"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not HAS_LAUNCH, reason="launch is part of a ROS distribution")
def test_they_load(repository, name):
    spec = importlib.util.spec_from_file_location(name, repository / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.generate_launch_description().entities


def test_the_shared_part_imports_nothing_of_an_environment(repository):
    """`ros2 launch` runs with the system's Python, which does not see what pip installed."""
    allowed = {
        "__future__",
        "os",
        "pathlib",
        "sys",
        "typing",
        "launch",
        "launch_ros",
        "lifecycle_msgs",
        "vggt_ros",
    }
    files = [repository / "launch" / name for name in FILES]
    files += [repository / "vggt_ros" / "nodes" / n for n in ("launching.py", "transport.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in allowed, file
            elif isinstance(node, ast.Import):
                assert {a.name.split(".")[0] for a in node.names} <= allowed, file
    for light in ("vggt_ros/__init__.py", "vggt_ros/nodes/__init__.py"):
        assert "import" not in (repository / light).read_text().replace("imports", "")


def test_rviz_keeps_late_joiners_in_mind(repository):
    config = yaml.safe_load((repository / "config" / "vggt.rviz").read_text())
    displays = {d["Name"]: d for d in config["Visualization Manager"]["Displays"]}
    for name, topic in (
        ("Map", "/mapper/map"),
        ("Cameras", "/mapper/cameras"),
        ("Path", "/mapper/path"),
        ("Occupancy", "/mapper/occupancy"),
    ):
        assert displays[name]["Topic"]["Value"] == topic
        assert displays[name]["Topic"]["Durability Policy"] == "Transient Local"
        assert displays[name]["Topic"]["Reliability Policy"] == "Reliable"


def test_large_data_is_the_same_everywhere(repository):
    from vggt_ros.cli.demo import dds_environment

    file = repository / "config" / "fastdds_large_data.xml"
    assert dds_environment(1)["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(file)
    assert set(profile_environment()) == set(PROFILE_VARIABLES)
    for document in ("docs/operations.md", "config/fastdds_large_data.xml"):
        assert LARGE_DATA in (repository / document).read_text(), document
    kind, _, options = LARGE_DATA.partition("?")
    xml = file.read_text()
    assert f">{kind}</builtinTransports>" in xml
    for option in options.split("&"):
        key, _, setting = option.partition("=")
        assert f'{key}="{setting}"' in xml


def test_moving_rig_with_odometry_or_carried_by_hand(launch, tmp_path):
    context = launch("moving_rig.launch.py")
    assert [node.executable for node in context.nodes] == ["mapper"]
    assert context.node("mapper").parameters["motion"] == "tf"
    urdf = tmp_path / "robot.urdf"
    urdf.write_text("<robot name='a'/>")
    context = launch(
        "moving_rig.launch.py",
        urdf=str(urdf),
        odom_frame="odom",
        base_frame="base_footprint",
        namespace="robot1",
        frame_prefix="robot1/",
        tf_in_namespace="true",
    )
    mapper, robot = context.node("mapper"), context.node("robot_state_publisher")
    assert mapper.parameters["frame.odom"] == "odom"
    assert mapper.parameters["frame.base"] == "base_footprint"
    assert robot.parameters["robot_description"] == "<robot name='a'/>"
    assert robot.parameters["frame_prefix"] == mapper.parameters["frame.prefix"] == "robot1/"
    assert robot.remappings == mapper.remappings == {"/tf": "tf", "/tf_static": "tf_static"}
    estimate = launch("moving_rig.launch.py", motion="estimate").node("mapper")
    assert estimate.parameters["motion"] == "estimate"
    assert "frame.odom" not in estimate.parameters
