"""The relay between the `claude` command and its provider: one request, whatever the command and the provider do."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    LLMAPIError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMResponse,
    LLMResponseError,
    LLMSubprocessError,
    RunConfig,
)
from llm_connect.engine.deadline import Deadline
from llm_connect.providers.relay import Endpoint
from llm_connect.providers.relay_streams import BadMessage, Stream, connected
from llm_connect.providers.strands import Strand, Strands
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.claude_stand_in import stand_in
from tests.providers.raw_server import TLS, RawServer, good, raw_server

pytestmark = pytest.mark.slow

KEY = "key-0123456789"
#: What the usage in a reply looks like to the stand-in.
USAGE = b'{"usage": {"input_tokens": 7, "output_tokens": 3}}'
NOTE = "note = lambda seen: open(here + '/seen', 'w').write(json.dumps(seen))\n"
ASK_AND_ANSWER = "answered(ask()[1])"

Ask = Callable[..., LLMResponse]


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider() as running:
        yield running


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with raw_server() as running:
        running.reply = good(USAGE)
        yield running


@pytest.fixture
def tracker() -> BudgetTracker:
    return BudgetTracker(total=100_000)


def config(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"max_tokens": 50, "max_retries": 0, "timeout_seconds": 30, "budget_tracker": tracker, **fields})


def adapter_at(url: str, folder: Path, lines: str = ASK_AND_ANSWER, **options: Any) -> ClaudeCodeAdapter:
    return ClaudeCodeAdapter(api_key=KEY, base_url=url, cli_path=stand_in(folder, lines), **options)


def seen(folder: Path) -> Any:
    """What the stand-in noted."""
    return json.loads((folder / "seen").read_text())


def outcome(tracker: BudgetTracker) -> str:
    """How the hold of the one attempt ended."""
    (entry,) = tracker.ledger
    assert tracker.held == 0
    return str(entry.outcome)


# --- one request ---


def test_only_the_first_request_is_let_through(
    provider: EmbeddedProvider, tmp_path: Path, tracker: BudgetTracker, ask: Ask
) -> None:
    """However often the command asks, the provider is asked once, and the hold covers it. (PROVIDER-12)"""
    lines = f"{NOTE}note([ask()[0] for _ in range(4)])\nfailed(400)"
    with pytest.raises(LLMResponseError, match="asked again"):
        ask(adapter_at(provider.anthropic_url, tmp_path, lines), "hi", config(tracker))
    assert seen(tmp_path) == [200, 400, 400, 400]
    assert len(provider.requests) == 1
    assert outcome(tracker) == "presumed"
    assert tracker.spent >= provider.meter.total_tokens


def test_requests_at_once_are_one(provider: EmbeddedProvider, tmp_path: Path, tracker: BudgetTracker) -> None:
    """Of requests that come at the same time one is let through, too. (PROVIDER-12)"""
    lines = f"""{NOTE}
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    replies = list(pool.map(lambda _: ask(), range(8)))
note(sorted(status for status, _ in replies))
answered(next(body for status, body in replies if status == 200))
"""
    provider.script(Behaviour(delay=0.2))
    adapter_at(provider.anthropic_url, tmp_path, lines).execute_prompt("hi", config(tracker))
    assert seen(tmp_path) == [200] + [400] * 7
    assert tracker.spent == provider.meter.total_tokens
    assert provider.meter.calls == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messagesx"),
        ("POST", "/../v1/messages"),
        ("POST", "x/v1/messages"),
        ("POST", ""),
        ("GET", "/v1/messages"),
        ("GET", "/v1/models"),
        ("HEAD", ""),
    ],
)
def test_nothing_but_messages_is_let_through(
    provider: EmbeddedProvider, tmp_path: Path, tracker: BudgetTracker, method: str, path: str
) -> None:
    """Another request is answered here, and a command that made none that counts costs nothing. (PROVIDER-12)"""
    lines = f"{NOTE}note(ask({path!r}, {method!r})[0])\nsys.exit(3)"
    with pytest.raises(LLMSubprocessError):
        adapter_at(provider.anthropic_url, tmp_path, lines).execute_prompt("hi", config(tracker))
    assert seen(tmp_path) == 404
    assert provider.requests == []
    assert outcome(tracker) == "released"


@pytest.mark.parametrize("fields", ["max_tokens=51", "max_tokens='1'", "max_tokens=None", "max_tokens=1e9"])
def test_no_more_output_is_asked_for_than_the_hold_covers(
    provider: EmbeddedProvider, tmp_path: Path, tracker: BudgetTracker, ask: Ask, fields: str
) -> None:
    """A request with another limit than the command was told to send is not let through. (PROVIDER-12)"""
    with pytest.raises(LLMSubprocessError, match="more output"):
        ask(adapter_at(provider.anthropic_url, tmp_path, f"ask({fields})"), "hi", config(tracker))
    assert provider.requests == []
    assert outcome(tracker) == "released"


def test_a_stranger_gets_nothing(provider: EmbeddedProvider, tmp_path: Path, tracker: BudgetTracker) -> None:
    """Who does not know the address of the call is refused, and does not disturb it. (PROVIDER-20)"""
    lines = f"""{NOTE}
