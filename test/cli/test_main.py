"""What all commands of `vggt-ros` share: help, usage, errors, interrupts."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from vggt_ros import __version__
from vggt_ros.cli import main as main_module
from vggt_ros.cli.main import build_parser, main
from vggt_ros.errors import AlignmentError, VggtRosError

COMMANDS = (
    *("demo", "bag", "convert", "check", "replay", "reconstruct"),
    *("export", "evaluate", "engine", "doctor", "check-rig"),
)


def stopped(*words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code


def test_help_names_every_command_and_exit_code(capsys):
    assert stopped("--help") == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in text
    assert "130 interrupted" in text


@pytest.mark.parametrize(
    "command", [*((c,) for c in COMMANDS if c != "doctor"), ("bag", "from-images")]
)
def test_help_of_a_command(command, capsys):
    assert stopped(*command, "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: vggt-ros {' '.join(command)}" in text
    assert command == ("bag",) or "examples:" in text


def test_version(capsys):
    assert stopped("--version") == 0
    assert capsys.readouterr().out == f"vggt_ros {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("rplay",), "invalid choice: 'rplay'"),
        (("replay", "bag"), "the following arguments are required: --out"),
        (("replay", "bag", "--out", "x", "--sett", "a=b"), "unrecognized arguments"),
        (("replay", "bag", "--out", "x", "--max_setz", "1"), "did you mean '--max-sets'?"),
        (("bag",), "the following arguments are required: ACTION"),
        (("bag", "from-images", "x", "--out", "y", "--fps", "0"), "expected a number > 0"),
        (("check", "bag", "--max-skew-ms", "-1"), "expected a number >= 0"),
        (("demo", "--sets", "0"), "expected a whole number > 0"),
        (("demo", "--play-rate", "nan"), "expected a number > 0"),
        (("evaluate", "a", "--reference", "b", "--max-difference-ms", "x"), "a number >= 0"),
    ],
)
def test_wrong_usage_is_exit_code_2(words, message, capsys):
    assert stopped(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "no_bag", "--out", "out"),
        ("check", "no_bag"),
        ("bag", "from-images", "no_folder", "--out", "out"),
        ("evaluate", "no_folder", "--reference", "no_file"),
    ],
)
def test_what_is_not_there_is_one_line(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"vggt-ros {words[0]}")
    assert "no_" in lines[0]


def run_with(monkeypatch, action):
    parser = SimpleNamespace(
        parse_args=lambda _: SimpleNamespace(verbose=False, command="test", run=action)
    )
    monkeypatch.setattr(main_module, "build_parser", lambda: parser)
    return main([])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (VggtRosError("what it is"), 1, "vggt-ros test: what it is\n"),
        (AlignmentError("no views"), 1, "vggt-ros test: no views\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_and_exit_codes(monkeypatch, capsys, error, code, text):
    def fail(args):
        raise error

    assert run_with(monkeypatch, fail) == code
    assert capsys.readouterr().err == text


def test_faults_of_ours_are_not_hidden(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_with(monkeypatch, fail)


def start(*words, cwd):
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return subprocess.Popen(
        [sys.executable, "-m", "vggt_ros.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.parametrize("again_after_s", [None, 0.05])
def test_ctrl_c_while_mapping(recording, tmp_path, again_after_s):
    """No traceback, no half a result, also with a second one at once."""
    words = ("-v", "replay", recording.path, "--out", tmp_path / "out")
    process = start(*words, cwd=tmp_path)
    try:
        for line in process.stderr:  # wait until it works on images
            if "vggt_ros.pipeline" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        if again_after_s is not None:
            time.sleep(again_after_s)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "interrupted"
    assert not list((tmp_path / "out").iterdir())
    assert "numba" not in error  # -v is about us, and its millions of lines take a minute


def test_ctrl_c_that_a_callback_from_c_swallows(monkeypatch, capsys):
    """As numba's do while it compiles."""
    import ctypes

    def interrupted():
        raise KeyboardInterrupt

    def work(args):
        ctypes.CFUNCTYPE(None)(interrupted)()
        for _ in range(600):
            time.sleep(0.1)
        return 0

    assert run_with(monkeypatch, work) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_closed_pipe_is_no_traceback(tmp_path):
    """`vggt-ros ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = dict(os.environ)
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    done = subprocess.run(
        [sys.executable, "-m", "vggt_ros.cli.main", "doctor"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr


def test_parsers_build_without_heavy_imports():
    code = (
        "import sys; from vggt_ros.cli.main import build_parser; build_parser(); "
        "print([m for m in ('cv2', 'numba', 'pycolmap', 'rosbags', 'rclpy', 'open3d') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_parser_has_the_commands_that_are_documented():
    actions = [a for a in build_parser()._actions if a.dest == "command"]
    assert tuple(actions[0].choices) == COMMANDS
