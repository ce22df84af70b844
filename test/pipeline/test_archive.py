"""Archives of a map: what is saved goes on as it would have; what is wrong changes nothing."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from vggt_ros.config import Config, DepthAnythingConfig, MapConfig, ScaleConfig
from vggt_ros.errors import ConfigError, ExportError, SourceError
from vggt_ros.export import archive_file
from vggt_ros.pipeline.archive import load_archive, read_cloud, save_archive
from vggt_ros.pipeline.mapping import MappingPipeline, PipelineState
from vggt_ros.pipeline.warm_up import (
    PlaneBootstrapper,
    PlaneDisparity,
    plane_frame_set,
    warm_up_config,
)
from vggt_ros.types import ScaleSource

CONFIG = dataclasses.replace(
    warm_up_config(Config()), scale=ScaleConfig(source="parameter", metres_per_unit=0.5)
)


def stamped(stamp_ns):
    frame_set = plane_frame_set()
    frames = tuple(dataclasses.replace(f, stamp_ns=stamp_ns) for f in frame_set.frames)
    return dataclasses.replace(frame_set, stamp_ns=stamp_ns, frames=frames)


FITS = {
    "left": [0.5, 0.01],
    "right": [0.4, -0.02],
    "_meta": {"left": {"kind": "disparity", "covariance": [[0.01, 0.002], [0.002, 0.03]]}},
}


def make(config=CONFIG, network=False):
    return MappingPipeline(
        config,
        bootstrapper=PlaneBootstrapper(dense=network),
        depth_estimator=PlaneDisparity() if network else None,
    )


@pytest.fixture(scope="module")
def mapped():
    pipeline = make()
    for k in range(3):
        pipeline.step(stamped(k * 10**8))
    return pipeline


@pytest.fixture
def saved(mapped, tmp_path):
    path = tmp_path / "map.vggtmap"
    size = save_archive(path, mapped, stamp_ns=7)
    assert path.stat().st_size == size
    return path


@pytest.mark.parametrize("network", [False, True])
def test_a_loaded_map_goes_on_as_the_saved_one_would_have(tmp_path, network):
    first, second = make(network=network), make(network=network)
    for k in range(3):
        first.step(stamped(k * 10**8))
    if network:
        first.aligner.load_state(FITS)
    path = tmp_path / "map.vggtmap"
    save_archive(path, first, stamp_ns=5)
    second.step(stamped(0))  # a running map, which is replaced
    loaded = load_archive(path, CONFIG)
    assert loaded.stamp_ns == 5
    second.take_over(loaded)
    assert second.state is PipelineState.MAPPING
    assert second.aligner.state() == first.aligner.state()
    assert second.aligner.known == (2 if network else 0)
    for k in range(3, 6):
        one, other = first.step(stamped(k * 10**8)), second.step(stamped(k * 10**8))
        assert not other.bootstrapped
        assert one.fused == other.fused
    ours, theirs = first.cloud(), second.cloud()
    np.testing.assert_array_equal(ours.points, theirs.points)
    np.testing.assert_array_equal(ours.confidence, theirs.confidence)
    assert ours.is_metric
    assert theirs.is_metric


def test_the_scene_comes_back_as_it_was(mapped, saved):
    scene, found = mapped.scene, load_archive(saved, CONFIG).scene
    for name in ("cameras", "scale", "residuals", "up_source", "failed", "bootstrapper"):
        assert getattr(found, name) == getattr(scene, name)
    assert found.scale.source is ScaleSource.PARAMETER
    np.testing.assert_array_equal(found.points_in_map, scene.points_in_map)
    np.testing.assert_array_equal(found.colours, scene.colours)
    assert (found.map_from_rig is None) == (scene.map_from_rig is None)
    assert found.map_from_scene.scale == scene.map_from_scene.scale
    for name, pose in scene.map_from_camera.items():
        np.testing.assert_allclose(found.map_from_camera[name].matrix, pose.matrix, atol=1e-14)
    assert found.features.keys() == scene.features.keys()


def test_anybody_can_look_inside(mapped, saved):
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        names = set(archive.namelist())
        config = archive.read("config.yaml").decode()
    assert (manifest["format"], manifest["version"]) == ("vggt_ros map", 1)
    assert names == set(manifest["members"]) | {"manifest.json"}
    assert manifest["unit"] == "m"
    assert manifest["points"] == mapped.map.size
    assert manifest["stamp_ns"] == 7
    assert sum(manifest["landmarks"].values()) > 50
    assert "voxel_m: 0.02" in config
    cloud, scene = read_cloud(saved)
    np.testing.assert_array_equal(cloud.points, mapped.cloud().points)
    assert list(scene.cameras) == ["left", "right"]


def test_saving_twice_gives_the_same_bytes(mapped, saved, tmp_path):
    again = tmp_path / "again"
    save_archive(again, mapped, stamp_ns=7)
    assert again.read_bytes() == saved.read_bytes()


def test_landmarks_lie_on_the_plane_and_are_kept_when_saved_again(mapped, saved, tmp_path):
    loaded = load_archive(saved, CONFIG)
    height = mapped.scene.map_from_camera["left"].apply([[0.0, 0.0, 1.0]])  # 2 units of 0.5 m
    normal = mapped.scene.map_from_camera["left"].rotation[:, 2]
    for entry in loaded.landmarks:
        distance = (entry.points_in_map - height) @ normal
        assert np.abs(distance).max() < 0.02
    other = make()
    other.take_over(loaded)
    save_archive(tmp_path / "again", other)
    again = load_archive(tmp_path / "again", CONFIG)
    assert [len(entry) for entry in again.landmarks] == [len(e) for e in loaded.landmarks]


def changed(path, out, name, change):
    """The archive with one member changed; the manifest and all else stay."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info, change(content) if info.filename == name else content)
    return out