import socket, urllib.parse
ours = os.environ["ANTHROPIC_BASE_URL"]
url = urllib.parse.urlsplit(ours)
def raw(data):
    with socket.create_connection((url.hostname, url.port)) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1000)[:12].decode()
        except OSError:
            return ""
open_one = socket.create_connection((url.hostname, url.port))
said = [raw(b""), raw(b"\\xff\\x00\\r\\n\\r\\n"), raw(b"GET / HTTP/1.1\\r\\n\\r\\n"), raw(b"POST " + b"x" * 200_000)]
for path in ("/v1/messages", "/" + "x" * 43 + "/v1/messages", url.path[:-1] + "/v1/messages"):
    body = b'{{"max_tokens": 1}}'
    said.append(raw(f"POST {{path}} HTTP/1.1\\r\\ncontent-length: {{len(body)}}\\r\\n\\r\\n".encode() + body))
note([ours, said])
{ASK_AND_ANSWER}
"""
    adapter_at(provider.anthropic_url, tmp_path, lines).execute_prompt("hi", config(tracker))
    address, said = seen(tmp_path)
    assert address.startswith("http://127.0.0.1:")
    assert said == ["", "HTTP/1.1 404", "HTTP/1.1 404", "", *["HTTP/1.1 404"] * 3]
    assert provider.meter.calls == 1


def test_each_call_has_an_address_of_its_own(provider: EmbeddedProvider, tmp_path: Path) -> None:
    """The address of one call is of no use for another, nor afterwards. (PROVIDER-20)"""
    lines = (
        f"with open(here + '/urls', 'a') as urls: print(os.environ['ANTHROPIC_BASE_URL'], file=urls)\n{ASK_AND_ANSWER}"
    )
    adapter = adapter_at(provider.anthropic_url, tmp_path, lines)
    for _ in range(2):
        adapter.execute_prompt("hi")
    urls = (tmp_path / "urls").read_text().split()
    assert len({url.rpartition("/")[2] for url in urls}) == 2
    for url in urls:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_sixteen_at_once(provider: EmbeddedProvider, tmp_path: Path, tracker: BudgetTracker) -> None:
    """Sixteen calls in a loop and sixteen in threads each reach the provider once, and get their own answer."""
    provider.script(Behaviour(delay=0.5))
    adapter = adapter_at(provider.anthropic_url, tmp_path)

    async def gathered() -> list[LLMResponse]:
        calls = (adapter.async_execute_prompt("hi", config(tracker)) for _ in range(16))
        return list(await asyncio.gather(*calls))

    responses = asyncio.run(gathered())
    with ThreadPoolExecutor(16) as pool:
        responses += pool.map(lambda _: adapter.execute_prompt("hi", config(tracker)), range(16))
    assert len(responses) == provider.meter.calls == 32
    assert tracker.spent == provider.meter.total_tokens
    assert len({response.metadata["request_id"] for response in responses}) == 32


# --- what is sent on ---


def test_the_request_is_the_commands_own(raw: RawServer, tmp_path: Path, ask: Ask) -> None:
    """Its body and headers arrive as they were, under the provider's own host and path; of the relay nothing does."""
    lines = f"{NOTE}note(os.environ['ANTHROPIC_BASE_URL'])\nanswered(ask('/v1/messages?beta=true', mark='é')[1])"
    response = ask(adapter_at(f"{raw.url}/claude/", tmp_path, lines), "hi")
    assert response.usage.total_tokens == 10
    (request,) = raw.requests
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines_seen = head.decode().split("\r\n")
    assert first == "POST /claude/v1/messages?beta=true HTTP/1.1"
    headers = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in lines_seen}
    assert len(headers) == len(lines_seen)
    assert headers["host"] == f"127.0.0.1:{raw.port}"
    assert (headers["connection"], headers["accept-encoding"]) == ("close", "identity")
    assert (headers["x-api-key"], headers["content-type"]) == (KEY, "application/json")
    assert json.loads(body)["mark"] == "é"
    assert seen(tmp_path).rpartition("/")[2].encode() not in request


