"""Telling whether this process is a fork of the one in which an object was made."""

from __future__ import annotations

import os

from llm_connect.core.exceptions import LLMConfigurationError

#: A number that is another one in every forked process.
generation: int = 0


def check(made_in: int) -> None:
    """Raise LLMConfigurationError in a fork of the process in which the generation was `made_in`."""
    if made_in != generation:
        raise LLMConfigurationError(
            "This budget was made before os.fork: used here it would be a second budget of the same size. "
            "Make a BudgetTracker of its own in each process, with its share of the limit."
        )


def _forked() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_forked)
