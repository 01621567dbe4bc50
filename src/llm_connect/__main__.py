"""`python -m llm_connect`: the commands of the library."""

from __future__ import annotations

import sys

from llm_connect.stores.command import main

_USAGE = "usage: python -m llm_connect budget ls|show|ledger|reset URL\n"

if __name__ == "__main__":
    if sys.argv[1:2] != ["budget"]:
        sys.exit(_USAGE)
    sys.exit(main(sys.argv[2:]))