def test_megabytes_both_ways(raw: RawServer, tmp_path: Path, ask: Ask) -> None:
    """A request and a reply of many megabytes pass whole. (PROVIDER-12)"""
    lines = f"{NOTE}body = ask(mark='x' * 9_000_000)[1]\nnote(len(body))\nanswered(body)"
    reply = json.dumps({**json.loads(USAGE), "mark": "y" * 9_000_000}).encode()
    raw.reply = good(reply)
    ask(adapter_at(raw.url, tmp_path, lines), "hi")
    assert seen(tmp_path) == len(reply)
    assert b"x" * 9_000_000 in raw.requests[0]


def test_a_reply_is_passed_on_as_it_comes(provider: EmbeddedProvider, tmp_path: Path, ask: Ask) -> None:
    """The command has the first bytes while the provider is still writing. (CALL-2)"""
    lines = """
import http.client, urllib.parse
url = urllib.parse.urlsplit(os.environ["ANTHROPIC_BASE_URL"])
connection = http.client.HTTPConnection(url.hostname, url.port)
message = {"role": "user", "content": "hi"}
body = json.dumps({"model": "m", "max_tokens": 20, "stream": True, "messages": [message]})
connection.request("POST", url.path + "/v1/messages", body, {"x-api-key": os.environ["ANTHROPIC_API_KEY"]})
assert connection.getresponse().read1(1)
print(json.dumps({"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn"}))
"""
    provider.script(Behaviour(drip=3600.0))
    assert ask(adapter_at(provider.anthropic_url, tmp_path, lines), "hi").finish_reason == "stop"


# --- what comes back ---


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + good(USAGE),
        b"HTTP/1.0 200 OK\r\n\r\n" + USAGE,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(USAGE), USAGE),
        b"HTTP/1.1 201 Created\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n" + USAGE,
    ],
    ids=["interim", "to the end", "chunked", "keep-alive"],
)
def test_a_good_reply_in_any_form_is_passed_on(raw: RawServer, tmp_path: Path, ask: Ask, reply: bytes) -> None:
    """However the provider marks its end, the command reads the reply. (CALL-1)"""
    raw.reply = reply
    assert ask(adapter_at(raw.url, tmp_path), "hi").usage.total_tokens == 10


