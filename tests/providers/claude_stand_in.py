"""Scripts in place of the `claude` command, for what the real one does not do, or not often enough in a minute."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

#: What a script can call. `ask` sends a request as the command does, and gives the status and body of the reply;
#: `answered` prints an answer with the usage in such a body, `failed` an error with such a status.
_TOOLS = """
import json, os, signal, sys, time

def ask(path="/v1/messages", method="POST", **fields):
    import http.client, urllib.parse
    url = urllib.parse.urlsplit(os.environ["ANTHROPIC_BASE_URL"])
    body = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}], **fields}
    headers = {"content-type": "application/json", "x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    connection = http.client.HTTPConnection(url.hostname, url.port)
    connection.request(method, url.path + path, json.dumps(body), headers)
    reply = connection.getresponse()
    status, body = reply.status, reply.read()
    connection.close()
    return status, body

def answered(body):
    usage = json.loads(body)["usage"]
    model = {"inputTokens": usage["input_tokens"], "outputTokens": usage["output_tokens"]}
    end = {"terminal_reason": "completed", "stop_reason": "end_turn"}
    print(json.dumps({"type": "result", "modelUsage": {"m": model}, **end}))

def failed(status):
    print(json.dumps({"type": "result", "terminal_reason": "api_error", "api_error_status": status}))

"""


def stand_in(folder: Path, lines: str) -> Path:
    """An executable `claude` in `folder`: these lines of Python, which know the folder as `here`."""
    path = folder / "claude"
    path.write_text(f"#!{sys.executable}\n{_TOOLS}here = {str(folder)!r}\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
