"""What every back end does with the arrays at its door: names, types, shapes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError, nearest
from vggt_ros.inference.backend import Arrays, TensorSpec

_Item = TypeVar("_Item")


def check_inputs(
    engine: str, specs: Sequence[TensorSpec], inputs: Arrays
) -> dict[str, NDArray[Any]]:
    """Inputs in the order of their specs, each in one piece (C order).

    Args:
        engine: what to call the network in a message: back end and file.
        specs: what it wants.
        inputs: what it is given.

    Raises:
        EngineError: another name, type, rank or size, or an empty array.
    """
    wanted = [spec.name for spec in specs]
    for name in inputs:
        if name not in wanted:
            raise EngineError(
                f"{engine}: expected the inputs {', '.join(wanted)}, got '{name}'"
                f"{nearest(name, wanted)}"
            )
    checked = {}
    for spec in specs:
        if spec.name not in inputs:
            raise EngineError(
                f"{engine}: expected the inputs {', '.join(wanted)}, '{spec.name}' is missing"
            )
        array = inputs[spec.name]
        if not isinstance(array, np.ndarray):
            raise EngineError(
                f"{engine}: input '{spec.name}': expected a NumPy array, got "
                f"{type(array).__name__}"
            )
        if array.dtype != np.dtype(spec.dtype):
            raise EngineError(
                f"{engine}: input '{spec.name}': expected {spec.dtype}, got {array.dtype}; "
                f"convert it with astype('{spec.dtype}')"
            )
        fits = len(spec.shape) == array.ndim and all(
            want in (None, got) for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.size == 0:
            raise EngineError(
                f"{engine}: input '{spec.name}': expected shape {shape_text(spec.shape)}, got "
                f"{shape_text(array.shape)}"
            )
        checked[spec.name] = np.ascontiguousarray(array)
    return checked


def shape_text(shape: Iterable[int | None]) -> str:
    """A shape for people; a free size is `*`."""
    return "(" + ", ".join("*" if size is None else str(size) for size in shape) + ")"


def first_line(error: BaseException) -> str:
    """What an exception of a runtime says, shortened to the line that matters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class Slots(Generic[_Item]):
    """Things that one call at a time may use: execution contexts, streams, requests.

    As many calls go on at once as there are items; others wait. `close` waits for calls under
    way and hands the items back to be freed.
    """

    def __init__(self, engine: str, items: Iterable[_Item]) -> None:
        self._engine = engine
        self._items = list(items)
        self._free = list(self._items)
        self._closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self) -> Iterator[_Item]:
        """Wait for an item and hold it.

        Raises:
            EngineError: closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise EngineError(f"{self._engine}: it was closed; open it again to run it")
            item = self._free.pop()
        try:
            yield item
        finally:
            with self._changed:
                self._free.append(item)
                self._changed.notify_all()

    def close(self) -> list[_Item]:
        """Refuse further calls, wait for those under way; the items the first time, then none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == len(self._items))
            items, self._items, self._free = self._items, [], []
        return items
