"""Folders of images: order, names, orientation, mistakes."""

import struct
import threading
import time

import cv2
import numpy as np
import pytest

from vggt_ros.errors import CalibrationError, ConfigError, SourceError
from vggt_ros.pipeline.decode import decode_rgb
from vggt_ros.rig import rig_from_dict
from vggt_ros.sources.cameras import Views, natural_key, ros_name
from vggt_ros.sources.image_files import exif_orientation, load_image
from vggt_ros.sources.images import ImageFolderSource
from vggt_ros.sources.live_images import LiveImageFolderSource
from vggt_ros.sources.source import START_NS

RED_TOP_LEFT = np.full((24, 32, 3), 255, np.uint8)
RED_TOP_LEFT[:8, :8] = 255, 0, 0


def save(path, pixels=RED_TOP_LEFT):
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, pixels[..., ::-1])
    assert done
    path.write_bytes(data.tobytes())
    return path


def exif(orientation, order):
    tiff = b"II*\0" if order == "<" else b"MM\0*"
    tiff += struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return tiff


def with_exif(path, orientation, order="<"):
    data, block = path.read_bytes(), exif(orientation, order)
    if path.suffix == ".jpg":
        segment = b"Exif\0\0" + block
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    else:
        import zlib

        crc = zlib.crc32(b"eXIf" + block)
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", crc)
        data = data[:33] + chunk + data[33:]  # after IHDR
    path.write_bytes(data)
    return path


def test_one_folder_per_camera_in_natural_order(tmp_path):
    for camera in ("right", "left"):
        for k in (1, 2, 10):
            save(tmp_path / camera / f"img_{k}.png", np.full((8, 8, 3), k, np.uint8))
    (tmp_path / "notes").mkdir()
    (tmp_path / "left" / "readme.txt").write_text("x")
    source = ImageFolderSource(tmp_path, fps=20)
    assert source.cameras == ("left", "right")
    sets = list(source)
    assert len(sets) == len(source) == 3
    assert [[decode_rgb(i)[0, 0, 0] for i in s] for s in sets] == [[1, 1], [2, 2], [10, 10]]
    assert [s[0].stamp_ns - START_NS for s in sets] == [0, 50_000_000, 100_000_000]
    assert sets[0][0].frame_id == "left_optical_frame"


def test_flat_folder_is_one_camera(tmp_path):
    for k in range(3):
        save(tmp_path / "0front" / f"{k}.jpg")
    source = ImageFolderSource(tmp_path / "0front")
    assert (source.cameras, len(source)) == (("cam0",), 3)


def test_camera_per_image(tmp_path):
    for k in range(12):
        save(tmp_path / f"{k:04d}.jpg")
    source = ImageFolderSource(tmp_path, camera_per_image=True)
    assert source.cameras == tuple(f"cam_{k:04d}" for k in range(12))
    assert [image.camera for image in next(iter(source))] == list(source.cameras)


def test_depth_images_are_no_cameras(tmp_path):
    for k in range(2):
        save(tmp_path / f"frame-{k:06d}.color.jpg")
        save(tmp_path / f"frame-{k:06d}.depth.png")
    source = ImageFolderSource(tmp_path, camera_per_image=True)
    assert source.cameras == ("frame_000000_color", "frame_000001_color")


def test_missing_images_leave_sets_incomplete(tmp_path, caplog):
    for camera, count in (("a", 3), ("b", 1)):
        for k in range(count):
            save(tmp_path / camera / f"{k}.jpg")
    assert [len(s) for s in ImageFolderSource(tmp_path)] == [2, 1, 1]
    assert "a: 3, b: 1" in caplog.text


@pytest.mark.parametrize("key", ["0001", "cam_0001", "x"])
def test_rig_matches_by_name_or_image(tmp_path, key):
    for k in range(3):
        save(tmp_path / f"{k:04d}.jpg")
    entry = {"size": [32, 24], "intrinsics": [30.0, 30.0, 15.5, 11.5], "frame_id": "f"}
    if key == "x":
        entry["image"] = "photos/0001.jpg"
    rig = rig_from_dict({"rig_frame": "base", "cameras": {key: entry}}, "r")
    source = ImageFolderSource(tmp_path, True, rig)
    name = "x" if key == "x" else "cam_0001"
    assert source.cameras == (name, "cam_0000", "cam_0002")
    assert list(source.rig.models) == [name]
    assert source.rig.rig_frame == "base"
    assert [c.frame_id for c in source.rig.cameras[:2]] == ["f", "cam_0000_optical_frame"]


