"""The head of a reply on the wire: where it ends, and whether it leaves open where the reply ends."""

from __future__ import annotations

import pytest

from llm_connect.engine import framing
from llm_connect.engine.framing import BadFraming, ReplyFrame
from llm_connect.errors import LLMConnectionError

USUAL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
#: No server begins a body so, and no client may take it for a second head.
LIKE_A_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
INFORMS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\nX: y\r\n\r\n"


def take(*pieces: bytes) -> tuple[bytes, bool]:
    """Read one reply that arrives in these pieces; return its bytes, and if there were any behind it."""
    frame = ReplyFrame()
    frame.is_due = True
    return b"".join(map(frame.take, pieces)), frame.overrun


def refusal_of(*pieces: bytes) -> str:
    """The reason for which a reply in these pieces is refused."""
    with pytest.raises(BadFraming) as caught:
        take(*pieces)
    return caught.value.what


def reply(*fields: str, status: str = "200 OK") -> bytes:
    """A reply with these fields in its head, and a body."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *fields, "", "body")).encode()


GOOD = {
    "a length": reply("Content-Length: 5"),
    "a length in zeros": reply("content-length:005"),
    "a length of 18 digits": reply(f"Content-Length: {'9' * 18}"),
    "chunks": reply("Transfer-Encoding: chunked"),
    "chunks in capitals": reply("TRANSFER-ENCODING:\t Chunked \t"),
    "neither": reply("Connection: close"),
    "an error": reply("Content-Length: 5", status="503 Busy"),
    "no reason": reply("Content-Length: 5", status="404"),
    "no content": reply(status="204 No Content"),
    "no content, which it says": reply("Content-Length: 0", status="204 No Content"),
    "HTTP/1.0": reply("Content-Length: 5").replace(b"1.1", b"1.0", 1),
    "line feeds alone": reply("Content-Length: 5", status="400 Bad").replace(b"\r\n", b"\n"),
}

BAD = {
    "says its length twice (Content-Length)": [
        reply("Content-Length: 5", "Content-Length: 5"),
        reply("Content-Length: 5, 5"),
        reply("Content-Length: 5", "X: y", "content-length: 6", status="500 Bad"),
    ],
    "says its length twice (Content-Length beside Transfer-Encoding)": [
        reply("Content-Length: 5", "Transfer-Encoding: chunked"),
        reply("Transfer-Encoding: chunked", "Content-Length: 5", status="429 Slow"),
    ],
    "has a Content-Length that is not a number of bytes": [
        reply("Content-Length: -5"),
        reply("Content-Length: 0x5"),
        reply("Content-Length: "),
        reply(f"Content-Length: {'9' * 19}"),
    ],
    "has a Transfer-Encoding other than chunked": [
        reply("Transfer-Encoding: gzip, chunked"),
        reply("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        reply("Transfer-Encoding: identity"),
    ],
    "announces content, which its status 204 rules out": [
        reply("Content-Length: 5", status="204 No Content"),
        reply("Transfer-Encoding: chunked", status="204 No Content"),
    ],
    "does not begin as one of HTTP/1.1": [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
    ],
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_head_that_says_where_its_reply_ends_is_taken(kind: str) -> None:
    """In one piece or byte by byte, a head as servers send it is not refused."""
    take(GOOD[kind])
    take(*(GOOD[kind][at : at + 1] for at in range(len(GOOD[kind]))))


@pytest.mark.parametrize("reason", BAD)
def test_a_head_that_leaves_open_where_its_reply_ends_is_refused(reason: str) -> None:
    """In one piece or byte by byte, two readers could take its end for different ones. (CALL-48)"""
    for bad in BAD[reason]:
        assert refusal_of(bad) == reason
        assert refusal_of(*(bad[at : at + 1] for at in range(len(bad)))) == reason


def test_nothing_behind_the_head_is_taken_for_one() -> None:
    """A body that looks like a bad head is a body, also after a head that came in pieces."""
    take(USUAL + LIKE_A_HEAD)
    take(USUAL, LIKE_A_HEAD)
    take(USUAL[:20], USUAL[20:] + LIKE_A_HEAD, LIKE_A_HEAD)


def test_each_reply_has_a_head_of_its_own() -> None:
    """The next request of a connection expects a head, and bytes before the first one are nobody's."""
    head = ReplyFrame()
    head.take(LIKE_A_HEAD)
    head.is_due = True
    head.take(USUAL)
    head.is_due = True
    with pytest.raises(BadFraming):
        head.take(LIKE_A_HEAD)


