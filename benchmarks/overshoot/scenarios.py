"""The attempts of each scenario, and their cost if the provider keeps to the limit.

Both the command and the process of each contender read this. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Unit = Literal["tokens", "usd", "calls"]
Way = Literal["sequential", "gather", "threads", "chain", "cancel"]

#: A model that the price tables of all contenders know, at these USD per million tokens.
MODEL = "gpt-4o-mini"
PROMPT_USD = Decimal("0.15")
COMPLETION_USD = Decimal("0.60")

#: The cap pays for that many calls as they really are; ten times as many are attempted.
PAID_CALLS = 20
ATTEMPTS = 200
THREADS = 32
#: Calls under way when they are cancelled; then come the next.
WAVE = 20
#: A delegates to B, B to C: what of the cap each of them and those below it may spend, in tenths.
TENTHS = {"A": 10, "B": 6, "C": 3}
#: What a contender that must guess the output takes when the call has no limit: token-budget-py's example, and ours.
GUESSED_OUTPUT = 2_000

_SENTENCE = "Describe in plain words how a team of agents can share one budget without spending more than it allows. "
_CHINESE_SENTENCE = "请用简单的语言说明几个智能体怎样共用一个预算而不会超支。"
_PROMPT_CHARACTERS = 425
_CHINESE_CHARACTERS = 589


def tokens_of(text: str) -> int:
    """Count a prompt as the server does: 4.25 characters a token, and 0.68 tokens for a character outside ASCII.

    The second ratio is that of OpenAI's o200k for Chinese: 393 tokens for 579 characters, while len / 4 gives 145.
    """
    foreign = sum(not character.isascii() for character in text)
    return -(-((len(text) - foreign) * 400 + foreign * 1156) // 1700)


def english(agent: str) -> str:
    """A prompt of 100 tokens, by the name of the agent that asks."""
    return f"{agent}: {_SENTENCE * 5}"[:_PROMPT_CHARACTERS]


def chinese(agent: str) -> str:
    """A prompt of 400 tokens."""
    return f"{agent}:{_CHINESE_SENTENCE * 30}"[:_CHINESE_CHARACTERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way to spend a budget.

    max_tokens: the output limit of each call. reply_seconds: how long the server thinks. ignore_limit: how many times
    the limit the provider answers and bills. stalls: the server never answers.
    """

    name: str
    title: str
    way: Way
    max_tokens: int | None = 400
    in_chinese: bool = False
    reply_seconds: float = 0.25
    ignore_limit: float | None = None
    stalls: bool = False

    def prompt(self, agent: str) -> str:
        """Return the prompt of `agent`."""
        return chinese(agent) if self.in_chinese else english(agent)

    @property
    def call_tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of a call that keeps to its limit: 500 together."""
        prompt = tokens_of(self.prompt("A"))
        return prompt, 500 - prompt

    @property
    def call_usd(self) -> Decimal:
        """USD of such a call."""
        prompt, completion = self.call_tokens
        return (prompt * PROMPT_USD + completion * COMPLETION_USD) / 1_000_000

    def cap(self, unit: Unit, agent: str = "A") -> Decimal:
        """Return the cap of `agent` and the agents below it: for A the price of 20 calls."""
        whole = {"tokens": Decimal(500), "usd": self.call_usd, "calls": Decimal(1)}[unit] * PAID_CALLS
        return whole * TENTHS[agent] / 10


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="sequential", title="one after the other", way="sequential", reply_seconds=0.01),
        Scenario(name="gather", title="200 in `gather`", way="gather"),
        Scenario(name="threads", title="32 threads", way="threads"),
        Scenario(name="chain", title="chain A > B > C", way="chain"),
        Scenario(name="no-limit", title="no `max_tokens`", way="gather", max_tokens=None),
        Scenario(name="cancelled", title="cancelled in flight", way="cancel", stalls=True),
        Scenario(name="chinese", title="Chinese prompt", way="gather", max_tokens=100, in_chinese=True),
        Scenario(name="ignores", title="provider ignores the limit", way="gather", ignore_limit=3),
    )
}
