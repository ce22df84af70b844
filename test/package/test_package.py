"""The package as a whole: manifest, versions, interfaces, launch files, import time."""

import ast
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

# Every ROS 2 node on the network must agree on these, or messages are dropped.
TFMESSAGE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"


def project_table(repository: Path) -> dict:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = pytest.importorskip("tomli")
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


class TestManifest:
    def test_catkin_pkg_finds_nothing_to_complain_about(self, repository):
        catkin_pkg = pytest.importorskip("catkin_pkg.package")
        warnings = []
        for folder in (repository, repository / "third_party" / "tf2_msgs"):
            package = catkin_pkg.parse_package(str(folder), warnings=warnings)
            package.validate(warnings=warnings)
            assert package.package_format == 3
            assert package.get_build_type() == "ament_cmake"
            assert package.name == (folder.name if "third_party" in str(folder) else "vggt_ros")
        assert warnings == []

    def test_maintainer_address_is_one_that_colcon_accepts(self, repository):
        # With an invalid one colcon silently takes the package for plain Python.
        root = ElementTree.parse(repository / "package.xml").getroot()
        for maintainer in root.findall("maintainer"):
            assert re.fullmatch(
                r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,12}", maintainer.get("email"), re.IGNORECASE
            )
            assert maintainer.text.strip()

    def test_no_key_that_only_pip_resolves(self, repository):
        root = ElementTree.parse(repository / "package.xml").getroot()
        keys = {e.text for e in root if e.tag.endswith("depend")}
        assert not {key for key in keys if key.endswith("-pip")}
        on_pip_only = {"pycolmap", "rosbags", "open3d"}
        assert not {key for key in keys if key.removeprefix("python3-") in on_pip_only}

    def test_what_only_pip_has_is_listed_for_robots_and_never_opencv_or_ros(self, repository):
        lines = (repository / "requirements-robot.txt").read_text().splitlines()
        names = {re.match(r"[\w-]+", line).group() for line in lines if re.match(r"\w", line)}
        apt = {"numba", "numpy", "opencv-python-headless", "pyyaml", "tqdm"}
        wanted = {
            re.match(r"[\w-]+", d).group()
            for d in project_table(repository)["project"]["dependencies"]
        }
        assert names >= wanted - apt
        assert not {name for name in names if name.startswith(("opencv", "ros-"))}

    def test_generated_code_is_pinned_to_the_release_it_runs_on(self, repository):
        table = project_table(repository)
        build = table["build-system"]["requires"]
        run = table["project"]["optional-dependencies"]["ros-wheels"]
        pins: dict[str, str] = {}
        for requirement in [*build, *run]:
            if requirement.startswith("ros-"):
                name, version = requirement.split("==")
                assert pins.setdefault(name, version) == version
        assert "ros-jazzy-rclpy" in pins
        assert not any(d.startswith("ros-") for d in table["project"]["dependencies"])


class TestImports:
    @pytest.fixture(scope="class")
    def imported(self, repository) -> set[str]:
        """Find every foreign package that vggt_ros imports, anywhere in a module."""
        names = set()
        for file in (repository / "vggt_ros").rglob("*.py"):
            if file.relative_to(repository / "vggt_ros").parts[0] in ("msg", "srv"):
                continue  # generated
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.add(node.module.split(".")[0])
        # `compression` is of Python 3.14; `backports`, apsw and lz4 come with rosbags.
        known = {"vggt_ros", "compression", "backports", "apsw", "lz4"}
        return names - set(sys.stdlib_module_names) - known

    def test_every_import_is_declared_for_pip(self, repository, imported):
        project = project_table(repository)["project"]
        lists = [project["dependencies"], *project["optional-dependencies"].values()]
        declared = {re.match(r"[\w-]+", r).group().lower() for some in lists for r in some}
        modules = {
            "cuda": "cuda-python",
            "cv2": "opencv-python-headless",
            "google": "protobuf",
            "libusb_package": "libusb-package",
            "modelopt": "nvidia-modelopt",
            "onnx_ir": "onnx-ir",
            "yaml": "pyyaml",
        }
        own_build = {"tf2_msgs"}
        # of a distribution
        seam = {"tf2_ros", "cv_bridge", "sensor_msgs_py", "ament_index_python"}
        seam |= {"launch", "launch_ros"}
        missing = {
            name
            for name in imported - own_build - seam
            if modules.get(name, name) not in declared
            and f"ros-jazzy-{name.replace('_', '-')}" not in declared
        }
        assert missing == set()

    def test_every_ros_import_is_declared_for_rosdep(self, repository, imported):
        root = ElementTree.parse(repository / "package.xml").getroot()
        keys = {e.text for e in root if e.tag in ("depend", "exec_depend")}
        ros = {n for n in imported if re.search(r"(_msgs|_srvs|_interfaces|^rclpy|^tf2_.*)$", n)}
        assert ros, "found no ROS import at all"
        assert ros - keys == set()


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Find the calls of one function or class by its bare name."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == name]


def test_one_version_everywhere(repository):
    import vggt_ros

    changelog = (repository / "CHANGELOG.rst").read_text(encoding="utf-8")
    newest = re.search(r"^(\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)\n-+$", changelog, re.MULTILINE)
    manifest = ElementTree.parse(repository / "package.xml").getroot()
    assert newest.group(1) == manifest.findtext("version") == vggt_ros.__version__
    assert project_table(repository)["project"]["version"] == vggt_ros.__version__


