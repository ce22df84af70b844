"""A parser that takes `--some_flag` for `--some-flag` and names the nearest flag for a typo."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class FlagParser(argparse.ArgumentParser):
    """Wrong usage is told in one line, with exit code 2; sub-commands get the same class.

    Underscores and dashes within flags are the same. A flag that does not exist is told by the
    sub-command it was given to, with the nearest one that does.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As usual, but whoever has no sub-commands refuses what it does not know."""
        words = self._respelt(sys.argv[1:] if args is None else args)
        if not self._has_commands() and not self.allow_abbrev:
            # before argparse complains of a flag that is required: it may be the misspelt one
            self._refuse([w for w in _flags(words) if w not in self._option_string_actions])
        found, unknown = super().parse_known_args(words, namespace)
        if not self._has_commands():
            self._refuse(unknown)
        return found, unknown

    def _refuse(self, unknown: Sequence[str]) -> None:
        if unknown:
            told = [f"{word}{self._nearest(word)}" for word in unknown]
            self.error(f"unrecognized arguments: {', '.join(told)}")

    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _has_commands(self) -> bool:
        return any(isinstance(a, argparse._SubParsersAction) for a in self._actions)

    def _nearest(self, word: str) -> str:
        """As `errors.nearest`, with the flag as it is documented."""
        shown = {_dashed(f): f for f in self._option_string_actions if f.startswith("--")}
        matches = difflib.get_close_matches(_dashed(word), shown, n=1, cutoff=0.6)
        return f" (did you mean '{shown[matches[0]]}'?)" if matches else ""

    def _respelt(self, words: Sequence[str]) -> list[str]:
        """The words with every flag spelt as it was added."""
        known = {_dashed(flag): flag for flag in self._option_string_actions}
        respelt, is_over = [], False
        for word in words:
            is_over = is_over or word == "--"
            flag, equals, value = word.partition("=")
            if flag.startswith("--") and not is_over and flag not in self._option_string_actions:
                flag = known.get(_dashed(flag), flag)
            respelt.append(flag + equals + value)
        return respelt


def _flags(words: Sequence[str]) -> list[str]:
    """The words that are flags, without their values."""
    end = list(words).index("--") if "--" in words else len(words)
    return [word.partition("=")[0] for word in words[:end] if word.startswith("--")]


def _dashed(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")
