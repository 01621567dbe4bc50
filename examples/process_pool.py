"""One budget for the workers of a pool: `python examples/process_pool.py` runs without keys, on the mock adapter.

Three processes ask twelve questions of up to 1,000 tokens under a budget for 5,000. The tracker is pickled with each
job, and is the same budget there.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor

from llm_connect import BudgetTracker, LLMBudgetExceededError, MockLLMAdapter, RunConfig, open_budget


def ask(question: int, budget: BudgetTracker) -> str:
    """Do the work of one job."""
    adapter = MockLLMAdapter("an answer", prompt_tokens=300, completion_tokens=700)
    config = RunConfig(budget_tracker=budget, max_tokens=700, labels={"question": str(question)})
    try:
        return adapter.execute_prompt("x" * 300, config).content
    except LLMBudgetExceededError as error:
        return f"not asked ({error.reason})"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_budget(f"sqlite:///{folder}/budget.db", total=5_000) as budget:
        with ProcessPoolExecutor(3) as pool:
            answers = list(pool.map(ask, range(12), [budget] * 12))
        for question, answer in enumerate(answers):
            print(f"{question:2} {answer}")
        print(f"{answers.count('an answer')} of 12 were asked: {budget.snapshot().spent.tokens} of 5,000 tokens spent")


if __name__ == "__main__":
    main()
