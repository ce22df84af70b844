"""Intrinsics and poses in every documented form, and what wrong files say."""

import json

import numpy as np
import pytest
import yaml

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.sources.calibration_files import load_calibration, load_intrinsics, load_poses
from vggt_ros.sources.pku_cams import convert_pku_cams, load_pku_cams

K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
SIZE = (640, 480)


def pose(k):
    return Rigid3.from_rotation_vector([0.1 * k, 0.2, -0.3], [k, 2.0, 3.0])


def write(path, content):
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_text(yaml.safe_dump(content))
    return path


def padded(k):
    return np.block([[k, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])


INTRINSICS = {
    "3x3.npz": {"a": K, "b": 2 * K - np.diag([0, 0, 1])},
    "4x4.npz": {"a": padded(K), "b": padded(2 * K - np.diag([0, 0, 1]))},
    "named.json": {"intrinsics": {"a": K.tolist(), "b": (2 * K - np.diag([0, 0, 1])).tolist()}},
    "bare.yaml": {"a": K.tolist(), "b": (2 * K - np.diag([0, 0, 1])).tolist()},
    "list.json": [
        {"camera": "a", "matrix": K.tolist()},
        {"id": "b", "matrix": (2 * K - np.diag([0, 0, 1])).tolist()},
    ],
    "list.yml": [
        {"id": "a", "matrix": K.tolist()},
        {"camera": "b", "matrix": padded(2 * K - np.diag([0, 0, 1])).tolist()},
    ],
}


@pytest.mark.parametrize("name", INTRINSICS)
def test_forms_of_intrinsics(tmp_path, name):
    found = load_intrinsics(write(tmp_path / name, INTRINSICS[name]))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"].matrix, K)
    np.testing.assert_array_equal(found["b"].matrix, 2 * K - np.diag([0, 0, 1]))


def entry(camera, frame, words=("camera", "frame")):
    return {words[0]: camera, words[1]: frame, "matrix": pose(frame).matrix.tolist()}


POSES = {
    "a.npz": {"a/0": pose(0).matrix, "a/7": pose(7).matrix, "rig/b/0": pose(0).matrix[:3]},
    "a.json": {"poses": [entry("a", 0), entry("a", 7), entry("rig/b", 0)]},
    "a.yaml": [entry("a", 0, ("cam", "t")), entry("a", 7, ("cam", "t")), entry("rig/b", 0)],
}


@pytest.mark.parametrize("name", POSES)
def test_forms_of_poses(tmp_path, name):
    found = load_poses(write(tmp_path / name, POSES[name]))
    assert {camera: list(frames) for camera, frames in found.items()} == {
        "a": [0, 7],
        "rig/b": [0],
    }
    np.testing.assert_allclose(found["a"][7].matrix, pose(7).matrix, atol=1e-12)


def test_rotation_alone(tmp_path):
    found = load_poses(write(tmp_path / "a.npz", {"a/0": pose(1).rotation}))
    np.testing.assert_allclose(found["a"][0].rotation, pose(1).rotation)
    assert not found["a"][0].translation.any()


def apply(calibration, size=SIZE, names=("a", "b")):
    rig = Rig(tuple(RigCamera(name) for name in names))
    return calibration.applied_to(rig, dict.fromkeys(names, ()), dict.fromkeys(names, size))


def test_rig_and_the_pose_of_a_frame(tmp_path):
    intrinsics = write(tmp_path / "k.json", {"a": K.tolist()})
    poses = write(tmp_path / "p.npz", {"a/0": pose(0).matrix, "a/7": pose(7).matrix})
    calibration = load_calibration(intrinsics, poses)
    rig = apply(calibration)
    assert rig.rig_frame == "world"
    np.testing.assert_array_equal(rig.models["a"].matrix, K)
    assert rig.models["a"].size == SIZE
    assert list(rig.models) == list(rig.poses) == ["a"]
    for frame, expected in ((0, 0), (7, 7), (3, 0)):
        found = calibration.poses_of(rig, {}, frame)
        assert list(found) == ["a"]
        np.testing.assert_allclose(found["a"].matrix, pose(expected).matrix, atol=1e-12)
    assert load_calibration() is None


@pytest.mark.parametrize(("size", "scale"), [((320, 240), 0.5), ((1280, 960), 2.0)])
@pytest.mark.parametrize("stated", [True, False])
def test_intrinsics_of_another_resolution_are_scaled_and_said(
    tmp_path, caplog, size, scale, stated
):
    content = {"matrix": K.tolist()} | ({"size": list(SIZE)} if stated else {})
    calibration = load_calibration(write(tmp_path / "k.json", [{"camera": "a"} | content]))
    model = apply(calibration, size, ("a",)).models["a"]
    assert model.size == size
    expected = [500 * scale, 510 * scale, 320 * scale - 0.5, 240 * scale - 0.5]
    np.testing.assert_allclose([model.fx, model.fy, model.cx, model.cy], expected, rtol=1e-12)
    assert f"intrinsics are of 640x480{'' if stated else ' by their principal'}" in caplog.text
    assert f"scaled to the images' {size[0]}x{size[1]}" in caplog.text


@pytest.mark.parametrize("shift", [(0.05, -0.05), (0.2, 0.0), (-0.1, 0.15)])
def test_principal_points_off_the_centre_stay(tmp_path, caplog, shift):
    k = K + np.array([[0, 0, 640 * shift[0]], [0, 0, 480 * shift[1]], [0, 0, 0]])
    model = apply(load_calibration(write(tmp_path / "k.npz", {"a": k}))).models["a"]
    np.testing.assert_array_equal(model.matrix, k)
    assert not any("scaled" in r.message for r in caplog.records)


def test_resolution_that_cannot_be_told(tmp_path):
    k = K + np.array([[0, 0, 400.0], [0, 0, 0], [0, 0, 0]])
    calibration = load_calibration(write(tmp_path / "k.npz", {"a": k}))
    with pytest.raises(
        CalibrationError, match=r"'a': the principal point \(719.5, .*state \"size"
    ):
        apply(calibration)


def test_other_aspect(tmp_path):
    content = [{"camera": "a", "matrix": K.tolist(), "size": [640, 480]}]
    with pytest.raises(
        CalibrationError, match="calibrated at 640x480, but the images are 640x360"
    ):
        apply(load_calibration(write(tmp_path / "k.json", content)), (640, 360))


def test_distortion(tmp_path):
    content = {
        "a": {
            "matrix": K.tolist(),
            "distortion": {"model": "equidistant", "coefficients": [0.1, 0, 0, 0]},
        },
        "b": {"matrix": K.tolist(), "distortion": [0.1, 0.2, 0.0, 0.0]},
    }
    models = apply(load_calibration(write(tmp_path / "k.yaml", content))).models
    assert models["a"].distortion_model == "equidistant"
    assert models["b"].distortion == (0.1, 0.2, 0.0, 0.0)


def test_cameras_by_key_and_by_number(tmp_path, caplog):
    rig = Rig((RigCamera("cam_0001"), RigCamera("cam_0002")))
    sizes = dict.fromkeys(rig.names, SIZE)
    exact = load_calibration(write(tmp_path / "a.npz", {"0001": K, "other": K}))
    keys = {"cam_0001": ("0001.jpg", "0001"), "cam_0002": ("0002",)}
    assert list(exact.applied_to(rig, keys, sizes).models) == ["cam_0001"]
    assert "none for cam_0002" in caplog.text
    number = load_calibration(
        write(tmp_path / "b.npz", {"00000002": K, "00000001": 1.1 * K / 1.1})
    )
    assert list(number.applied_to(rig, {}, sizes).models) == ["cam_0001", "cam_0002"]


def test_files_for_other_cameras(tmp_path):
    calibration = load_calibration(write(tmp_path / "k.npz", {"lefft": K}))
    with pytest.raises(
        CalibrationError,
        match=r"for other cameras; expected left, got lefft \(did you mean 'lefft'",
    ):
        apply(calibration, names=("left",))
    calibration = load_calibration(poses=write(tmp_path / "p.npz", {"x/0": np.eye(4)}))
    with pytest.raises(
        CalibrationError, match=r"poses .*: for other cameras; expected a, b, got x"
    ):
        apply(calibration)


def test_no_pose_of_frame_0(tmp_path):
    calibration = load_calibration(poses=write(tmp_path / "p.npz", {"a/3": np.eye(4)}))
    with pytest.raises(CalibrationError, match="'a' has neither frame 0 nor frame 0; it has 3"):
        apply(calibration)


BAD_K = [
    (np.eye(2), r"shape \(3, 3\), got \(2, 2\)"),
    (np.full((3, 3), np.nan), "NaN"),
    (np.diag([0.0, 1, 1]), "fx, fy > 0"),
    (np.diag([-5.0, 5, 1]), "fx, fy > 0"),
    (K.T, "expected K ="),
    (K + np.array([[0, 3.0, 0], [0, 0, 0], [0, 0, 0]]), "skew 3 px"),
    (pose(1).matrix, "looks like a pose"),
]


@pytest.mark.parametrize(("matrix", "expected"), BAD_K)
def test_wrong_k(tmp_path, matrix, expected):
    with pytest.raises(CalibrationError, match=rf"k\.npz: camera 'front': .*{expected}"):
        load_intrinsics(write(tmp_path / "k.npz", {"front": matrix}))


BAD_POSES = [
    (np.eye(2), r"shape \(4, 4\), got \(2, 2\)"),
    (np.full((4, 4), np.inf), "NaN or infinity"),
    (pose(1).matrix.T, "transposed"),
    (np.diag([2.0, 2, 2, 1]), r"differs from 1 by 3"),
    (np.diag([1.0, -1, 1, 1]), "reflection"),
]


@pytest.mark.parametrize(("matrix", "expected"), BAD_POSES)
def test_wrong_pose(tmp_path, matrix, expected):
    with pytest.raises(CalibrationError, match=rf"p\.npz: camera 'front', frame 2: .*{expected}"):
        load_poses(write(tmp_path / "p.npz", {"front/2": matrix}))


def test_wrong_files(tmp_path):
    cases = [
        ("a.json", "{", "is not JSON"),
        ("a.yaml", "a: [", "is not YAML"),
        ("a.npz", "PK nonsense", "is no valid file"),
        ("a.txt", "x", "expected a file .npz"),
        ("a.json", "{}", "no "),
        ("a.json", "3", "got int"),
        ("a.json", '[{"matrix": [[1]]}]', "entry 0: expected 'camera', got matrix"),
    ]
    for name, text, expected in cases:
        path = tmp_path / name
        path.write_text(text)
        for load in (load_intrinsics, load_poses):
            with pytest.raises(CalibrationError, match=expected):
                load(path)
    with pytest.raises(CalibrationError, match="cannot be read: No such file"):
        load_intrinsics(tmp_path / "absent.npz")


def test_files_that_were_swapped(tmp_path):
    with pytest.raises(CalibrationError, match="swap the files"):
        load_intrinsics(write(tmp_path / "p.npz", {"a/0": np.eye(4)}))
    with pytest.raises(CalibrationError, match="swap the files"):
        load_poses(write(tmp_path / "k.json", {"intrinsics": {"a": K.tolist()}}))
    with pytest.raises(CalibrationError, match="expected keys '<camera>/<frame>', got 'a'"):
        load_poses(write(tmp_path / "k.npz", {"a": K}))


def test_entries_that_are_there_twice(tmp_path):
    twice = [{"camera": "a", "matrix": K.tolist()}] * 2
    with pytest.raises(CalibrationError, match="'a' is there twice"):
        load_intrinsics(write(tmp_path / "k.json", twice))
    with pytest.raises(CalibrationError, match="'a', frame 0: is there twice"):
        load_poses(write(tmp_path / "p.json", [entry("a", 0)] * 2))
    bad = [{"camera": "a", "frame": "first", "matrix": np.eye(4).tolist()}]
    with pytest.raises(CalibrationError, match="frame number >= 0, got 'first'"):
        load_poses(write(tmp_path / "p.json", bad))


def cam_txt(camera_from_world, k=K):
    rows = ["extrinsic", *(" ".join(map(str, row)) for row in camera_from_world.matrix), ""]
    rows += ["intrinsic", *(" ".join(map(str, row)) for row in k), "", "0.5 0.01 192 2.5"]
    return "\n".join(rows) + "\n"


def test_pku_files_are_world_to_camera(tmp_path):
    (tmp_path / "cams").mkdir()
    for k in range(3):
        (tmp_path / "cams" / f"{k:08d}_cam.txt").write_text(cam_txt(pose(k).inverse()))
    found = load_pku_cams(tmp_path / "cams")
    assert list(found.intrinsics) == ["00000000", "00000001", "00000002"]
    np.testing.assert_allclose(
        found.world_from_camera["00000002"][0].matrix, pose(2).matrix, atol=1e-12
    )
    # A folder may be given instead of a file, and cameras match by their number.
    calibration = load_calibration(tmp_path / "cams", tmp_path / "cams")
    rig = apply(calibration, names=("cam_0", "cam_1", "cam_2"))
    np.testing.assert_allclose(rig.poses["cam_1"].matrix, pose(1).matrix, atol=1e-12)
    np.testing.assert_array_equal(rig.models["cam_2"].matrix, K)
    out = convert_pku_cams(tmp_path / "cams", tmp_path)
    again = load_calibration(*out)
    np.testing.assert_allclose(
        again.world_from_camera["00000002"][0].matrix, pose(2).matrix, atol=1e-12
    )
    np.testing.assert_array_equal(again.intrinsics["00000001"].matrix, K)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.replace("extrinsic", "x"), "expected a section 'extrinsic'"),
        (lambda t: t.replace("0.5 0.01", "").replace("500.0", "wide"), "section 'intrinsic'"),
        (lambda t: t[: t.index("intrinsic\n") + 20], "expected a section|3 rows of 3"),
    ],
)
def test_wrong_pku_files(tmp_path, change, expected):
    (tmp_path / "0_cam.txt").write_text(change(cam_txt(pose(1))))
    with pytest.raises(CalibrationError, match=expected):
        load_pku_cams(tmp_path)


def test_folder_without_camera_files(tmp_path):
    with pytest.raises(CalibrationError, match=r"no \*_cam.txt"):
        load_intrinsics(tmp_path)