def resealed(path, out, changes):
    """The archive with members replaced and a manifest that agrees with them."""
    members = archive_file.read_members(path)
    about = {k: v for k, v in members.about.items() if k not in ("members",)}
    about.update(changes.pop("about", {}))
    archive_file.write_members(out, about, {**members.content, **changes})
    return out


def test_damage_is_found_and_said(saved, tmp_path):
    whole = saved.read_bytes()
    out = tmp_path / "other"
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:cut])
        with pytest.raises(SourceError, match="cut off, damaged or something else"):
            load_archive(out, CONFIG)
    changed(saved, out, "scene.json", lambda c: c.replace(b"left", b"lefu", 1))
    with pytest.raises(SourceError, match=r"member scene\.json has not the sha256"):
        load_archive(out, CONFIG)
    changed(saved, out, "map.npz", lambda c: c[:-1])
    with pytest.raises(SourceError, match=r"member map\.npz has not the size"):
        load_archive(out, CONFIG)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", b" " * (1 << 25))
    with pytest.raises(SourceError, match=r"manifest\.json is compressed or of"):
        load_archive(out, CONFIG)
    with pytest.raises(SourceError, match="no such file"):
        load_archive(tmp_path / "nothing", CONFIG)
    with pytest.raises(SourceError, match="damaged"):
        load_archive(tmp_path, CONFIG)


def test_every_flipped_byte_is_found_or_harmless(saved, tmp_path):
    """Bytes of the zip's own tables may not matter (dates); those of members always do."""
    whole = bytearray(saved.read_bytes())
    intact = archive_file.read_members(saved)
    out = tmp_path / "flipped"
    for at in np.linspace(0, len(whole) - 1, 150).astype(int):
        flipped = whole.copy()
        flipped[at] ^= 0xFF
        out.write_bytes(flipped)
        try:
            found = archive_file.read_members(out)
        except SourceError:
            continue
        assert found.content == intact.content


def test_other_versions_maps_and_voxels_are_refused(saved, tmp_path, monkeypatch):
    out = tmp_path / "other"
    monkeypatch.setattr(archive_file, "VERSION", 7)
    members = zipfile.ZipFile(saved)
    content = {n: members.read(n) for n in members.namelist() if n != "manifest.json"}
    archive_file.write_members(out, {"map": {"kind": "surfel"}}, content)
    monkeypatch.undo()
    with pytest.raises(SourceError, match="expected version 1, got 7"):
        load_archive(out, CONFIG)
    tsdf = dataclasses.replace(CONFIG, map=MapConfig(kind="tsdf"))
    with pytest.raises(
        ConfigError, match=r"map\.kind: .* 'surfel', the configuration says 'tsdf'"
    ):
        load_archive(saved, tsdf)
    voxels = dataclasses.replace(CONFIG, map=MapConfig(voxel_m=0.05))
    with pytest.raises(ConfigError, match=r"map\.voxel_m: .* 0\.02, the configuration says 0\.05"):
        load_archive(saved, voxels)
    small = dataclasses.replace(CONFIG, map=MapConfig(budget_mb=1.0))
    if json.loads(members.read("manifest.json"))["points"] > 17_000:
        with pytest.raises(ConfigError, match=r"map\.budget_mb"):
            load_archive(saved, small)
    strangers = dataclasses.replace(CONFIG, cameras=["front", "back"])
    with pytest.raises(ConfigError, match=r"cameras: .* knows left, right"):
        load_archive(saved, strangers)
    resealed(saved, out, {"alignment.json": b'{"left": [-1, 0]}'})
    with pytest.raises(SourceError, match=r"alignment\.json: .*scale > 0"):
        load_archive(out, CONFIG)
    resealed(saved, out, {"scene.json": b'{"cameras": {}}'})
    with pytest.raises(SourceError, match="expected a scene"):
        load_archive(out, CONFIG)
    resealed(saved, out, {"landmarks.npz": b"PK"})
    with pytest.raises(SourceError, match="expected landmarks"):
        load_archive(out, CONFIG)


