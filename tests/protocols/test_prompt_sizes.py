"""What a request may come to as input, for requests of our own and of others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.budget.accounting.bounds import Bound, TokenCounter, normalized_utf8_bytes, utf8_bytes
from llm_connect.protocols import chat_completions, claude_cli, generate_content, responses
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens, is_openais, reads_more
from llm_connect.protocols.prompt_sizes import TOOL_PROMPT_TOKENS, PromptSizes, with_count
from llm_connect.protocols.wire import JSON

#: NFKC makes 33 bytes of its 3.
GROWS = "\ufdfa"
FUNCTION: JSON = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE: JSON = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}


def chat(model: str = "gpt-4.1", **fields: Any) -> Bound:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
    return chat_completions.bound(body, 20, own_endpoint=True)


def respond(model: str = "gpt-4.1", **fields: Any) -> Bound:
    return responses.bound({"model": model, "input": "hello", **fields}, 20, own_endpoint=True)


def generate(model: str = "gemini-2.5-flash", **fields: Any) -> Bound:
    body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}], **fields}
    return generate_content.bound(body, 20, model=model)


@pytest.mark.parametrize(
    "model", ["gpt-4.1", "openai/gpt-5-mini", "o3", "o4-mini", "chatgpt-4o-latest", "~openai/gpt-5"]
)
def test_byte_level_families_count_plain_bytes(model: str) -> None:
    """OpenAI's tokenizers read text as it is, so its bytes are enough. (WIRE-15)"""
    assert is_openais(model)
    assert PromptSizes(model).prompt([GROWS], []) == 8 + 3


@pytest.mark.parametrize(
    "model",
    ["gemini-2.5-pro", "google/gemma-3-27b-it", "meta-llama/llama-3.3-70b", "claude-opus-5-5", "unheard-of", ""],
)
def test_others_count_the_text_before_or_after_nfkc(model: str) -> None:
    """SentencePiece, Anthropic's published tokenizer and what nobody knows may normalize first. (WIRE-15)"""
    assert not is_openais(model)
    assert PromptSizes(model).prompt([GROWS], []) == 8 + 34 + hidden_prompt_tokens(model)


@given(st.lists(st.text()), st.sampled_from(["gpt-5", "gemini-3-pro"]))
def test_texts_are_framed_one_by_one(texts: list[str], model: str) -> None:
    """Each text counts with its framing. (WIRE-15)"""
    size = utf8_bytes if model == "gpt-5" else normalized_utf8_bytes
    assert PromptSizes(model).prompt(texts, []) == sum(8 + size(text) for text in texts)


def test_framing_and_allowances_stay_with_a_tokenizer() -> None:
    """A tokenizer counts the texts; framing, schemas and hidden prompts are counted as without one. (BUDGET-31)"""
    ten = TokenCounter(lambda _: 1, exact=True)
    plain, tight = PromptSizes("unheard-of"), PromptSizes("unheard-of", ten)
    assert tight.hidden == plain.hidden == 2_048
    assert tight.prompt(["x" * 100, "y" * 100], []) == 2 * (8 + 1) + 2_048
    assert tight.prompt([], {"a": "b"}) == plain.prompt([], {"a": "b"}) == len('{"a": "b"}') + 1 + 2_048
    body = {"model": "unheard-of", "messages": [{"role": "user", "content": "x" * 100}], "response_format": {"a": "b"}}
    counted = chat_completions.bound(body, 20, own_endpoint=True, counter=ten)
    assert counted.prompt_tokens > 2_048 + 8 + 8 + 8 + len('{"a": "b"}')


