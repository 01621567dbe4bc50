"""The benchmark that counts how far a call travels through the files of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openai", reason="openai is not installed")

from benchmarks.ways import files, main, moves, rows, way_of


def test_files_count_once_and_moves_each_time() -> None:
    """A file counts once, however often a call comes back to it; each change of the file is a move."""
    way = [("a.py", "f"), ("a.py", "g"), ("b.py", "f"), ("a.py", "h")]
    assert (files(way), moves(way)) == (2, 3)


def test_the_way_of_a_hold_is_that_of_its_operations() -> None:
    """A way has the functions of the package alone, in the order of their calls."""
    with rows() as acts:
        way = way_of(acts["hold that fits, in memory"])
    order = [name for _, name in way]
    assert order[0] == "reserve"
    assert order.index("reserve") < order.index("dispatch") < order.index("settle")
    assert {Path(file).parts[0] for file, _ in way} == {"budget"}


def test_each_row_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each row, with both figures; before it the whole way, if it is asked for."""
    main("hold that waits")
    lines = capsys.readouterr().out.splitlines()
    printed = [line for line in lines if " files " in line]
    assert [line[:34].strip() for line in printed] == list(names())
    assert all(int(line.split()[-3]) <= int(line.split()[-1]) for line in printed)
    assert sum("_wait_in_line" in line for line in lines) > 1


def names() -> tuple[str, ...]:
    with rows() as acts:
        return tuple(acts)
