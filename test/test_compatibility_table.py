"""`docs/compatibility.md` has every row, and names tests that exist."""

import re

import pytest

ROWS = {"A": 25, "B": 35, "C": 21, "D": 11, "E": 19}


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "compatibility.md").read_text()


def test_every_capability_has_its_row(page):
    found = re.findall(r"^\| ([A-E])(\d+)(?:-\1(\d+))?( ✓| not yet) ", page, re.MULTILINE)
    numbers = [
        (letter, number)
        for letter, first, last, _ in found
        for number in range(int(first), int(last or first) + 1)
    ]
    assert sorted(numbers) == [(letter, k) for letter in ROWS for k in range(1, ROWS[letter] + 1)]
    assert {letter for letter, *_, mark in found if "not yet" in mark} == {"A", "C", "D"}


def test_every_row_that_works_names_tests_that_exist(page, repository):
    for row in re.findall(r"^\| [A-E]\d+ ✓ .*$", page, re.MULTILINE):
        named = re.findall(r"`(test/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            path = repository / file
            assert path.is_file(), f"{row[:8]}: {file}"
            assert f"def {name}(" in path.read_text(), f"{row[:8]}: {file}::{name}"
