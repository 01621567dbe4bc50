"""Clients that send a request as it is, and do no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llm_connect.engine import http
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.http_options import DEFAULT_OPTIONS
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.engine.heads import obeying
from tests.transports import TRANSPORTS, Transport, choose

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
AUTH = {"authorization": "Bearer key"}


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """What carries async calls."""
    choose(request.param, monkeypatch)
    return request.param  # type: ignore[no-any-return]


def address(provider: EmbeddedProvider) -> str:
    return f"{provider.openai_url}/chat/completions"


def test_a_response_is_whole_and_knows_its_request(provider: EmbeddedProvider) -> None:
    """The SDKs ask a response for its body, its status and its request."""
    with http.sync_client(1, headers=AUTH) as client:
        response = client.post(address(provider), json=BODY)
    assert response.json()["choices"]
    assert response.request.url == address(provider)
    response.raise_for_status()


@pytest.mark.usefixtures("transport")
async def test_an_async_response_is_whole_and_knows_its_request(provider: EmbeddedProvider) -> None:
    """The same for the async form, over each transport."""
    async with http.async_client(1, headers=AUTH) as client:
        response = await client.post(address(provider), json=BODY)
    assert response.json()["choices"]
    assert response.request.url == address(provider)
    response.raise_for_status()


@pytest.mark.usefixtures("transport")
async def test_a_long_response_is_whole_as_well(provider: EmbeddedProvider) -> None:
    """One that may be over a limit is measured on its way, and arrives as it was sent. (CALL-43)"""
    body = b'"%s"' % (b"a" * (DEFAULT_OPTIONS.short + 1))
    provider.script(Behaviour(body=body), times=2)
    with http.sync_client(1, headers=AUTH) as client:
        assert client.post(address(provider), json=BODY).content == body
    async with http.async_client(1, headers=AUTH) as aclient:
        assert (await aclient.post(address(provider), json=BODY)).content == body


def parts(request: httpx2.Request) -> Any:
    """What a server and a transport see of a request."""
    headers = sorted((name.lower(), value) for name, value in request.headers.raw)
    return request.method, str(request.url), headers, request.read(), request.extensions


KEY = {"X-Key": "key", "Content-Type": "text/plain"}
ADDRESS = "http://host:8080/a%20b?c=d"
FORMS: list[dict[str, Any]] = [
    {"method": "post", "url": ADDRESS, "headers": KEY, "content": b"abc"},
    {"method": "POST", "url": ADDRESS, "headers": list(KEY.items()), "content": "\u00e4", "params": None},
    {"method": "POST", "url": httpx2.URL(ADDRESS), "headers": KEY, "content": b"a" * 100_000, "timeout": None},
    {"method": "PUT", "url": ADDRESS, "headers": {**KEY, "X-Key": "another"}, "content": b""},
    {"method": "POST", "url": ADDRESS, "headers": {**KEY, "Authorization": "mine"}, "content": b"abc"},
    {"method": "POST", "url": ADDRESS, "headers": httpx2.Headers(KEY), "content": b"abc"},
    {"method": "POST", "url": ADDRESS, "headers": KEY, "json": BODY},
    {"method": "POST", "url": ADDRESS, "headers": KEY, "content": b"abc", "params": {"e": "f"}},
    {"method": "POST", "url": ADDRESS, "headers": KEY, "content": b"abc", "timeout": 5},
    {"method": "POST", "url": ADDRESS, "content": b"abc"},
    {"method": "GET", "url": ADDRESS, "headers": KEY},
]


@pytest.mark.parametrize("kind", [http.sync_client, http.async_client])
def test_a_request_is_what_httpx2_makes_of_it(kind: Any) -> None:
    """However it is asked for, and whatever was asked for before: no request has anything of another."""
    client = kind(1, headers=AUTH)
    of_httpx2 = super(type(client).__mro__[1], client).build_request
    for form in (*FORMS, *reversed(FORMS)):
        assert parts(client.build_request(**form)) == parts(of_httpx2(**form)), form


@pytest.mark.parametrize("kind", [http.sync_client, http.async_client])
def test_headers_that_http_implies_are_left_out(kind: Any) -> None:
    """Each header costs time, and HTTP/1.1 means the same without these two; one that a caller gives is sent."""
    client = kind(1, headers=AUTH)
    assert {"accept", "connection"}.isdisjoint(client.build_request(**FORMS[0]).headers)
    asked = client.build_request("POST", ADDRESS, headers={"Accept": "text/event-stream"}, content=b"")
    assert asked.headers["accept"] == "text/event-stream"


def test_few_headers_are_kept() -> None:
    """A key that is new in each call does not let a client grow."""
    client = http.sync_client(1)
    for number in range(200):
        sent = client.build_request("POST", ADDRESS, headers={"X-Key": str(number)}, content=b"abc")
        assert sent.headers["X-Key"] == str(number)
    assert len(client._joined) <= 64  # type: ignore[attr-defined]
    client.close()


@pytest.mark.usefixtures("transport")
async def test_no_redirect_is_followed_whatever_is_wished(provider: EmbeddedProvider) -> None:
    """An SDK that asks for it does not get the prompt sent on. (CALL-5)"""
    provider.script(Behaviour(redirect=f"{provider.openrouter_url}/chat/completions"))
    with http.sync_client(1, headers=AUTH) as client:
        assert client.post(address(provider), json=BODY, follow_redirects=True).status_code == 307
    async with http.async_client(1, headers=AUTH) as aclient:
        assert (await aclient.post(address(provider), json=BODY, follow_redirects=True)).status_code == 307
    assert len(provider.requests) == 2


def test_cookies_are_not_kept(provider: EmbeddedProvider) -> None:
    """What a provider sets for one call does not go along with the next."""
    provider.script(Behaviour(headers={"set-cookie": "a=b"}))
    with http.sync_client(1, headers=AUTH) as client:
        for _ in range(2):
            client.post(address(provider), json=BODY)
    assert "cookie" not in provider.requests[1].headers


@pytest.mark.usefixtures("transport")
async def test_a_body_that_breaks_gives_its_connection_back(provider: EmbeddedProvider) -> None:
    """With room for one connection, the next request gets one. (CALL-8)"""
    provider.script(Behaviour(cut=20), times=2)
    with http.sync_client(1, headers=AUTH) as client, obeying(Deadline.after(20)):
        with pytest.raises(httpx2.TransportError):
            client.post(address(provider), json=BODY)
        async with http.async_client(1, headers=AUTH) as aclient:
            with pytest.raises(httpx2.TransportError):
                await aclient.post(address(provider), json=BODY)
            assert (await aclient.post(address(provider), json=BODY)).status_code == 200
        assert client.post(address(provider), json=BODY).status_code == 200


@pytest.mark.usefixtures("transport")
async def test_a_closed_client_sends_nothing(provider: EmbeddedProvider) -> None:
    """It would open a connection that nobody closes."""
    client, aclient = http.sync_client(1), http.async_client(1)
    client.close()
    await aclient.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        client.post(address(provider), json=BODY)
    with pytest.raises(RuntimeError, match="closed"):
        await aclient.post(address(provider), json=BODY)
    assert provider.requests == []