class TestInterfaces:
    @pytest.fixture(autouse=True)
    def _needs_ros(self):
        pytest.importorskip("rclpy", reason="no ROS here")

    def test_defaults_claim_nothing(self):
        from vggt_ros.msg import CameraStatus, DropCount, MapStatus

        status = MapStatus()
        assert status.state == MapStatus.STATE_UNCONFIGURED == 0
        assert (status.is_metric, status.scale_source) == (False, "none")
        assert (status.scale_value, status.scale_sigma) == (1.0, 0.0)
        assert (status.dropped, status.cameras, list(status.timing_ms_p50)) == ([], [], [])
        assert not CameraStatus().registered
        assert not CameraStatus().alignment_accepted
        assert DropCount().count == 0

    def test_states_are_distinct(self):
        from vggt_ros.msg import MapStatus

        names = ("UNCONFIGURED", "INACTIVE", "BOOTSTRAPPING", "MAPPING", "PAUSED", "FAILED")
        assert [getattr(MapStatus, f"STATE_{name}") for name in names] == list(range(6))

    def test_export_defaults_to_the_whole_cloud_as_ply(self):
        from vggt_ros.srv import ExportMap

        request, response = ExportMap.Request(), ExportMap.Response()
        assert (request.format, request.voxel_m, request.min_confidence) == ("ply", 0.0, 0.0)
        assert (response.success, response.files, response.num_points) == (False, [], 0)

    def test_a_filled_status_survives_the_wire(self):
        from rclpy.serialization import deserialize_message, serialize_message

        from vggt_ros.msg import CameraStatus, DropCount, MapStatus

        status = MapStatus(state=MapStatus.STATE_MAPPING, is_metric=True, scale_value=2.5)
        status.header.frame_id = "map"
        status.map_points = 2**40
        status.dropped = [DropCount(reason="late", count=3)]
        status.cameras = [CameraStatus(name="front", registered=True, centre_residual_m=0.01)]
        status.timing_names, status.timing_ms_p50 = ["fuse"], [1.5]
        assert deserialize_message(serialize_message(status), MapStatus) == status

    def test_tf_messages_are_the_ones_every_other_node_uses(self):
        # Generated from third_party/tf2_msgs where no distribution brings them. The hash is what
        # other nodes compare when they discover our publisher.
        import rclpy
        from rclpy.context import Context
        from rclpy.node import Node
        from tf2_msgs.msg import TFMessage

        context = Context()
        rclpy.init(context=context)
        try:
            node = Node("hash_test", context=context)
            publisher = node.create_publisher(TFMessage, "/tf", 1)
            deadline = time.monotonic() + 10.0
            while not (found := node.get_publishers_info_by_topic("/tf")):
                assert time.monotonic() < deadline, "own publisher not found"
                time.sleep(0.05)
            if not hasattr(found[0], "topic_type_hash"):
                pytest.skip("rclpy without type hashes (Humble)")
            assert str(found[0].topic_type_hash) == TFMESSAGE_HASH
            node.destroy_publisher(publisher)
            node.destroy_node()
        finally:
            context.shutdown()


class TestFiles:
    def test_executables_start_what_the_console_scripts_start(self, repository):
        scripts = project_table(repository)["project"]["scripts"]
        for file in (repository / "scripts").iterdir():
            if file.suffix:  # not installed
                continue
            assert file.stat().st_mode & 0o111, f"{file.name} is not executable"
            text = file.read_text()
            assert text.startswith("#!/usr/bin/env python3\n")
            is_node = file.name != "vggt-ros"
            module = f"vggt_ros.nodes.{file.name}" if is_node else "vggt_ros.cli.main"
            assert f"from {module} import main" in text
            command = f"vggt_ros_{file.name}" if is_node else file.name
            assert scripts[command] == f"{module}:main"

    def test_launch_files_name_what_exists(self, repository):
        # test/nodes/test_launch_files.py runs them; this needs no ROS at all.
        for file in sorted((repository / "launch").glob("*.launch.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
            functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
            assert "generate_launch_description" in functions, file.name
            for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
                given = {
                    k.arg: k.value.value
                    for k in call.keywords
                    if isinstance(k.value, ast.Constant)
                }
                if given.get("package") == "vggt_ros":
                    assert (repository / "scripts" / given["executable"]).is_file(), file.name
            for call in calls(tree, "PathJoinSubstitution"):
                parts = call.args[0].elts
                of_package = ast.unparse(parts[0]) in ("share", "FindPackageShare('vggt_ros')")
                if of_package and all(isinstance(part, ast.Constant) for part in parts[1:]):
                    path = Path(*(part.value for part in parts[1:]))
                    assert (repository / path).is_file(), f"{file.name}: {path}"

    def test_no_module_is_called_like_the_generated_ones(self, repository):
        result = subprocess.run(
            ["git", "ls-files", "vggt_ros/msg", "vggt_ros/srv", "vggt_ros/action"],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.stdout == ""


class TestImport:
    def test_needs_numpy_alone(self):
        heavy = ["cv2", "numba", "open3d", "pycolmap", "rclpy", "rosbags", "torch", "tqdm", "yaml"]
        code = f"import sys, vggt_ros; print([m for m in {heavy} if m in sys.modules])"
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == "[]"

    def test_is_quick(self):
        # The best of five: other processes share the machine.
        code = (
            "import time; t = time.perf_counter(); import vggt_ros; print(time.perf_counter() - t)"
        )
        seconds = []
        for _ in range(5):
            result = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            seconds.append(float(result.stdout))
        assert min(seconds) < 0.2, seconds
