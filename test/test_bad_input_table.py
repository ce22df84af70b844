"""`docs/bad_input.md` names tests that exist."""

import re


def test_every_row_names_tests_that_exist(repository):
    rows = (repository / "docs" / "bad_input.md").read_text().split("|---|---|---|\n")[1]
    for row in rows.strip().splitlines():
        named = re.findall(r"`(test/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            path = repository / file
            assert path.is_file(), file
            assert f"def {name}(" in path.read_text(), f"{file}::{name}"