@pytest.mark.parametrize(("exact", "grade"), [(True, "proven"), (False, "estimated")])
def test_a_tokenizer_proves_only_what_its_user_vouches_for(exact: bool, grade: str) -> None:
    """With a plain function the bound is an estimate; an exact one keeps the grade of the bytes. (BUDGET-30)"""
    counter = TokenCounter(lambda _: 1, exact=exact)
    body = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hello"}]}
    assert chat_completions.bound(body, 20, own_endpoint=True, counter=counter).grade == grade
    assert chat_completions.bound(body, 20, own_endpoint=False, counter=counter).grade == "estimated"
    asked = {"model": "gpt-4.1", "input": "hello"}
    assert responses.bound(asked, 20, own_endpoint=True, counter=counter).grade == grade
    assert generate_content.bound({"contents": []}, 20, model="gemini-3-pro", counter=counter).grade == "estimated"
    claude = {"model": "claude-opus-5-5", "prompt": "x", "system_prompt": ""}
    assert claude_cli.bound(claude, 20, login=False, counter=counter).grade == "estimated"


@pytest.mark.parametrize(
    "name", ["gpt-4o", "gpt-5.5", "o3", "claude-sonnet-5-5", "gemini-2.5-pro", "google/gemma-3-27b-it"]
)
def test_models_of_the_table_get_no_allowance(name: str) -> None:
    """Families that were seen to count what was sent, and no more. (WIRE-15)"""
    assert hidden_prompt_tokens(name) == 0


@pytest.mark.parametrize(
    "name",
    [
        "unheard-of",
        "x-ai/grok-4",
        "gpt-5-pro",
        "gpt-4o-search-preview",
        "gpt-4o-audio-preview",
        "gpt-realtime",
        "computer-use-preview",
        "gemini-2.5-flash-image",
        "gemini-2.5-computer-use-preview",
        "ft:gpt-4.1-mini:us::x",
        "",
    ],
)
def test_other_models_get_an_allowance_and_an_estimate(name: str) -> None:
    """What their providers add was seen by nobody. (WIRE-15)"""
    assert hidden_prompt_tokens(name) == 2_048
    assert (chat(name).grade, respond(name).grade) == ("estimated", "estimated")


@pytest.mark.parametrize("name", ["openai/gpt-5:online", "o4-mini-deep-research", "openai/gpt-5@preset/a", "@preset/a"])
def test_models_that_read_what_they_find_are_unbounded(name: str) -> None:
    """Search results and presets have no limit that anybody tells. (WIRE-30)"""
    assert reads_more(name)
    assert {chat(name).grade, respond(name).grade, generate(name).grade} == {"unbounded"}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"messages": [{"role": "user", "content": "hello", "name": "Ann"}], "n": 2, "stream": True, "top_logprobs": 2},
        {"response_format": {"type": "text"}, "tools": None},
        {"reasoning_effort": "low", "verbosity": "high", "service_tier": "flex", "store": False},
    ],
)
def test_plain_chats_of_others_are_proven(fields: JSON) -> None:
    """Text in whatever form, and parameters that bring nothing into the prompt. (WIRE-15)"""
    bound = chat(**fields)
    assert bound.grade == "proven"
    assert bound.outputs == fields.get("n", 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [FUNCTION]},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]},
        {"messages": [{"role": "tool", "content": "4", "tool_call_id": "a"}]},
    ],
)
def test_chats_with_functions_and_schemas_are_estimates(fields: JSON) -> None:
    """JSON is written anew for the model, so it counts with its bytes and is not proven. (WIRE-15)"""
    assert chat(**fields).grade == "estimated"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, IMAGE]}]},
        {"messages": [{"role": "user", "content": [7]}]},
        {"messages": ["hello"]},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": {"text": "hello"}}]},
        {"messages": [{"role": "assistant", "audio": {"id": "a"}}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": {"type": "function"}},
        {"web_search_options": {}},
        {"modalities": ["text", "audio"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"plugins": [{"id": "web"}]},
        {"preset": "@preset/comedian"},
        {"models": ["a/b"]},
        {"brand_new": 1},
    ],
)
def test_chats_with_what_is_not_counted_are_unbounded(fields: JSON) -> None:
    """Images, a provider's own tools, and any field that is not known here. (WIRE-30)"""
    assert chat(**fields).grade == "unbounded"


@pytest.mark.parametrize(
    ("fields", "grade"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]}, "proven"),
        ({"input": [{"type": "message", "role": "user", "content": "hello"}], "include": ["x"]}, "proven"),
        ({"reasoning": {"effort": "low", "summary": "auto"}, "text": {"format": {"type": "text"}}}, "proven"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "estimated"),
        ({"tools": [{"type": "function", "name": "f"}]}, "estimated"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "estimated"),
        ({"input": [{"type": "function_call_output", "output": "4"}]}, "estimated"),
        ({"input": [{"type": "reasoning", "encrypted_content": "abc", "summary": []}]}, "estimated"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "unbounded"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "unbounded"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a"}]}]}, "unbounded"),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, "unbounded"),
        ({"tools": [{"type": "web_search"}]}, "unbounded"),
        ({"reasoning": {"mode": "pro"}}, "unbounded"),
        ({"previous_response_id": "resp_1"}, "unbounded"),
        ({"conversation": "conv_1"}, "unbounded"),
        ({"prompt": {"id": "pmpt_1"}}, "unbounded"),
        ({"input": ["hello"]}, "unbounded"),
        ({"input": 5}, "unbounded"),
        ({"instructions": [{"role": "system", "content": "hello"}]}, "unbounded"),
        ({"context_management": [{"type": "compaction"}]}, "unbounded"),
    ],
)
def test_responses_are_graded_by_what_they_carry(fields: JSON, grade: str) -> None:
    """Text is proven, what is written anew an estimate, what is kept elsewhere unbounded. (WIRE-15, WIRE-30)"""
    assert respond(**fields).grade == grade