def test_rig_camera_that_is_not_there(tmp_path):
    save(tmp_path / "front" / "0.jpg")
    rig = rig_from_dict({"cameras": {"fromt": {}}}, "r")
    with pytest.raises(SourceError, match=r"camera 'fromt' of the rig \(did you mean 'front'"):
        ImageFolderSource(tmp_path, rig=rig)
    rig = rig_from_dict({"cameras": {"a": {"image": "front"}, "b": {"image": "front"}}}, "r")
    with pytest.raises(SourceError, match="'a' and 'b' of the rig are both front"):
        ImageFolderSource(tmp_path, rig=rig)


def test_calibration_of_another_aspect(tmp_path):
    save(tmp_path / "front" / "0.jpg")
    entry = {"size": [24, 32], "intrinsics": [30.0, 30.0, 15.5, 11.5]}
    source = ImageFolderSource(tmp_path, rig=rig_from_dict({"cameras": {"front": entry}}, "r"))
    with pytest.raises(CalibrationError, match="'front': calibrated at 24x32"):
        list(source)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("orientation", "corner", "shape"),
    [
        (1, (0, 0), (24, 32)),
        (3, (-1, -1), (24, 32)),
        (6, (0, -1), (32, 24)),
        (8, (-1, 0), (32, 24)),
    ],
)
def test_exif_orientation_is_honoured(tmp_path, suffix, order, orientation, corner, shape):
    path = with_exif(save(tmp_path / f"a{suffix}"), orientation, order)
    assert exif_orientation(path.read_bytes()) == orientation
    ((image,),) = ImageFolderSource(tmp_path)
    assert (image.data == path.read_bytes()) == (orientation == 1)
    assert image.encoding == ("jpeg" if suffix == ".jpg" else "png")
    rgb = decode_rgb(image).astype(int)
    assert rgb.shape[:2] == shape
    y, x = (c if c == 0 else s - 1 for c, s in zip(corner, shape, strict=True))
    assert np.abs(rgb[y, x] - [255, 0, 0]).max() < 40
    assert np.abs(rgb[shape[0] - 1 - y, shape[1] - 1 - x] - 255).max() < 40


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".ppm"])
def test_other_formats_become_png(tmp_path, suffix):
    data, encoding, size = load_image(save(tmp_path / f"a{suffix}"))
    assert (encoding, size) == ("png", (32, 24))
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1], RED_TOP_LEFT
    )


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 broken"])
def test_unreadable_images_are_named(tmp_path, content):
    save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(content)
    with pytest.raises(SourceError, match=r"b\.jpg"):
        list(ImageFolderSource(tmp_path))


def test_cut_off_image_is_named(tmp_path):
    path = save(tmp_path / "b.jpg")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"b\.jpg.*cut off"):
        list(ImageFolderSource(tmp_path))


