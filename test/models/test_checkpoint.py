"""Checkpoints: what is read is what was written, and what does not fit is named."""

import dataclasses
import json

import numpy as np
import pytest

from vggt_ros.errors import EngineError
from vggt_ros.models.safetensors_file import open_safetensors, write_safetensors
from vggt_ros.models.vggt_config import VggtConfig

TINY = VggtConfig.tiny()
EXTRAS = {"track_head.tracker.a": (2, 3), "aggregator.patch_embed.mask_token": (1, 64)}


@pytest.fixture(scope="module")
def network(torch, randomise):
    from vggt_ros.models.vggt import Vggt

    return randomise(Vggt(TINY))


@pytest.fixture(scope="module")
def weights(torch, network):
    """Those of a published file: the network's, those of the track head, a mask token."""
    return {**network.state_dict(), **{k: torch.ones(v) for k, v in EXTRAS.items()}}


def write(torch, path, weights):
    """As published: a dictionary of tensors for torch, the reference layout for safetensors."""
    if path.suffix == ".pt":
        torch.save(weights, path)
    else:
        names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        write_safetensors(
            path,
            {
                name: (names[v.dtype], tuple(v.shape), v.contiguous().view(torch.uint8).numpy())
                for name, v in weights.items()
            },
        )
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "vggt-1b.pt"])
def test_published_files_load(torch, tmp_path, network, weights, name):
    from vggt_ros.models.checkpoint import load_vggt

    write(torch, tmp_path / name, weights)
    for path in (tmp_path, tmp_path / name, str(tmp_path)):
        loaded, report = load_vggt(path, TINY)
        assert report.fits
        assert report.known_extras == tuple(EXTRAS)
        assert report.unexpected == ()
        assert report.tensors == len(weights)
        assert report.parameters == sum(p.numel() for p in network.parameters())
        state = loaded.state_dict()
        assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())
        assert not any(p.requires_grad for p in loaded.parameters())
    x = torch.rand(1, 2, 3, 28, 42)
    for key, value in network.predict(x).items():
        assert torch.equal(loaded.predict(x)[key], value)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_training_checkpoints_load(torch, tmp_path, network, wrapper):
    from vggt_ros.models.checkpoint import load_vggt

    torch.save({wrapper: network.state_dict(), "epoch": 3}, tmp_path / "model.pt")
    assert load_vggt(tmp_path, TINY)[1].fits


def test_legacy_torch_files_load(torch, tmp_path, network):
    from vggt_ros.models.checkpoint import load_vggt

    path = tmp_path / "model.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    assert load_vggt(path, TINY)[1].fits


def test_saved_networks_bring_their_configuration(torch, tmp_path, network):
    from vggt_ros.models.checkpoint import check_checkpoint, load_vggt, save_vggt

    save_vggt(network, tmp_path / "model.safetensors")
    loaded, report = load_vggt(tmp_path)
    assert loaded.config == TINY
    assert report.fits
    assert check_checkpoint(tmp_path) == report
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_reference_library_reads_and_writes_the_same(torch, tmp_path, network, weights):
    library = pytest.importorskip(
        "safetensors.torch", reason="safetensors is not installed (pip install safetensors)"
    )
    from vggt_ros.models.checkpoint import load_vggt, save_vggt

    save_vggt(network, tmp_path / "ours.safetensors")
    read = library.load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(read[k], v) for k, v in network.state_dict().items())
    library.save_file(weights, tmp_path / "theirs.safetensors")
    loaded, _ = load_vggt(tmp_path / "theirs.safetensors", TINY)
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in network.state_dict().items())