ERROR = b'{"type": "error", "error": {"type": "not_found_error", "message": "no such thing"}}'


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 404 Not Found\r\nrequest-id: r1\r\ncontent-length: %d\r\n\r\n%b" % (len(ERROR), ERROR),
        b"HTTP/1.1 404 Not Found\r\nrequest-id: r1\r\n\r\n" + ERROR,
        b"HTTP/1.1 404\r\nrequest-id: r1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (ERROR[:5], len(ERROR) - 5, ERROR[5:]),
    ],
    ids=["length", "to the end", "chunked"],
)
def test_an_error_is_read_whole_and_not_shown_to_the_command(
    raw: RawServer, tmp_path: Path, tracker: BudgetTracker, ask: Ask, reply: bytes
) -> None:
    """The provider's own error ends the call, so that the command cannot try to get around it. (CALL-5, WIRE-7)"""
    raw.reply = reply
    lines = f"{NOTE}note('before')\nnote(ask())\nnote(ask())"
    with pytest.raises(LLMAPIError, match="no such thing") as caught:
        ask(adapter_at(raw.url, tmp_path, lines), "hi", config(tracker))
    assert (caught.value.status_code, caught.value.request_id) == (404, "r1")
    assert caught.value.response_body == {"type": "not_found_error", "message": "no such thing"}
    assert seen(tmp_path) == "before"
    assert len(raw.requests) == 1
    assert outcome(tracker) == "released"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"hello",
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"SSH-2.0 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: y",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 404 No\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 404 No\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 404 No\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 404 No\r\ncontent-length: 99999999\r\n\r\n",
        b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal",
        b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 404 No\r\n\r\n" + b"y" * 1_100_000,
    ],
)
def test_a_reply_that_is_none_may_have_been_billed(
    raw: RawServer, tmp_path: Path, tracker: BudgetTracker, reply: bytes
) -> None:
    """What does not come whole, or is no HTTP, is a connection that broke; it is presumed. (WIRE-11)"""
    raw.reply = reply
    with pytest.raises(LLMConnectionError, match="broke before the whole reply"):
        adapter_at(raw.url, tmp_path).execute_prompt("hi", config(tracker))
    assert len(raw.requests) == 1
    assert outcome(tracker) == "presumed"


def test_a_provider_may_refuse_before_it_has_read(raw: RawServer, tmp_path: Path, tracker: BudgetTracker) -> None:
    """An error that comes while the request is still being sent is the error of the call."""
    raw.reply, raw.early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n", True
    with pytest.raises(LLMAPIError, match="send a shorter prompt"):
        adapter_at(raw.url, tmp_path, "ask(mark='x' * 5_000_000)").execute_prompt("hi", config(tracker))
    assert outcome(tracker) == "released"


octets = st.binary(max_size=80) | st.lists(
    st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"content-length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n"])
    | st.sampled_from([b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b": \r\n", b"\xff"]),
    max_size=8,
).map(b"".join)


@settings(max_examples=150, deadline=None, database=None)
@given(octets)
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    """Whatever comes over the connection is read to an end, or is a BadMessage. (WIRE-5)"""
    read: list[object] = []

    def reads(stream: Stream) -> Strand:
        try:
            head = yield from stream.head()
            read.extend((head.headers, (yield from stream.body(head, 1000)), head.status))
        except BadMessage as bad:
            read.append(bad)

    one, other = socket.socketpair()
    with one, other, Strands() as strands:
        other.sendall(data)
        other.shutdown(socket.SHUT_WR)
        one.setblocking(False)
        strands.start(reads(Stream(one)))
        strands.run(lambda: bool(read), Deadline.after(10))


# --- reaching the provider ---


@pytest.mark.parametrize(
    "base_url",
    [
        *("", " ", "api.anthropic.com", "//host/path", "ftp://host", "http://", "http:///path", "file:///etc"),
        *("http://host:0", "http://host:99999", "http://host:x", "http://[::1", "http://ho st", "http://host/\r\nx: y"),
        *("http://user:secret@host", "http://host?x=1", "http://host#x", "http://hôst"),
    ],
)
def test_a_base_url_that_is_none_is_refused_at_once(base_url: str, tmp_path: Path) -> None:
    """The constructor says what an address looks like, and does not repeat what it was given."""
    if not base_url.strip():
        base_url = "http://"
    with pytest.raises(LLMConfigurationError, match=r"https://host/path") as caught:
        adapter_at(base_url, tmp_path)
    assert "secret" not in str(caught.value)


def test_an_endpoint_is_read_from_its_address() -> None:
    """Port, prefix and the brackets of an IPv6 address are where they belong."""
    assert Endpoint.of("https://gateway.example/claude/") == Endpoint(
        True, "gateway.example", 443, "gateway.example", "/claude"
    )
    assert Endpoint.of("http://[::1]:8080") == Endpoint(False, "::1", 8080, "[::1]:8080", "")