def test_an_unscaled_map_is_refused_where_it_must_be_metric(tmp_path):
    pipeline = make(dataclasses.replace(CONFIG, scale=ScaleConfig(source="none")))
    pipeline.step(stamped(0))
    path = tmp_path / "map"
    save_archive(path, pipeline)
    with pytest.raises(ConfigError, match="require_metric"):
        load_archive(path, dataclasses.replace(CONFIG, scale=ScaleConfig(require_metric=True)))
    assert not read_cloud(path)[0].is_metric


def test_what_fails_when_taking_over_leaves_the_running_map(mapped, saved):
    pipeline = make()
    pipeline.step(stamped(0))
    before = pipeline.map, pipeline.scene, pipeline.map.size
    real = pipeline.depth_estimator.prepare
    loaded = load_archive(saved, CONFIG)

    def fail(scene):
        if scene is loaded.scene:
            raise ConfigError("no")
        real(scene)

    pipeline.depth_estimator.prepare = fail
    with pytest.raises(ConfigError):
        pipeline.take_over(loaded)
    assert (pipeline.map, pipeline.scene, pipeline.map.size) == before
    assert not pipeline.step(stamped(10**8)).bootstrapped


def test_no_map_yet(tmp_path):
    with pytest.raises(ExportError, match="no map yet"):
        save_archive(tmp_path / "map", make())
    assert not list(tmp_path.iterdir())


def test_other_members_are_kept(mapped, saved, tmp_path):
    resealed(saved, tmp_path / "more", {"extra/motion.json": b"[1]"})
    pipeline = make()
    pipeline.take_over(load_archive(tmp_path / "more", CONFIG))
    save_archive(tmp_path / "again", pipeline)
    assert load_archive(tmp_path / "again", CONFIG).extra == {"motion.json": b"[1]"}
    pipeline.reset()
    assert pipeline.extra == {}


def test_passports_of_the_engines_go_along(mapped, tmp_path):
    engine = tmp_path / "depth.onnx"
    (tmp_path / "depth.onnx.json").write_text("{}")
    config = dataclasses.replace(
        CONFIG, depth="depth_anything", depth_anything=DepthAnythingConfig(engine=str(engine))
    )
    mapped.config, before = config, mapped.config
    try:
        save_archive(tmp_path / "map", mapped)
    finally:
        mapped.config = before
    content = archive_file.read_members(tmp_path / "map").content
    assert content["passports/depth.json"] == b"{}"


WRITER = """
import sys, time
from vggt_ros.errors import VggtRosError
from vggt_ros.export import archive_file, files
path, megabytes, limit, slow = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if slow:
    archive_file._PART = 1 << 16
    real = memoryview
    class Slow(list):
        pass
    import zipfile
    write = zipfile._ZipWriteFile.write
    def slowly(self, data):
        print("wrote", flush=True)
        time.sleep(slow)
        return write(self, data)
    zipfile._ZipWriteFile.write = slowly
try:
    archive_file.write_members(path, {"map": {}}, {"map.npz": bytes(megabytes << 20)})
except VggtRosError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(3)
"""


def writer(path, megabytes=2, limit=0, slow=0.0):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(megabytes), str(limit), str(slow)],
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"},
    )


def test_a_full_disk_keeps_the_old_file(saved):
    before = saved.read_bytes()
    process = writer(saved, limit=1 << 20)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 3, out
    assert "ExportError: cannot write" in out
    assert "the previous file is untouched" in out
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_mapping_goes_on_after_a_full_disk(saved):
    before = saved.read_bytes()
    pipeline = make()
    pipeline.take_over(load_archive(saved, CONFIG))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ExportError, match="the previous file is untouched"):
            save_archive(saved, pipeline)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert pipeline.step(stamped(10**9)).fused.updated > 0
    save_archive(saved, pipeline)
    assert load_archive(saved, CONFIG).map.size == pipeline.map.size


def test_a_process_killed_while_it_writes_keeps_the_old_file(saved):
    before = saved.read_bytes()
    process = writer(saved, slow=0.05)
    for _ in range(8):  # well into the member
        assert process.stdout.readline() == "wrote\n"
    limit = time.monotonic() + 20.0
    while not any(p.name.startswith(".") for p in saved.parent.iterdir()):
        assert time.monotonic() < limit
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    assert saved.read_bytes() == before
    assert load_archive(saved, CONFIG).map.size > 0
    assert len(list(saved.parent.iterdir())) == 2  # the half of the new one, under another name
