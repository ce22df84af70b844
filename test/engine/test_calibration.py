import cv2
import numpy as np
import pytest

from vggt_ros.engine.calibration import open_calibration, synthetic_images
from vggt_ros.errors import EngineError

SHAPE = (3, 3, 28, 42)


@pytest.fixture
def folder(tmp_path):
    """Five images of one grey level each, at two depths of folders, and a file that is none."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for k in range(5):
        place = tmp_path if k % 2 else tmp_path / "deep" / "er"
        suffix = "png" if k % 2 else "TIFF"
        cv2.imwrite(str(place / f"view{k}.{suffix}"), np.full((40, 60, 3), 50 * k, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def levels(calibration):
    """Grey levels of all views in all batches; each must be uniform."""
    found = []
    for batch in calibration:
        assert batch.shape == calibration.shape
        assert batch.dtype == np.float32
        for view in batch:
            middle = view[:, 8:20, 10:30]
            assert np.ptp(middle) < 1e-6
            found.append(round(float(middle.mean()) * 255))
    return found


def test_folder_is_searched_through_all_levels(folder):
    calibration = open_calibration(folder, SHAPE, batches=1)
    assert calibration.samples == 5
    assert not calibration.resampled
    assert len(set(levels(calibration))) == 3
    assert calibration.source == str(folder)


def test_short_set_is_drawn_from_again_the_same_way_each_time(folder):
    calibration = open_calibration(folder, SHAPE, batches=4)
    assert calibration.resampled
    found = levels(calibration)
    assert len(found) == 12
    assert set(found) == {0, 50, 100, 150, 200}
    assert found == levels(calibration) == levels(open_calibration(folder, SHAPE, batches=4))
    assert found != levels(open_calibration(folder, SHAPE, batches=4, seed=1))


def test_glob(folder):
    assert open_calibration(folder / "*.png", SHAPE, 1).samples == 2
    assert open_calibration(folder / "**" / "*", SHAPE, 1).samples == 5


@pytest.mark.parametrize("shape", [(4, *SHAPE), (12, *SHAPE[1:])])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_tensors_of_both_shapes(tmp_path, shape, suffix, dtype):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    if dtype is np.uint8:
        values = (values * 255).astype(np.uint8)
    path = tmp_path / f"batches.{suffix}"
    np.save(path, values) if suffix == "npy" else np.savez(path, images=values)
    calibration = open_calibration(path, SHAPE, batches=4)
    assert calibration.samples == 12
    batches = np.concatenate(list(calibration))
    expected = values.reshape(-1, *SHAPE[1:]).astype(np.float32)
    expected /= 255.0 if dtype is np.uint8 else 1.0
    order = lambda a: a[np.lexsort(a.reshape(len(a), -1).T)]  # noqa: E731
    np.testing.assert_array_equal(order(batches), order(expected))


def test_nothing_is_refused_unless_synthetic_is_allowed(caplog):
    with pytest.raises(EngineError, match="--allow-synthetic-calib"):
        open_calibration(None, SHAPE)
    calibration = open_calibration(None, SHAPE, batches=2, allow_synthetic=True)
    assert calibration.source == "synthetic"
    assert "synthetic" in caplog.text
    batches = list(calibration)
    assert len(batches) == 2
    for batch in batches:
        assert batch.shape == SHAPE
        assert batch.min() >= 0.0
        assert batch.max() <= 1.0
        assert batch.std() > 0.1
    assert not np.array_equal(batches[0], batches[1])


def test_synthetic_images_are_smooth_like_photographs():
    image = synthetic_images((1, 3, 140, 210))[0]
    neighbour = np.corrcoef(image[:, :, 1:].ravel(), image[:, :, :-1].ravel())[0, 1]
    assert neighbour > 0.75  # white noise: 0
    np.testing.assert_array_equal(image, synthetic_images((1, 3, 140, 210))[0])


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file or folder"),
        ("missing.npy", "no such file"),
        ("*.jpg", "found none"),
        ("empty", "found none"),
        ("notes.txt", "got another file"),
        ("broken.npy", "not a readable array"),
    ],
)
def test_wrong_sources_never_fall_back(folder, name, message, allow):
    (folder / "empty").mkdir()
    (folder / "broken.npy").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=message):
        open_calibration(folder / name, SHAPE, allow_synthetic=allow)


@pytest.mark.parametrize(
    "shape", [(4, 2, 3, 28, 42), (12, 3, 28, 28), (12, 1, 28, 42), (28, 42), (0, 3, 28, 42)]
)
def test_other_shapes_are_named(tmp_path, shape):
    np.save(tmp_path / "t.npy", np.zeros(shape, np.float32))
    with pytest.raises(EngineError, match=r"expected shape \(B, 3, 3, 28, 42\) or .*got \("):
        open_calibration(tmp_path / "t.npy", SHAPE)


def test_normalised_tensors_are_refused(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 3, 28, 42)).astype(np.float32)
    np.save(tmp_path / "t.npy", values)
    with pytest.raises(EngineError, match=r"expected RGB in \[0, 1\]"):
        list(open_calibration(tmp_path / "t.npy", SHAPE, 1))


def test_undecodable_image_is_named(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(EngineError, match=r"cut\.jpg"):
        list(open_calibration(tmp_path, SHAPE, 1))


def test_several_arrays_in_one_file_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(EngineError, match="expected one array, got 2: a, b"):
        open_calibration(tmp_path / "t.npz", SHAPE)


def test_images_to_judge_with_are_others_where_there_are_others(folder):
    calibration = open_calibration(folder, (1, 3, 28, 42), batches=3)
    used = set(levels(calibration))
    assert round(float(calibration.test_batch()[0, :, 8:20, 10:30].mean()) * 255) not in used


def test_images_for_depth_anything_are_normalised(folder):
    plain = open_calibration(folder, SHAPE, 1)
    ours = open_calibration(folder, SHAPE, 1, normalisation="imagenet")
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    expected = (next(iter(plain)) - mean) / std
    np.testing.assert_allclose(next(iter(ours)), expected, atol=1e-6)
    assert ours.test_batch().min() < -1
    with pytest.raises(EngineError, match="expected zero_to_one or imagenet, got 'bgr'"):
        list(open_calibration(folder, SHAPE, 1, normalisation="bgr"))
