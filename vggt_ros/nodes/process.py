"""Start, spin and end one node per process, so that Ctrl-C at any moment ends it with exit code 0.

A Ctrl-C under `ros2 launch` reaches a node twice, the first time perhaps while it still imports.
So the handlers are set before anything slow is imported (this file imports only the standard
library) and do no more than to set an event that the spin loop looks at.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from vggt_ros.errors import VggtRosError

SPIN_PERIOD_S = 0.2
"""Longest time between a signal and its effect."""

EXIT_BAD_PARAMETERS = 2
"""Exit code where parameters, arguments or files named by them are wrong."""


class RunnableNode(Protocol):
    """What `run` asks of a node beyond being an rclpy node."""

    exit_code: int

    def close(self) -> bool:
        """End threads and free everything; False where a thread is still busy."""
        ...


def catch_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set from now on, as often as they come."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run(
    make_node: Callable[[threading.Event], Any],
    stop: threading.Event,
    args: list[str] | None = None,
    threads: int = 1,
) -> int:
    """Initialise rclpy, spin the node until `stop` is set, clean up.

    Args:
        make_node: gets `stop`, which the node may set itself to end the process.
        stop: from `catch_signals`.
        args: command line; None: that of the process.
        threads: callbacks that may run at the same time; subscriptions have the spinning thread.

    Returns:
        The exit code: that of the node, 2 for wrong parameters, 1 for another error of ours.
    """
    if stop.is_set():
        return 0
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from vggt_ros.nodes.executors import InputsFirstExecutor

    if not _initialise(rclpy, sys.argv if args is None else args, SignalHandlerOptions.NO):
        return EXIT_BAD_PARAMETERS
    executor = SingleThreadedExecutor() if threads == 1 else InputsFirstExecutor(threads)
    node: Any = None
    handler: logging.Handler | None = None
    finished = True
    try:
        node = make_node(stop)
        handler = _forward_logging(node.get_logger())
        executor.add_node(node)
        while not stop.is_set():
            executor.spin_once(timeout_sec=SPIN_PERIOD_S)
        code = node.exit_code
    except VggtRosError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = EXIT_BAD_PARAMETERS if node is None else 1
    finally:
        stop.set()
        if node is not None:
            finished = node.close()
        executor.shutdown(timeout_sec=1.0)
        if handler is not None:
            logging.getLogger("vggt_ros").removeHandler(handler)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # Python restores "terminate" while the interpreter ends; an ignored signal stays so.
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: under a test
                signal.signal(number, signal.SIG_IGN)
    if not finished:
        # Native code (a reconstruction, a compilation) cannot be interrupted and must not
        # meet a half torn down interpreter.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _initialise(rclpy: Any, args: list[str], signal_options: Any) -> bool:
    """`rclpy.init`, with its exceptions for unreadable parameters turned into one line."""
    from rclpy._rclpy_pybind11 import RCLError, RCLInvalidROSArgsError, UnknownROSArgsError

    try:
        rclpy.init(args=args, signal_handler_options=signal_options)
    except (RCLError, RCLInvalidROSArgsError, UnknownROSArgsError) as error:
        text = " ".join(str(error).split())
        print(
            f"error: the ROS arguments or a parameter file cannot be read: {text} "
            "(parameter files hold scalars and flat lists of one type: no nested lists, and "
            "500.0 beside 500.0, not 500)",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


_FORMATTER = logging.Formatter()


class _RosLogHandler(logging.Handler):
    """Hands records of the core, which knows only stdlib logging, to the logger of a node."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + _FORMATTER.formatException(record.exc_info)
            # One call per line: rclpy ties a severity to the line that logs.
            if record.levelno >= logging.ERROR:
                self._logger.error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.warning(text)
            elif record.levelno >= logging.INFO:
                self._logger.info(text)
            else:
                self._logger.debug(text)
        except Exception:
            self.handleError(record)


def _forward_logging(logger: Any) -> logging.Handler:
    handler = _RosLogHandler(logger)
    core = logging.getLogger("vggt_ros")
    core.addHandler(handler)
    core.setLevel(logging.DEBUG if logger.get_effective_level() <= 10 else logging.INFO)
    return handler
