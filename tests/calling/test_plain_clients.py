"""Clients that send a request as it is, and do no more than that."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from llm_connect.calling import http
from llm_connect.calling.deadline import Deadline
from llm_connect.testing import Behaviour, EmbeddedProvider
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
    with http.sync_client(1, headers=AUTH) as client, http.socket_deadline(Deadline.after(20)):
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
