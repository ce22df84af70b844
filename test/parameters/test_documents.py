"""YAML and Markdown made from the configuration, and that the committed ones are current."""

import dataclasses

import pytest
import yaml

from vggt_ros.cli import generate
from vggt_ros.config import CameraConfig, Config, MapConfig
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.parameters import (
    config_from_flat,
    dump_config,
    flatten,
    load_config,
    parameters_markdown,
)
from vggt_ros.parameters.files import NODE_ONLY, NODE_ONLY_GROUPS


def values():
    """A configuration without a single default, with values that YAML likes to misread."""
    return Config(
        cameras=["front", "yes"],
        rig_file="a: b # c",
        frame=dataclasses.replace(Config().frame, map="on", odom="12"),
        map=dataclasses.replace(Config().map, voxel_m=1e-4, max_depth_m=1e22, carve=False),
        camera={"front": CameraConfig(image_topic="/a/b"), "yes": CameraConfig(frame_id="null")},
    )


@pytest.mark.parametrize("node", ["/**", "mapper"])
def test_read_back(tmp_path, node):
    for config in (Config(), values()):
        text = dump_config(config, node, header=["a header"])
        (tmp_path / "c.yaml").write_text(text)
        assert load_config(tmp_path / "c.yaml") == config
        assert text.startswith("# a header\n")
        assert dump_config(load_config(tmp_path / "c.yaml"), node, header=["a header"]) == text


def test_plain_yaml_readers_agree():
    """Numbers must be numbers to every reader, also those of YAML 1.1."""
    data = yaml.safe_load(dump_config(values()))["/**"]["ros__parameters"]
    assert data["map"]["voxel_m"] == 1e-4
    assert data["map"]["max_depth_m"] == 1e22
    assert data["cameras"] == ["front", "yes"]
    assert data["camera"]["yes"]["frame_id"] == "null"
    data = yaml.safe_load(dump_config(Config()))["/**"]["ros__parameters"]
    assert "cameras" not in data  # ROS refuses empty lists

    def dotted(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from dotted(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    assert set(dotted(data)) | {"cameras"} == set(flatten(Config()))


def test_comments_say_meaning_unit_and_bounds():
    text = dump_config(Config())
    doc = MapConfig.__dataclass_fields__["max_depth_m"].metadata["doc"]
    assert f"# {doc} [m; of at least 0.1; at run time]" in text
    assert "choices" not in text


def test_camera_names_with_slashes_survive(tmp_path):
    config = config_from_flat({"cameras": ["a/b"], "camera.a/b.frame_id": "x"})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


def test_markdown_names_every_parameter():
    text = parameters_markdown(Config())
    for name in flatten(Config()):
        assert f"| `{name}` |" in text
    assert "| `camera.<name>.transport` | str | `raw` | `raw`, `compressed` |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {7}


def test_committed_files_are_current(repository):
    assert generate.stale(repository) == []
    assert generate.main(["--check", "--root", str(repository)]) == 0


def test_default_file_is_the_default_to_tools_without_ros(repository):
    assert load_config(repository / "config" / "default.yaml") == Config()
    names = {field.name for field in dataclasses.fields(MapperConfig)}
    groups = {group.removesuffix(".") for group in NODE_ONLY_GROUPS}
    assert names - {field.name for field in dataclasses.fields(Config)} == groups | set(NODE_ONLY)


def test_generate_writes_and_checks(tmp_path, capsys):
    assert generate.main(["--root", str(tmp_path)]) == 1
    assert "no package.xml" in capsys.readouterr().err
    (tmp_path / "package.xml").touch()
    assert generate.main(["--root", str(tmp_path), "--check"]) == 1
    assert "config/default.yaml is not current" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "package.xml"]
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--root", str(tmp_path), "--check"]) == 0