def test_report_is_json(torch, tmp_path, weights):
    from vggt_ros.models.checkpoint import check_checkpoint

    report = check_checkpoint(write(torch, tmp_path / "model.pt", weights), TINY)
    read = json.loads(json.dumps(report.as_json()))
    assert read["fits"] is True
    assert read["known_extras"] == list(EXTRAS)
    assert read["dtypes"] == {"float32": len(weights) - len(EXTRAS)}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_missing_wrong_and_unknown_tensors_are_named(torch, tmp_path, weights, name):
    from vggt_ros.models.checkpoint import check_checkpoint, load_vggt

    changed = dict(weights)
    del changed["camera_head.token_norm.bias"]
    changed["depth_head.norm.weight"] = torch.ones(77)
    changed["other_head.weight"] = torch.ones(1)
    path = write(torch, tmp_path / name, changed)
    report = check_checkpoint(path, TINY)
    assert not report.fits
    assert report.missing == ("camera_head.token_norm.bias",)
    assert report.wrong_shapes == (("depth_head.norm.weight", (128,), (77,)),)
    assert report.unexpected == ("other_head.weight",)
    with pytest.raises(EngineError) as error:
        load_vggt(path, TINY)
    message = str(error.value)
    assert "1 tensors missing (camera_head.token_norm.bias)" in message
    assert "depth_head.norm.weight: expected [128], got [77]" in message
    assert "other_head.weight" in message
    assert "\n" not in message


def test_unknown_tensors_alone_are_told_of(torch, tmp_path, weights, caplog):
    from vggt_ros.models.checkpoint import load_vggt

    path = write(torch, tmp_path / "model.pt", {**weights, "other_head.weight": torch.ones(1)})
    _, report = load_vggt(path, TINY)
    assert report.unexpected == ("other_head.weight",)
    assert "other_head.weight" in caplog.text


def test_heads_left_out_are_known_extras(torch, tmp_path, weights):
    from vggt_ros.models.checkpoint import load_vggt

    path = write(torch, tmp_path / "model.safetensors", weights)
    loaded, report = load_vggt(path, TINY.only("camera", "depth"))
    assert loaded.point_head is None
    assert report.unexpected == ()
    assert any(name.startswith("point_head.") for name in report.known_extras)


def test_another_size_is_refused(torch, tmp_path, weights):
    from vggt_ros.models.checkpoint import load_vggt

    path = write(torch, tmp_path / "model.pt", weights)
    with pytest.raises(EngineError, match=r"expected \[1, 2, 1, 1024\], got \[1, 2, 1, 64\]"):
        load_vggt(path)
    deeper = dataclasses.replace(TINY, backbone_depth=3)
    with pytest.raises(EngineError, match=r"14 tensors missing .* and 9 more"):
        load_vggt(path, deeper)


def test_numbers_that_are_not_finite_are_refused(torch, tmp_path, weights):
    from vggt_ros.models.checkpoint import load_vggt

    broken = {k: v.clone() for k, v in weights.items()}
    broken["camera_head.embed_pose.weight"][3, 3] = float("nan")
    path = write(torch, tmp_path / "model.safetensors", broken)
    with pytest.raises(EngineError, match=r"1 with NaN or infinity \(camera_head.embed_pose"):
        load_vggt(path, TINY)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_and_networks(torch, tmp_path, weights, dtype):
    from vggt_ros.models.checkpoint import load_vggt

    half = {k: v.to(getattr(torch, dtype)) for k, v in weights.items()}
    path = write(torch, tmp_path / "model.safetensors", half)
    loaded, report = load_vggt(path, TINY)
    assert set(report.dtypes) == {"F16" if dtype == "float16" else "BF16"}
    assert loaded.aggregator.camera_token.dtype == torch.float32
    same, _ = load_vggt(path, TINY, dtype=getattr(torch, dtype))
    state = same.state_dict()
    assert all(torch.equal(v, half[k]) for k, v in state.items())


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("keep", [0.999, 0.5, 0.001])
def test_truncated_files_are_refused(torch, tmp_path, weights, name, keep):
    from vggt_ros.models.checkpoint import load_vggt

    path = write(torch, tmp_path / name, weights)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(EngineError, match=f"{name}: .*download it again") as error:
        load_vggt(path, TINY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>401 Unauthorized</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
        b"\x04\x00\x00\x00\x00\x00\x00\x00{{{{",
        b"\x02\x00\x00\x00\x00\x00\x00\x00[]",
    ],
)
def test_other_files_are_refused(torch, tmp_path, name, content):
    from vggt_ros.models.checkpoint import load_vggt

    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EngineError, match=name):
        load_vggt(path, TINY)