def test_without_a_base_url_the_relay_goes_to_anthropic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a key the command is always behind the relay; with a login only where a base_url is given. (PROVIDER-20)"""
    path = stand_in(tmp_path, "")
    anthropic = Endpoint(True, "api.anthropic.com", 443, "api.anthropic.com", "")
    assert ClaudeCodeAdapter(api_key=KEY, cli_path=path)._endpoint == anthropic
    assert ClaudeCodeAdapter(login=True, cli_path=path)._endpoint is None
    assert ClaudeCodeAdapter(login=True, cli_path=path, base_url="http://host")._endpoint is not None
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://host")
    assert ClaudeCodeAdapter(login=True, cli_path=path)._endpoint is not None


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a..b"])
def test_an_unknown_name_costs_nothing(tmp_path: Path, tracker: BudgetTracker, ask: Ask, host: str) -> None:
    """Where the name of the provider is not known, no command is started. (WIRE-11)"""
    adapter = adapter_at(f"http://{host}", tmp_path, f"{NOTE}note('started')")
    with pytest.raises(LLMConnectionError, match="No connection could be made"):
        ask(adapter, "hi", config(tracker))
    assert not (tmp_path / "seen").exists()
    assert outcome(tracker) == "released"


def test_a_closed_port_costs_nothing(tmp_path: Path, tracker: BudgetTracker, ask: Ask) -> None:
    """A connection that cannot be made is told from one that broke. (WIRE-11)"""
    with raw_server() as gone:
        url = gone.url
    with pytest.raises(LLMConnectionError, match=r"No connection could be made \(ConnectionRefusedError"):
        ask(adapter_at(url, tmp_path), "hi", config(tracker))
    assert outcome(tracker) == "released"


def test_a_name_with_two_addresses(raw: RawServer, tmp_path: Path, ask: Ask) -> None:
    """Of the addresses of a name, here those of `localhost`, one that takes the connection is enough."""
    ask(adapter_at(f"http://localhost:{raw.port}", tmp_path), "hi")
    assert len(raw.requests) == 1


def test_an_address_that_never_answers_keeps_no_other_waiting(raw: RawServer) -> None:
    """All addresses of a name are tried at once."""
    made: list[Stream] = []
    kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")

    def connects(silent: int) -> Strand:
        ports = (silent, raw.port)
        made.append((yield from connected([(*kind, ("127.0.0.1", port)) for port in ports], None)))

    with ExitStack() as stack, Strands() as strands:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        strands.start(connects(full.getsockname()[1]))
        strands.run(lambda: bool(made), Deadline.after(10))
        made[0].close()


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the certificate of the tests be trusted from here on."""
    return lambda: monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "certificate.pem"))


def test_https_is_spoken_to_whom_is_trusted(tmp_path: Path, ask: Ask, trusting: Callable[[], None]) -> None:
    """Behind a certificate for its name the provider is reached, with megabytes both ways."""
    trusting()
    with raw_server(tls=True) as secured:
        secured.reply = good(json.dumps({**json.loads(USAGE), "mark": "y" * 2_000_000}).encode())
        lines = "answered(ask(mark='x' * 2_000_000)[1])"
        response = ask(adapter_at(f"https://localhost:{secured.port}", tmp_path, lines), "hi")
        assert response.usage.total_tokens == 10
        assert b"x" * 2_000_000 in secured.requests[0]


def test_certificates_may_be_named_after_the_first_call(
    tmp_path: Path, ask: Ask, trusting: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of each call counts, as with the adapters over HTTP. (PROVIDER-40)"""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with raw_server(tls=True) as secured:
        secured.reply = good(USAGE)
        adapter = adapter_at(f"https://localhost:{secured.port}", tmp_path, "answered(ask()[1])")
        with pytest.raises(LLMConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(adapter, "hi", RunConfig(max_retries=0))
        trusting()
        assert ask(adapter, "hi").usage.total_tokens == 10


@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("127.0.0.1", True)])
def test_nothing_is_sent_to_whom_is_not_trusted(
    tmp_path: Path, tracker: BudgetTracker, ask: Ask, trusting: Callable[[], None], host: str, trusted: bool
) -> None:
    """An unknown certificate, or one for another name, is a connection that was not made. (PROVIDER-4, WIRE-11)"""
    if trusted:
        trusting()
    with raw_server(tls=True) as secured:
        with pytest.raises(LLMConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(adapter_at(f"https://{host}:{secured.port}", tmp_path), "hi", config(tracker))
        assert (secured.connections, secured.requests) == (0, [])
    assert outcome(tracker) == "released"
