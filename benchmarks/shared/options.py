"""The options that every benchmark of this kind has."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from environments import default_folder


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser for the common options, to which a benchmark adds its own; `text` is the docstring of its command."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", metavar="GROUP", help="these groups of rows; writes nothing")
    made.add_argument("--rounds", type=int, help="how often everything is measured")
    made.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    made.add_argument("--environments", type=Path, default=default_folder())
    return made