@pytest.mark.parametrize(
    ("fields", "grade"),
    [
        ({"systemInstruction": {"parts": [{"text": "Be brief."}]}, "safetySettings": []}, "estimated"),
        ({"generationConfig": {"responseModalities": ["TEXT"], "candidateCount": 3}}, "estimated"),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}], "toolConfig": {}}, "estimated"),
        ({"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]}, "estimated"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "AA"}}]}]}, "unbounded"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://a"}}]}]}, "unbounded"),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "unbounded"),
        ({"generationConfig": {"speechConfig": {}}}, "unbounded"),
        ({"tools": [{"googleSearch": {}}]}, "unbounded"),
        ({"cachedContent": "cachedContents/1"}, "unbounded"),
        ({"system_instruction": {"parts": [{"text": "x"}]}}, "unbounded"),
        ({"systemInstruction": {"parts": ["x"]}}, "unbounded"),
        ({"systemInstruction": "Be brief."}, "unbounded"),
        ({"contents": ["hello"]}, "unbounded"),
        ({"contents": "hello"}, "unbounded"),
    ],
)
def test_generate_content_is_graded_by_what_it_carries(fields: JSON, grade: str) -> None:
    """Text and functions are an estimate at best; images, Google's tools and unknown fields unbounded.
    (WIRE-15, WIRE-30)"""
    assert generate(**fields).grade == grade


def test_several_candidates_use_the_limit_several_times() -> None:
    """`candidateCount` multiplies the output, as `n` does. (WIRE-15)"""
    assert generate(generationConfig={"candidateCount": 3}).completion_tokens == 60
    assert chat(n=3).completion_tokens == 60


def test_all_that_is_read_is_counted() -> None:
    """Functions, their calls and results, schemas in both of Gemini's forms: each makes the bound larger. (WIRE-15)"""
    long = "x" * 500
    schema = {"type": "object", "description": long}
    tool = {"type": "function", "function": {"name": "f", "description": long}}
    call = [{"id": "a", "function": {"arguments": long}}]
    assert chat(tools=[tool]).prompt_tokens > 500 + chat().prompt_tokens
    assert chat(messages=[{"role": "assistant", "tool_calls": call}]).prompt_tokens > 500
    assert chat(messages=[{"role": "user", "content": [{"type": "text", "text": long}]}]).prompt_tokens > 500
    assert chat(messages=[{"role": "assistant", "refusal": long}]).prompt_tokens > 500
    assert respond(tools=[{"type": "function", "description": long}]).prompt_tokens > 500
    assert respond(input=[{"type": "function_call_output", "output": long}]).prompt_tokens > 500
    assert generate(generationConfig={"responseJsonSchema": schema}).prompt_tokens > 500
    assert generate(generationConfig={"responseSchema": schema}).prompt_tokens > 500
    assert generate(tools=[{"functionDeclarations": [{"description": long}]}]).prompt_tokens > 500
    assert generate(systemInstruction={"parts": {"text": long}}).prompt_tokens > 500
    assert generate(contents={"parts": [{"text": long}]}).prompt_tokens > 500
    assert generate(contents=[{"parts": [{"functionCall": {"args": {"a": long}}}]}]).prompt_tokens > 500


