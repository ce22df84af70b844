"""What the commands about engines share: flags, progress, tables, errors."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from vggt_ros.cli.logs import log_to_stderr
from vggt_ros.errors import EngineError, VggtRosError, nearest
from vggt_ros.inference.backend import BACKENDS, BackendOptions
from vggt_ros.models.vggt_config import PATCH

_T = TypeVar("_T")

_DELAY_S = 1.0
"""A bar for what is over sooner would only flicker."""


def add_backend_flags(parser: argparse.ArgumentParser) -> None:
    """How an engine is opened."""
    group = parser.add_argument_group("how it is opened")
    group.add_argument(
        "--backend", default="auto", choices=("auto", *BACKENDS), help="default auto: by the file"
    )
    group.add_argument(
        "--device", default="auto", metavar="DEVICE", help="cpu, cuda:N, default auto"
    )
    group.add_argument(
        "--threads", type=int, default=0, metavar="N", help="on a CPU; default 0: all"
    )


def backend_options(args: argparse.Namespace) -> BackendOptions:
    """Of the flags above."""
    return BackendOptions(device=args.device, threads=args.threads)


def side(text: str) -> int:
    """Height or width of the input [px]: a multiple of 14."""
    value = int(text) if text.isdecimal() else 0
    if value < PATCH or value % PATCH:
        near = max(PATCH, round(value / PATCH) * PATCH)
        hint = f"; the nearest is {near}" if value else ""
        raise argparse.ArgumentTypeError(f"expected a multiple of {PATCH}, got '{text}'{hint}")
    return value


def progress(
    items: Iterable[_T], what: str, total: int | None = None, unit: str = "it"
) -> Iterator[_T]:
    """Show a bar on a terminal while items are worked on."""
    from tqdm import tqdm

    yield from tqdm(
        items, what, total, delay=_DELAY_S, unit=unit, leave=False, disable=not is_terminal()
    )


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal for how long something has been going on that cannot be counted."""
    from tqdm import tqdm

    done = threading.Event()
    bar = tqdm(desc=what, bar_format="{desc}: {elapsed}", leave=False, disable=not is_terminal())

    def tick() -> None:
        while not done.wait(0.5):
            bar.refresh()

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
        bar.close()


def is_terminal() -> bool:
    """Whether someone watches."""
    return sys.stderr.isatty()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


class ToolParser(argparse.ArgumentParser):
    """Parser of the tools with documented flags: unknown ones are told with the nearest."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As usual, with the nearest flag for one that does not exist."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            told = [f"{word}{nearest(word.split('=')[0], known)}" for word in unknown]
            self.error(f"unrecognized arguments: {', '.join(told)}")
        return found

    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def run_tool(name: str, work: Callable[[], int], is_verbose: bool | None = None) -> int:
    """Run a tool; errors of ours become one line on stderr and exit code 1.

    Args:
        name: that errors begin with.
        work: returns the exit code.
        is_verbose: logs all, or warnings alone; None: the tool has its own logging.
    """
    if is_verbose is not None:
        log_to_stderr("DEBUG" if is_verbose else "WARNING", "[%(levelname)s] %(message)s")
    try:
        return work()
    except VggtRosError as error:
        print(f"{name}: [ERROR] {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def choice(name: str, value: str, valid: Sequence[str]) -> str:
    """Check a word whose valid values are not argparse's business.

    Raises:
        EngineError: not one of them.
    """
    if value not in valid:
        raise EngineError(
            f"{name}: expected one of {', '.join(valid)}, got '{value}'{nearest(value, valid)}"
        )
    return value
