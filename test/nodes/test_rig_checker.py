"""When `~/check_rig` checks what, whose results are shown, and the names in its files."""

import threading
from types import SimpleNamespace

import pytest

from vggt_ros.config import CheckRigConfig, Config, ExportConfig, FrameConfig
from vggt_ros.geometry import Rigid3
from vggt_ros.nodes import rig_check
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.srv import CheckRig

CHECK = SimpleNamespace(
    bumped=(), message="all well", cameras=(), level=SimpleNamespace(name="OK")
)


def worker_of(*stamps):
    return SimpleNamespace(
        pipeline=SimpleNamespace(scene=SimpleNamespace(cameras={})),
        latest_sets=[SimpleNamespace(stamp_ns=s) for s in stamps],
        rig=Rig((), "rig"),
    )


@pytest.fixture
def make(monkeypatch):
    def checker(config=None, frames=None):
        node = SimpleNamespace(
            create_service=lambda *_, **__: None,
            get_name=lambda: "mapper",
            get_fully_qualified_name=lambda: "/mapper",
        )
        found = SimpleNamespace(worker=worker_of(1), now=100.0)
        monkeypatch.setattr(rig_check, "time", SimpleNamespace(monotonic=lambda: found.now))
        settings = config or Config(check_rig=CheckRigConfig(period_s=1.0))
        found.checker = rig_check.RigChecker(
            node, lambda: found.worker, lambda: settings, lambda: frames
        )
        return found

    return checker


def finished(checker):
    checker._running.exception(10.0)


def test_the_same_images_are_checked_once(make, monkeypatch):
    at = make()
    checks = []

    def check(sets, *_):
        checks.append(sets[-1].stamp_ns)
        return CHECK

    monkeypatch.setattr("vggt_ros.pipeline.check_rig_images.check_rig_of_sets", check)
    for newest in (1, 1, 1, 2, 2):
        at.worker.latest_sets[-1].stamp_ns = newest
        for _ in range(2):
            at.checker.poll()
            at.now += 1.0
        if at.checker._running is not None:
            finished(at.checker)
    assert checks == [1, 2]
    at.worker.latest_sets.clear()
    at.checker.poll()
    assert checks == [1, 2]


@pytest.mark.parametrize("changed", ["worker", "map"])
def test_a_result_of_what_was_before_is_not_shown(make, monkeypatch, changed):
    at = make()
    goes_on = threading.Event()

    def check(*_):
        assert goes_on.wait(10.0)
        return CHECK

    monkeypatch.setattr("vggt_ros.pipeline.check_rig_images.check_rig_of_sets", check)
    future = at.checker._begin(at.worker)
    if changed == "worker":
        at.worker = worker_of(1)
    else:
        at.checker.forget()
    answer = at.checker._answer(CheckRig.Request(), CheckRig.Response())
    assert "still running; try again" in answer.message
    goes_on.set()
    assert future.result(10.0)[0] is CHECK
    assert at.checker.diagnostic() is None
    at.checker._begin(at.worker).result(10.0)
    assert at.checker.diagnostic() is not None


def test_paths_are_looked_at_before_the_check(make, monkeypatch, tmp_path):
    at = make(Config(export=ExportConfig(folder=str(tmp_path))))
    monkeypatch.setattr(at.checker, "_begin", lambda _: pytest.fail("has begun"))
    for name in ("path", "urdf_path"):
        request = CheckRig.Request(**{name: "/elsewhere/rig.yaml"})
        answer = at.checker._answer(request, CheckRig.Response())
        assert not answer.success
        assert "/elsewhere/rig.yaml" in answer.message


def test_files_are_without_the_prefix_that_their_reader_adds(make, monkeypatch, tmp_path):
    frames = SimpleNamespace(
        top=lambda frame, *_: "r1/left_link",
        lookup=lambda target, source: Rigid3.identity(),
        parent=lambda frame: "r1/base",
    )
    at = make(Config(frame=FrameConfig(prefix="r1/")), frames)
    written = {}
    monkeypatch.setattr(
        "vggt_ros.pipeline.check_rig_files.write_rig_file",
        lambda path, rig, check: written.update(rig=rig),
    )
    monkeypatch.setattr(
        "vggt_ros.pipeline.check_rig_files.write_urdf",
        lambda path, rig, check, mounts: written.update(urdf=rig, mounts=mounts),
    )
    camera = RigCamera("left", frame_id="r1/left_optical", rig_from_camera=Rigid3.identity())
    request = CheckRig.Request(path="rig.yaml", urdf_path="rig.urdf")
    at.checker._write(request, Rig((camera,), "r1/base"), CHECK)
    for rig in (written["rig"], written["urdf"]):
        assert rig.rig_frame == "base"
        assert rig.cameras[0].frame_id == "left_optical"
    assert written["mounts"]["left"][0] == "left_link"
