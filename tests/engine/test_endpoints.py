"""Addresses: where requests go, and whether that is the provider's own place."""

from __future__ import annotations

import pytest

from llm_connect.engine.endpoints import base_url_from, host_of, same_endpoint

OWN = "https://api.example.com/v1"


@pytest.mark.parametrize(
    "address",
    [OWN, f"{OWN}/", "HTTPS://API.Example.COM/v1", "https://api.example.com:443//v1//", " https://api.example.com./v1"],
)
def test_the_same_place_in_other_letters(address: str) -> None:
    """Case, the default port, dots and slashes make no other place. (PROVIDER-41)"""
    assert same_endpoint(address, OWN)
    assert host_of(address) == "api.example.com"


@pytest.mark.parametrize(
    "address",
    ["http://api.example.com/v1", "https://api.example.com:8443/v1", "https://api.example.com/V1", f"{OWN}?x=1"],
)
def test_another_place(address: str) -> None:
    """Scheme, port, path and a query do. (PROVIDER-41)"""
    assert not same_endpoint(address, OWN)


@pytest.mark.parametrize("address", ["http://api.openai.com/v1", "https://api.openai.com:444/v1"])
def test_another_way_to_a_host_is_not_the_providers_own(address: str) -> None:
    """Without TLS, or at another port, anybody may answer in its name. (PROVIDER-41)"""
    assert host_of(address) == ""


@pytest.mark.parametrize("address", ["", "x", "ftp://h", "https://", "https://[", "https://h:99999"])
def test_what_is_no_address_is_no_place(address: str) -> None:
    """Nothing raises, and nothing is the same as what is none."""
    assert not same_endpoint(address, address)
    assert host_of(address) == ""


def test_what_is_blank_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument counts first, then the variables in turn; blanks around them are dropped. (PROVIDER-41)"""
    monkeypatch.setenv("LLM_CONNECT_FIRST", " \n")
    monkeypatch.setenv("LLM_CONNECT_SECOND", " https://b ")
    names = ("LLM_CONNECT_NONE", "LLM_CONNECT_FIRST", "LLM_CONNECT_SECOND")
    assert base_url_from(" https://a", *names) == "https://a"
    assert base_url_from(" ", *names) == base_url_from(None, *names) == "https://b"
    assert base_url_from(None, *names[:2]) is None
