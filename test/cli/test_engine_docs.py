"""The commands of `docs/engines.md` parse, and name flags, files and tests that exist."""

import re
import shlex

import pytest

from vggt_ros.cli import benchmark_trt_engines, trt_inference, vggt_to_trt
from vggt_ros.cli.main import build_parser
from vggt_ros.engine.names import Stem, engine_path, precision_path

TOOLS = {
    "vggt_to_trt": vggt_to_trt,
    "trt_inference": trt_inference,
    "benchmark_trt_engines": benchmark_trt_engines,
}


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "engines.md").read_text()


def commands(text):
    """Lines of the code blocks, comments taken off."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def test_every_command_parses(page, repository):
    parser = build_parser()
    pages = [page, (repository / "engines" / "README.md").read_text()]
    found = [words for text in pages for words in commands(text) if words[0] == "vggt-ros"]
    assert len(found) >= 9
    for words in found:
        parser.parse_args(words[1:])


def test_five_commands_for_each_machine(page):
    for title in ("## Five commands on x86-64", "## Five commands on a Jetson"):
        section = page.split(title)[1].split("\n## ")[0]
        names = [w[0] if w[0] != "vggt-ros" else w[2] for w in commands(section)]
        steps = [name for name in names if name not in ("pip", "python3")]
        assert steps == ["hf", "export", "build", "verify", "ros2"]


def test_files_are_named_as_they_will_be(page):
    for stem in (Stem(4, 518, 518, pcd_only=True), Stem(4, 294, 518, pcd_only=True)):
        assert str(precision_path("engines", stem, "fp16")) in page
        assert str(engine_path("engines", stem, "fp16")) in page


def test_examples_of_the_tools_parse():
    for name, tool in TOOLS.items():
        text = tool.build_parser().format_help().split("examples:")[1].replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip().startswith(name)]
        assert lines
        for line in lines:
            tool.build_parser().parse_args(shlex.split(line)[1:])


def test_flags_in_the_page_exist(page):
    parsers = [tool.build_parser() for tool in TOOLS.values()]
    known = {flag for p in parsers for a in p._actions for flag in a.option_strings}
    engine = next(a for a in build_parser()._actions if a.dest == "command" and a.choices).choices[
        "engine"
    ]
    actions = next(a for a in engine._actions if a.dest == "action").choices
    known |= {f for p in actions.values() for a in p._actions for f in a.option_strings}
    others = {"--local-dir", "--system-site-packages"}
    for flag in set(re.findall(r"(?<![\w-])--[a-z][\w-]+", page)) - others:
        assert flag in known, flag
