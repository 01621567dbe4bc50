"""What every provider adapter shares."""

from __future__ import annotations

import pytest

from llm_connect.calling.provider import api_key_from
from llm_connect.core.exceptions import LLMConfigurationError


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk two", "sk-\u00e9", "sk-\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    """A key with a line break, a space or a letter beyond ASCII was copied wrongly (PROVIDER-1)."""
    with pytest.raises(LLMConfigurationError, match="copy it again") as caught:
        api_key_from(key, "SOME_API_KEY")
    assert key not in str(caught.value)


def test_white_space_around_a_key_does_not_count() -> None:
    """A key read from a file often ends in a line break."""
    assert api_key_from(" sk-one\n", "SOME_API_KEY") == "sk-one"
