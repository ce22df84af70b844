"""`vggt-ros convert`."""

import json

import numpy as np
import pytest

from vggt_ros.cli.main import main

CAM = """extrinsic
0 -1 0 1
1 0 0 2
0 0 1 3
0 0 0 1

intrinsic
500 0 320
0 500 240
0 0 1

0.5 0.01
"""


def test_pku_cameras(tmp_path, capsys):
    (tmp_path / "00000003_cam.txt").write_text(CAM)
    assert main(["convert", "pku-cams", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "intrinsics.json"),
        str(tmp_path / "poses.json"),
    ]
    (entry,) = json.loads((tmp_path / "poses.json").read_text())["poses"]
    assert (entry["camera"], entry["frame"]) == ("00000003", 0)
    camera_from_world = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(entry["matrix"], np.linalg.inv(camera_from_world), atol=1e-12)
    k = json.loads((tmp_path / "intrinsics.json").read_text())["intrinsics"]["00000003"]
    assert k == [[500, 0, 320], [0, 500, 240], [0, 0, 1]]


@pytest.mark.parametrize("out", ["", "missing"])
def test_nothing_to_convert(tmp_path, capsys, out):
    if out:
        (tmp_path / "0_cam.txt").write_text(CAM)
    assert main(["convert", "pku-cams", str(tmp_path), "--out", str(tmp_path / out)]) == 1
    assert ("missing" if out else "no *_cam.txt") in capsys.readouterr().err
