"""The chain: A plans, three Bs look things up in parallel, C writes, D reviews; all under one budget."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from llm_connect import BudgetTracker, LLMAdapter, RunConfig

PLANNER = "You plan research. Split the question into three sub-questions, one per line, numbered 1 to 3."
RESEARCHER = "You look things up. Answer the sub-question in two or three sentences."
WRITER = "You write. Answer the question in one short text, from the notes only."
REVIEWER = "You review. Say in one or two sentences what the text leaves open."


@dataclass(frozen=True, kw_only=True)
class Team:
    """The agents: any adapter can take any part. max_tokens: the output limits of a plan, a note, a text, a review."""

    planner: LLMAdapter
    researcher: LLMAdapter
    writer: LLMAdapter
    reviewer: LLMAdapter | None = None
    max_tokens: tuple[int, int, int, int] = (200, 200, 300, 100)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of the chain."""

    questions: list[str]
    notes: list[str]
    text: str
    review: str = ""


async def run_chain(question: str, team: Team, budget: BudgetTracker, research_total: int) -> Report:
    """Answer `question` within `budget`, at most `research_total` tokens of it for the Bs.

    Raises LLMBudgetExceededError if the next call does not fit; no call is in flight then.
    """
    plan_tokens, note_tokens, text_tokens, review_tokens = team.max_tokens
    config = RunConfig(budget_tracker=budget, timeout_seconds=120)

    def agent(parent: RunConfig, name: str, system_prompt: str, max_tokens: int) -> RunConfig:
        return parent.delegate(name, system_prompt=system_prompt, max_tokens=max_tokens, labels={"agent": name})

    plan = await team.planner.async_execute_prompt(question, agent(config, "A", PLANNER, plan_tokens))
    questions = three_questions(plan.content, question)

    research = config.delegate("research", total=research_total)
    answers = await asyncio.gather(
        *(
            team.researcher.async_execute_prompt(asked, agent(research, f"B{number}", RESEARCHER, note_tokens))
            for number, asked in enumerate(questions, 1)
        ),
        return_exceptions=True,  # what was paid for comes to its end, even when another call is refused
    )
    notes: list[str] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        notes.append(answer.content)

    listed = "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    task = f"Question: {question}\nNotes:\n{listed}"
    async with team.writer.async_stream_prompt(task, agent(config, "C", WRITER, text_tokens)) as writing:
        async for _ in writing:
            pass  # who wants to see the text grow wraps the writer: see `live.py`
    text = writing.text
    if team.reviewer is None:
        return Report(questions=questions, notes=notes, text=text)
    review = await team.reviewer.async_execute_prompt(f"Text: {text}", agent(config, "D", REVIEWER, review_tokens))
    return Report(questions=questions, notes=notes, text=text, review=review.content)


def three_questions(plan: str, question: str) -> list[str]:
    """Return the numbered lines of a plan; if it has fewer than three, three slices of its words."""
    numbered = re.findall(r"^\W*[1-3][.):][* \t]*(\S.*)$", plan, flags=re.MULTILINE)
    if len(numbered) >= 3:
        return numbered[:3]
    words = plan.split()
    size = -(-len(words) // 3)
    slices = [" ".join(words[start * size : (start + 1) * size]) for start in range(3)]
    return [part or question for part in slices]
