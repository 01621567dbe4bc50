"""Pairs of reserve and settle per second in each store, compared with bare transactions and scripts.

    python benchmarks/stores/run.py [--seconds 3] [--rounds 3] [--processes 1 4 16] [--folder PATH]

Ours and the bare ones run by turns, in processes that start together. Redis is measured if redis-server is installed.
"""

from __future__ import annotations

import argparse

import redis_pairs
import sqlite_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--folder", help="on the disk that is measured (default: that of temporary files)")
    given = parser.parse_args()
    for processes in given.processes:
        sqlite_pairs.measure(processes, given.seconds, given.rounds, given.folder)
    with redis_pairs.server() as url:
        for processes in given.processes if url else ():
            redis_pairs.measure(processes, given.seconds, given.rounds, url)


if __name__ == "__main__":
    main()
