"""`open_source`: one call for every kind, with the flags of `reconstruct`."""

import json

import cv2
import numpy as np
import pytest

from vggt_ros.config import IngestConfig
from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.sources.open_source import SourceOptions, open_source

K = [[200.0, 0, 127.5], [0, 200.0, 31.5], [0, 0, 1]]


def folder(root, count=4):
    for camera in ("cam1", "cam2", "cam3"):
        (root / camera).mkdir(parents=True)
        for k in range(count):
            cv2.imwrite(str(root / camera / f"{k}.png"), np.full((64, 256, 3), 20 * k, np.uint8))
    return root


def calibration(root):
    poses = []
    for k in (1, 2, 3):
        for frame in (0, 2):
            matrix = np.eye(4)
            matrix[:2, 3] = k, frame
            poses.append({"camera": f"cam{k}", "frame": frame, "matrix": matrix.tolist()})
    (root / "k.json").write_text(json.dumps({f"cam{k}": K for k in (1, 2, 3)}))
    (root / "p.json").write_text(json.dumps({"poses": poses}))
    return {"intrinsics": root / "k.json", "poses": root / "p.json"}


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_calibrated_views_through_ingest(tmp_path, video, kind):
    if kind == "images":
        folder(tmp_path / "x")
    else:
        for camera in ("cam1", "cam2", "cam3"):
            video(tmp_path / "x" / f"{camera}.avi", range(4), 10.0)
    words = {kind: tmp_path / "x"} | calibration(tmp_path)
    source = open_source(kind, SourceOptions(views="cam3, cam1", frame_step=2, **words))
    assert source.rig.names == ("cam3", "cam1")
    assert source.rig.rig_frame == "world"
    assert source.rig.models["cam3"].size == (256, 64)
    assert source.rig.poses["cam3"].translation.tolist() == [3, 0, 0]
    assert source.set_count == 2
    assert source.rate_hz == pytest.approx(5.0)
    found = []
    with Ingest(source.rig.names, source.rig.models, IngestConfig()) as ingest:
        for images in source:
            for image in images:
                frame_set = ingest.add(image)
            found.append(frame_set)
    assert [f.cameras for f in found] == [("cam3", "cam1")] * 2
    # Frame 2 has poses of its own, frame 1 would have those of frame 0.
    assert [source.poses(f.stamp_ns)["cam1"].translation[1] for f in found] == [0, 2]
    source.close()


def test_the_first_cameras_and_random_ones(tmp_path):
    root = folder(tmp_path)
    for words, count in (({"num_cams": 2}, 2), ({"random_views": 2}, 2), ({}, 3)):
        source = open_source("images", SourceOptions(images=root, **words))
        assert len(source.rig.names) == count


def test_a_flat_folder_of_a_static_rig(tmp_path):
    root = folder(tmp_path) / "cam1"
    assert open_source("images", SourceOptions(images=root)).rig.names == ("cam0",)
    source = open_source("images", SourceOptions(images=root, camera_per_image=True))
    assert len(source.rig.names) == 4


def test_a_folder_that_grows(tmp_path):
    source = open_source(
        "images", SourceOptions(images=folder(tmp_path), images_live=True, idle_s=0.3)
    )
    assert source.is_live
    assert len(list(source)) == 4


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("image", {}, r"expected images, videos, webcams, got 'image' \(did you mean 'images'"),
        ("images", {}, "source images: expected a folder of images, got nothing"),
        ("videos", {"images": "x"}, "source videos: expected a folder of videos"),
        ("webcams", {}, "source webcams: expected devices, such as 0 1 2"),
        ("videos", {"videos": "x", "images_live": True}, "images_live: means nothing with source"),
        ("images", {"images": "x", "start_set": 3}, "start_set: means nothing with source images"),
        (
            "images",
            {"images": "x", "images_live": True, "camera_per_image": True},
            "camera_per_image: means nothing with images_live",
        ),
        ("images", {"images": "x", "views": "a", "random_views": 2}, "got both"),
    ],
)
def test_flags_that_make_no_sense(kind, words, expected):
    with pytest.raises(ConfigError, match=expected):
        open_source(kind, SourceOptions(**words))


def test_absent_webcam():
    options = SourceOptions(webcams=["front=63"], open_timeout_s=0.3)
    with pytest.raises(SourceError, match=r"'front' \(/dev/video63\); devices there: "):
        open_source("webcams", options)
