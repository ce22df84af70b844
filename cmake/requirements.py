"""Print one list of requirements of pyproject.toml, one a line, for `pip install -r`.

Usage: requirements.py build | run | EXTRA [...]

`make setup` installs the build requirements into `.venv` and builds there without isolation:
pip's own temporary build environment would install all of them again at every change.
"""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # the only TOML reader that is there before anything is installed
    from pip._vendor import tomli as tomllib

table = tomllib.loads(
    (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)
lists = {
    "build": table["build-system"]["requires"],
    "run": table["project"]["dependencies"],
    **table["project"]["optional-dependencies"],
}
for name in sys.argv[1:]:
    if name not in lists:
        sys.exit(f"no list {name!r}; there are: {', '.join(lists)}")
    print("\n".join(lists[name]))