def test_a_head_that_informs_is_not_the_last_one() -> None:
    """The head that counts follows those of 1xx, however many bytes of each have come."""
    take(INFORMS + INFORMS + USUAL + LIKE_A_HEAD)
    assert refusal_of(INFORMS[:-2], INFORMS[-2:] + LIKE_A_HEAD).startswith("says its")
    assert refusal_of(INFORMS + INFORMS[:9], INFORMS[9:] + LIKE_A_HEAD[:30], LIKE_A_HEAD[30:]).startswith("says its")


@pytest.mark.parametrize("endless", [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20, INFORMS * 2, b"\r\n" + b"y" * 100])
def test_a_head_without_end_is_refused(endless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither fields nor heads of 1xx take more memory than one head may have; one byte less is taken."""
    monkeypatch.setattr(framing, "MOST_HEAD_BYTES", len(endless))
    take(endless)
    assert refusal_of(endless, b"x").startswith("is longer than")
    assert refusal_of(endless + b"x").startswith("is longer than")


@pytest.mark.parametrize(
    "long", [reply(*["X: y"] * 1_001), reply("X: " + "y" * 100 * 1024), reply(*["X: " + "y" * 200] * 600)]
)
def test_a_long_head_is_refused_though_it_ends(long: bytes) -> None:
    """However it arrives: the libraries that read heads have other limits, each its own. (CALL-48)"""
    for size in (len(long), 1 << 16, 100):
        assert refusal_of(*(long[at : at + size] for at in range(0, len(long), size))).startswith("is longer than")
    take(reply(*["X: y"] * 999))
    take(reply("X: " + "y" * 99_000))


def test_a_refused_head_is_the_servers_fault() -> None:
    """Its error says what to repair, and nobody sends the request again. (CALL-48)"""
    failure = BadFraming().failure
    assert failure.kind is LLMConnectionError
    assert failure.message.startswith("The head of the reply says its length twice (Content-Length), and is refused")
    assert "base_url" in failure.message
    assert not failure.retryable


CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nB;a=b\r\n, 0\r\n\r\nall.\r\n0\r\nX: y\r\n\r\n"
)
WHOLE = {
    "a length": USUAL + b"hello",
    "an error": b"HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nhello",
    "no content": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunks": CHUNKS,
    "chunks without fields behind them": CHUNKS.replace(b"X: y\r\n", b""),
    "behind others": INFORMS + USUAL + b"hello",
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("more", [b"\n", b"\r\n", b"x" * 70_000, USUAL + b"again", CHUNKS])
def test_bytes_behind_a_reply_are_cut_off(kind: str, more: bytes) -> None:
    """However the bytes arrive, those of the reply are kept, and none behind it. (PROVIDER-49)"""
    whole = WHOLE[kind]
    assert take(whole) == (whole, False)
    assert take(whole + more) == (whole, True)
    for at in range(1, len(whole)):
        assert take(whole[:at], whole[at:] + more) == (whole, True)
    assert take(*(whole[at : at + 1] for at in range(len(whole)))) == (whole, False)


@pytest.mark.parametrize(
    "body", [b"z\r\nhello", b"\r\n", b"-5\r\nhello", b"5 5\r\nhello", b"1" * 70_000, b"5\r\nhello\r\n" + b"1" * 70_000]
)
def test_broken_chunks_have_no_end(body: bytes) -> None:
    """They are left to the library that reads them, and take no memory. (PROVIDER-49)"""
    broken = CHUNKS[: CHUNKS.index(b"5\r\nhello")] + body
    assert take(broken, CHUNKS) == (broken + CHUNKS, False)


def test_a_reply_without_content_may_name_its_length() -> None:
    """A 304 names the length of what it does not send. (PROVIDER-49)"""
    said = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
    assert take(said) == (said, False)