def test_wrong_folders(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        ImageFolderSource(tmp_path / "absent")
    with pytest.raises(SourceError, match="no images"):
        ImageFolderSource(tmp_path)
    save(tmp_path / "a" / "0.jpg")
    with pytest.raises(SourceError, match="flat folder"):
        ImageFolderSource(tmp_path, camera_per_image=True)
    with pytest.raises(ConfigError, match="fps"):
        ImageFolderSource(tmp_path, fps=0)
    save(tmp_path / "b.jpg")
    with pytest.raises(SourceError, match="one or the other"):
        ImageFolderSource(tmp_path)


def frames(root, names, count=3):
    for camera in names:
        for k in range(count):
            save(root / camera / f"{k:03d}.png", np.full((24, 32, 3), 10 * k + 5, np.uint8))


@pytest.mark.parametrize(
    "layout", ["{}", "images/{}", "{}/images", "per_view/{}/images", "per_view/{}"]
)
def test_layouts_of_data_sets(tmp_path, layout):
    frames(tmp_path, [layout.format(name) for name in ("cam10", "cam2")])
    frames(tmp_path, ["depth", "masks"])
    (tmp_path / "cams").mkdir()
    (tmp_path / "cams" / "00000000_cam.txt").write_text("extrinsic")
    source = ImageFolderSource(tmp_path)
    assert source.cameras == ("cam2", "cam10")
    assert [len(s) for s in source] == [2, 2, 2]


@pytest.mark.parametrize("layout", [".", "images"])
def test_flat_scene(tmp_path, layout):
    frames(tmp_path, [layout])
    (tmp_path / "cams").mkdir()
    assert ImageFolderSource(tmp_path).cameras == ("cam0",)
    assert len(ImageFolderSource(tmp_path, camera_per_image=True).cameras) == 3


def test_frame_step_and_views(tmp_path):
    frames(tmp_path, [f"cam{k:03d}" for k in range(1, 13)], 7)
    source = ImageFolderSource(tmp_path, fps=10, frame_step=3, views=Views(("cam005", "cam001")))
    assert source.cameras == ("cam005", "cam001")
    sets = list(source)
    assert source.set_count == len(sets) == 3
    assert [decode_rgb(s[0])[0, 0, 0] for s in sets] == [5, 35, 65]
    assert [s[0].stamp_ns - START_NS for s in sets] == [0, 300_000_000, 600_000_000]
    assert source.rate_hz == pytest.approx(10 / 3)
    assert source.sizes == {"cam005": (32, 24), "cam001": (32, 24)}
    assert source.report()["cam001"] == {"images": 7, "used": 3}
    drawn = ImageFolderSource(tmp_path, views=Views(random_count=8, limit=5)).cameras
    assert len(drawn) == 5
    assert list(drawn) == sorted(drawn)
    for views, expected in (
        (("cam1",), r"no camera for view 'cam1' \(did you mean 'cam01"),
        (("cam001", "cam001"), "asked for twice"),
    ):
        with pytest.raises(SourceError, match=expected):
            ImageFolderSource(tmp_path, views=Views(views))
    with pytest.raises(SourceError, match="at least the 20 cameras of random_views, got 12"):
        ImageFolderSource(tmp_path, views=Views(random_count=20))
    with pytest.raises(ConfigError, match="got both"):
        Views(("cam001",), 2)
    with pytest.raises(ConfigError, match="frame_step"):
        ImageFolderSource(tmp_path, frame_step=0)


def test_zero_byte_image(tmp_path):
    save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"b\.jpg: the file is empty"):
        list(ImageFolderSource(tmp_path))


def test_folder_that_grows(tmp_path):
    """Sets come once all cameras have them, also when an image is written piece by piece."""
    root, stop = tmp_path / "live", threading.Event()

    def write():
        for k in range(6):
            pixels = np.full((24, 32, 3), 10 * k + 5, np.uint8)
            save(root / "a" / f"{k}.png", pixels)
            time.sleep(0.05)
            whole = save(tmp_path / "whole.png", pixels).read_bytes()
            with (root / "b").joinpath(f"{k}.png").open("wb") as file:
                for part in (whole[:20], whole[20:]):
                    file.write(part)
                    file.flush()
                    time.sleep(0.05)

    (root / "b").mkdir(parents=True)
    save(root / "b" / "0.png", np.full((24, 32, 3), 5, np.uint8))
    save(root / "a" / "0.png", np.full((24, 32, 3), 5, np.uint8))
    writer = threading.Thread(target=write)
    writer.start()
    source = LiveImageFolderSource(root, fps=5, frame_step=2, idle_s=1.0, stop=stop)
    assert source.is_live
    sets = list(source)
    writer.join()
    assert [[int(decode_rgb(i)[0, 0, 0]) for i in s] for s in sets] == [[5, 5], [25, 25], [45, 45]]
    assert [s[0].stamp_ns - START_NS for s in sets] == [0, 400_000_000, 800_000_000]
    assert source.report() == {"a": {"used": 3}, "b": {"used": 3}}


def test_folder_that_does_not_grow(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        LiveImageFolderSource(tmp_path / "later", idle_s=0.2)
    save(tmp_path / "a.png")
    source = LiveImageFolderSource(tmp_path, idle_s=0.2)
    assert len(list(source)) == 1
    (tmp_path / "b.png").write_bytes(b"")
    time.sleep(0.6)
    with pytest.raises(SourceError, match=r"b\.png: the file is empty"):
        list(source)
    source.close()
    assert list(source) == []


def test_names_that_fall_together(tmp_path):
    save(tmp_path / "a-b.jpg")
    save(tmp_path / "a b.jpg")
    with pytest.raises(SourceError, match="would all be camera 'a_b'"):
        ImageFolderSource(tmp_path, camera_per_image=True)


def test_names():
    assert [ros_name(n) for n in ("0000", "Front left", "__", "a--b")] == [
        "cam_0000",
        "Front_left",
        "camera",
        "a_b",
    ]
    names = ["a10", "a2", "b1", "A1", "1"]
    assert sorted(names, key=natural_key) == ["1", "A1", "a2", "a10", "b1"]