def test_a_pickle_that_would_run_code_is_refused(torch, tmp_path):
    import os
    import pickle

    from vggt_ros.models.checkpoint import load_vggt

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "model.pt").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(EngineError, match="cannot be read"):
        load_vggt(tmp_path, TINY)
    torch.save({"a": Evil()}, tmp_path / "model.pt")
    with pytest.raises(EngineError, match="cannot be read"):
        load_vggt(tmp_path, TINY)
    assert not (tmp_path / "ran").exists()


def test_no_file(torch, tmp_path):
    from vggt_ros.models.checkpoint import load_vggt

    with pytest.raises(EngineError, match=r"expected one of model\.safetensors, model\.pt"):
        load_vggt(tmp_path)
    with pytest.raises(EngineError, match="no such checkpoint"):
        load_vggt(tmp_path / "model.pt")


def test_checkpoint_without_names(torch, tmp_path):
    from vggt_ros.models.checkpoint import load_vggt

    torch.save(torch.ones(3), tmp_path / "model.pt")
    with pytest.raises(EngineError, match="expected tensors by name, got Tensor"):
        load_vggt(tmp_path)


def test_broken_configuration_in_the_metadata(torch, tmp_path):
    from vggt_ros.models.checkpoint import load_vggt

    path = tmp_path / "model.safetensors"
    for text in ('{"dim": 100}', "[", "3", '{"x": 1}'):
        write_safetensors(path, {}, {"vggt_config": text})
        with pytest.raises(EngineError, match="broken configuration"):
            load_vggt(path)


def header(content, data=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header({"a": F32}, bytes(7)), "truncated"),
        (header({"a": F32}, bytes(9)), "too long"),
        (header({"a": F32, "b": F32}, bytes(8)), "damaged"),
        (header({"a": {**F32, "data_offsets": [8, 16]}}, bytes(16)), "starts at byte"),
        (header({"a": {**F32, "shape": [3]}}, bytes(8)), "F32 of shape"),
        (header({"a": {**F32, "shape": [-1, -2]}}, bytes(8)), "F32 of shape"),
        (header({"a": {**F32, "dtype": "F7"}}, bytes(8)), "unknown type 'F7'"),
        (header({"a": {"dtype": "F32"}}, bytes(8)), "broken safetensors header"),
        (header({"a": 3}, bytes(8)), "broken safetensors header"),
        (header(b"\xff\xfe{}"), "broken safetensors header"),
        (header(b"[1]"), "expected an object"),
        (bytes([255] * 8), "expected a safetensors file"),
    ],
)
def test_damaged_safetensors_files(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=message):
        open_safetensors(path)


def test_safetensors_round_trip_without_torch(tmp_path):
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    path = tmp_path / "a.safetensors"
    write_safetensors(
        path, {"a": ("F32", (2, 3), values.data), "b": ("I8", (0,), b"")}, {"k": "v"}
    )
    file = open_safetensors(path)
    assert file.metadata == {"k": "v"}
    np.testing.assert_array_equal(file.read("a").view("<f4").reshape(2, 3), values)
    assert file.read("b").size == 0
    assert file.tensors["a"].start % 8 == 0


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": ("I8", (1,), b"x")})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="tensor 'a'"):
        write_safetensors(path, {"a": ("I8", (2,), b"x")})
    with pytest.raises(TypeError):
        write_safetensors(path, {"a": ("I8", (1,), "x")})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
