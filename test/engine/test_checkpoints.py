import subprocess
import sys

import pytest

from vggt_ros.engine import checkpoints
from vggt_ros.engine.checkpoints import resolve_checkpoint, resolve_folder
from vggt_ros.errors import EngineError


def test_local_paths_are_taken_as_they_are(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert resolve_checkpoint(str(tmp_path)) == tmp_path
    file = tmp_path / "model.safetensors"
    assert resolve_checkpoint(str(file)) == file


@pytest.mark.parametrize("name", ["/no/where", "./nowhere", "nowhere", "a/b/c"])
def test_what_is_neither_path_nor_repository(name):
    with pytest.raises(EngineError, match="no such file or folder"):
        resolve_checkpoint(name)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="huggingface_hub, which could download it, is not"):
        resolve_checkpoint("facebook/VGGT-1B")


def in_process(home, code):
    """Run code with another HF_HOME, which is read once per process; offline."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    import os

    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


CODE = """
from vggt_ros.engine.checkpoints import resolve_checkpoint, resolve_folder
from vggt_ros.errors import EngineError
for find in (resolve_checkpoint, resolve_folder):
    try:
        print(find("facebook/VGGT-1B"))
    except EngineError as error:
        print("refused:", error)
"""


def test_offline_is_one_line(tmp_path):
    done = in_process(tmp_path, CODE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("refused: facebook/VGGT-1B: not in the Hugging Face cache")
        assert "give the local path" in line


def test_cache_is_used_without_a_connection(tmp_path):
    repository = tmp_path / "hub" / "models--facebook--VGGT-1B"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "model.pt").write_bytes(b"x")
    done = in_process(tmp_path, CODE)
    assert done.stdout.splitlines()[0] == str(snapshot / "model.pt"), done.stderr


def test_folder_of_transformers(tmp_path):
    with pytest.raises(EngineError, match=r"expected config\.json in it"):
        resolve_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert resolve_folder(str(tmp_path)) == tmp_path
