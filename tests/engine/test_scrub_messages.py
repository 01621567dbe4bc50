"""Messages of providers that hold no secret come through as they are."""

# ruff: noqa: E501 - they stand as they were written

from __future__ import annotations

import pytest

from llm_connect.engine.scrub import Scrubber

KEY = "sk-proj-Zq8Lw2XnVb7TfRk4Hs9JdPyGm3Cc5Ae"
PROMPT = (
    "You are a careful assistant. Read the report below, list the five greatest risks for the bridge, and say for each how "
    "likely it is. Answer in JSON.\n\nThe bridge was built in 1932 and carries 41,000 vehicles a day."
)

#: As OpenAI, Gemini, OpenRouter, Anthropic and compatible servers write them.
MESSAGES = [
    "The requested model 'gpt-5.2-proo' does not exist.",
    "The file type you uploaded is not supported. Please try again with a pdf",
    "The model `gpt-4-32k-0613` does not exist or you do not have access to it.",
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
    "Rate limit reached for gpt-4o-mini in organization org-AbCdEfGhIjKlMnOpQrStUvWx on tokens per min (TPM): Limit 30000, "
    "Used 29500, Requested 1200. Please try again in 1.4s. Visit https://platform.openai.com/account/rate-limits to learn more.",
    "Rate limit reached for gpt-4.1 in organization org-9f3c1b7a5d2e8f60 on requests per day (RPD): Limit 200, Used 200, "
    "Requested 1. Please try again in 7m12s.",
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 131072 tokens. Please reduce "
    "the length of the messages.",
    "This model's maximum context length is 8192 tokens. However, you requested 10240 tokens (2048 in the messages, 8192 in "
    "the completion). Please reduce the length of the messages or completion.",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
    "Invalid schema for response_format 'math_answer': In context=('properties', 'steps'), 'additionalProperties' is "
    "required to be supplied and to be false.",
    "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead.",
    "Invalid type for 'messages[0].content[1].image_url.url': expected a string, but got an object instead.",
    "Missing required parameter: 'messages[2].tool_call_id'.",
    "The server had an error while processing your request. Sorry about that! You can retry your request, or contact us "
    "through our help center at help.openai.com if the error persists. (Please include the request ID "
    "req_cfabb8a1b6c14ba9a4cb2ec4b5bb3c17 in your email.)",
    "That model is currently overloaded with other requests. You can retry your request.",
    "Your request was rejected as a result of our safety system. Your prompt may contain text that is not allowed by it.",
    "Invalid value: 'developper'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'.",
    "Billing hard limit has been reached",
    "Country, region, or territory not supported",
    "invalid_request_error",
    "context_length_exceeded",
    "API key not valid. Please pass a valid API key.",
    "Resource has been exhausted (e.g. check quota).",
    "You exceeded your current quota. Quota exceeded for metric: generativelanguage.googleapis.com/"
    "generate_content_free_tier_requests, limit: 250, model: gemini-2.5-flash. Please retry in 34.874362516s.",
    'Invalid JSON payload received. Unknown name "foo" at \'generation_config\': Cannot find field.',
    "* GenerateContentRequest.generation_config.max_output_tokens: must be positive",
    "Unable to submit request because it has a maxOutputTokens value of 70000 but the supported range is from 1 (inclusive) "
    "to 65537 (exclusive). Update the value and try again.",
    "models/gemini-9-flash is not found for API version v1beta, or is not supported for generateContent. Call ListModels to "
    "see the list of available models and their supported methods.",
    "The model is overloaded. Please try again later.",
    "Permission denied: Consumer 'projects/123456789012' has been suspended.",
    "Generative Language API has not been used in project 123456789012 before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/generativelanguage.googleapis.com/overview?project=123456789012 then retry.",
    "User location is not supported for the API use.",
    "Budget 0 is invalid. This model only works in thinking mode.",
    "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 3281. "
    "To increase, visit https://openrouter.ai/settings/credits and upgrade to a paid account",
    "No endpoints found that can handle the requested parameters. To learn more about provider routing, visit: "
    "https://openrouter.ai/docs/provider-routing",
    "deepseek/deepseek-chat-v3-0324:free is temporarily rate-limited upstream. Please retry shortly, or add your own key.",
    "No auth credentials found",
    "Provider returned error",
    "prompt is too long: 208310 tokens > 200000 maximum",
    "max_tokens: 70000 > 64000, which is the maximum allowed number of output tokens for claude-haiku-4-5-20251001",
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
    "Number of request tokens has exceeded your per-minute rate limit (https://docs.anthropic.com/en/api/rate-limits)",
    "Overloaded",
    "model: claude-opus-9 (request req_011CSHoEeqs5C35K2UUqR7Fy)",
    "the request exceeds the available context size (4096 tokens), try increasing it",
    "Quota resets at 2025-11-20T13:14:15.123456Z; deployment 550e8400-e29b-41d4-a716-446655440000 is not affected.",
    "[{'type': 'missing', 'loc': ('body', 'messages', 0, 'role'), 'msg': 'Field required'}]",
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_a_provider_comes_through_as_it_is(message: str) -> None:
    """Hiding keys and prompts takes nothing from a message that has none. (ERROR-5)"""
    assert Scrubber([KEY], [PROMPT, "You answer in one sentence."]).clean(message) == message


def test_the_table_is_long() -> None:
    """More than forty messages are tried."""
    assert len(MESSAGES) > 40