def test_tools_at_other_providers_bring_a_prompt() -> None:
    """Anthropic adds hundreds of tokens when there are tools; OpenAI does not. (WIRE-15)"""
    openais = chat("gpt-5", tools=[FUNCTION]).prompt_tokens - chat("gpt-5").prompt_tokens
    anthropics = chat("anthropic/claude-sonnet-5.5", tools=[FUNCTION]).prompt_tokens
    anthropics -= chat("anthropic/claude-sonnet-5.5").prompt_tokens
    assert anthropics - openais == TOOL_PROMPT_TOKENS + 1


@pytest.mark.parametrize(
    ("name", "words"), [("reasoning", 64), ("reasoning_effort", 64), ("verbosity", 64), ("top_p", 0)]
)
def test_parameters_of_style_may_add_a_few_words(name: str, words: int) -> None:
    """How to think and how long to write is told to the model in words. (WIRE-15)"""
    assert chat(**{name: {}}).prompt_tokens - chat().prompt_tokens == words


def test_so_may_those_of_the_other_formats() -> None:
    """Effort, verbosity, a thinking budget and a MIME type. (WIRE-15)"""
    assert respond(reasoning={"effort": "low"}).prompt_tokens - respond().prompt_tokens == 64
    assert respond(text={"verbosity": "low"}).prompt_tokens - respond().prompt_tokens == 64
    assert generate(generationConfig={"thinkingConfig": {}}).prompt_tokens - generate().prompt_tokens == 64
    assert generate(generationConfig={"responseMimeType": "a/b"}).prompt_tokens - generate().prompt_tokens == 64


BYTES = Bound(prompt_tokens=100, max_tokens=10, grade="estimated")


@pytest.mark.parametrize(
    ("counted", "hidden", "exact", "tokens", "grade"),
    [
        (30, 0, True, 30, "proven"),
        (100, 0, True, 100, "proven"),
        (30, 0, False, 30, "estimated"),
        (30, 60, True, 90, "estimated"),
        (101, 0, True, 100, "estimated"),
        (0, 0, True, 100, "estimated"),
        (None, 0, True, 100, "estimated"),
    ],
)
def test_the_providers_count_is_the_bound_where_it_is_less(
    counted: int | None, hidden: int, exact: bool, tokens: int, grade: str
) -> None:
    """It is never above the bytes; proven only where the provider calls it exact and adds nothing unknown.
    (BUDGET-31, BUDGET-30)"""
    bound = with_count(BYTES, counted, hidden=hidden, exact=exact)
    assert (bound.prompt_tokens, bound.grade, bound.max_tokens) == (tokens, grade, 10)


def test_more_than_the_bytes_is_proven_by_nothing() -> None:
    """A provider that counts more than there are bytes adds something: what was proven is an estimate. (BUDGET-30)"""
    proven = Bound(prompt_tokens=100, max_tokens=10, grade="proven")
    assert with_count(proven, 101, hidden=0, exact=True).grade == "estimated"


def test_a_count_does_not_bound_what_is_unbounded() -> None:
    """What will be found by searching is in no count. (BUDGET-30)"""
    unbounded = Bound(prompt_tokens=100, max_tokens=10, grade="unbounded")
    assert with_count(unbounded, 5, hidden=0, exact=True) == unbounded
