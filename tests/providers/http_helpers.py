"""What several tests of the adapters over HTTP need."""

from __future__ import annotations

import pytest

from llm_connect import LLMAdapter, LLMError, RunConfig
from tests.providers.conftest import Ask

ONCE = RunConfig(max_retries=0)
PROMPT = "The quick brown fox of the prompt jumps over 13 lazy dogs."
SYSTEM = "Always answer in the style of a very old sailor."

#: For tests that make async calls themselves.
each_transport = pytest.mark.usefixtures("transport")
#: For tests of what a format means, beside those of who carries it.
each_format = pytest.mark.parametrize("wiring", ["gemini", "openai", "openai-responses", "openrouter"], indirect=True)


def fails(ask: Ask, adapter: LLMAdapter, config: RunConfig = ONCE) -> LLMError:
    """The error of a call that has to fail."""
    with pytest.raises(LLMError) as caught:
        ask(adapter, PROMPT, config)
    return caught.value
