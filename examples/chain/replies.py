"""The embedded provider's answers: one for each agent, made from the words of its prompt."""

from __future__ import annotations

import re
from itertools import pairwise

from llm_connect.testing import Behaviour, EmbeddedProvider, ReceivedRequest

from .agents import PLANNER, RESEARCHER, WRITER

#: Seconds that the three Bs take; the others take the second.
DELAYS = (0.25, 0.4, 0.6)
#: Seconds between two words of C's text.
PACE = 0.03
_TOPIC_WORDS = 6
_SMALL_WORDS = """
about after also among and are because been before between but can could did does for from had has have how into its
keep more most not only our over shall should some such than that the their them then there these they this those
through under upon was were what when where which while who whose why will with without would you your
"""


def reply(request: ReceivedRequest) -> str:
    """Return the answer to a request; the system prompt names the agent."""
    if PLANNER in request.system_prompt:
        return _plan(request.prompt)
    if RESEARCHER in request.system_prompt:
        return _note(request.prompt)
    if WRITER in request.system_prompt:
        return _text(request.prompt)
    words = len(request.prompt.split()) - 1
    return f"In {words} words the text answers each sub-question, but it leaves open where its facts come from."


def set_delays(server: EmbeddedProvider) -> None:
    """Slow the answers down in two runs, so that a viewer sees them arrive."""
    server.script(Behaviour(delay=DELAYS[1]))
    server.script(Behaviour(delay=DELAYS[1], chunk_delay=PACE), wire_format="openrouter")
    for delay in DELAYS * 2:
        server.script(Behaviour(delay=delay), times=1, wire_format="generate_content")


def _plan(question: str) -> str:
    first, second, third = _topics(question)
    return (
        f'1. What does "{first}" mean here?\n'
        f'2. Which facts about "{second}" are known?\n'
        f'3. What follows for "{third}" in practice?'
    )


def _note(asked: str) -> str:
    quoted = re.search(r'".+"', asked)
    topic = quoted.group() if quoted else asked
    return f"On {topic} most sources agree on the main point. They differ in the details, of which two matter here."


def _text(task: str) -> str:
    question = task.partition("Question: ")[2].partition("\n")[0]
    notes = [note.partition(". ")[0] for note in re.findall(r"^\d\. (.+)$", task, flags=re.MULTILINE)]
    return f'To the question "{question}" there are {len(notes)} findings. {". ".join(notes)}.'


def _topics(question: str) -> list[str]:
    """Return three topics of a question: its longer words in order, divided; if there are very few, all of them."""
    small = _SMALL_WORDS.split()
    words = [word for word in re.findall(r"\w[\w'-]*", question) if len(word) > 2 and word.lower() not in small]
    size, more = divmod(len(words), 3)
    ends = [size * number + min(more, number) for number in range(4)]
    parts = [" ".join(words[start:end][:_TOPIC_WORDS]) for start, end in pairwise(ends)]
    return [part or " ".join(words) or question.strip() for part in parts]
