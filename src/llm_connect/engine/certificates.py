"""Trusted certificates, and the error for one that is not trusted."""

from __future__ import annotations

import os
import ssl
from functools import cache

import httpx2

from llm_connect.engine.http_options import Verify
from llm_connect.errors import LLMConfigurationError
from llm_connect.protocols.wire import Failure


class CertificateRefused(httpx2.ConnectError):
    """TLS did not accept the certificate of a provider or proxy, so nothing was sent."""

    @property
    def failure(self) -> Failure:
        """Not retryable: the certificate will be the same."""
        return Failure(kind=LLMConfigurationError, message=str(self), maybe_billed=False)


def told_of_certificate(error: httpx2.ConnectError, request: httpx2.Request) -> httpx2.ConnectError:
    """Return CertificateRefused if `error` is about a certificate, else `error` itself."""
    reason = reason_in(error)
    if reason is None:
        return error
    return CertificateRefused(
        f"The certificate of {request.url.host} was not accepted ({reason}), and nothing was sent: name the file of "
        "the CA that signed it by verify= or the environment variable SSL_CERT_FILE."
    )


def reason_in(failed: BaseException) -> str | None:
    """OpenSSL's reason for not accepting a certificate; None if the error is about something else."""
    error: BaseException | None = failed
    while error is not None:
        # The error of aiohttp is one, too, but gives no reason.
        inner: BaseException = getattr(error, "certificate_error", error)
        if isinstance(inner, ssl.SSLCertVerificationError):
            return getattr(inner, "verify_message", "") or "certificate verify failed"
        error = inner.__cause__ or inner.__context__
    return None


def trusted(verify: Verify) -> ssl.SSLContext:
    """Return the context for `verify`. True means SSL_CERT_FILE and SSL_CERT_DIR, else the roots of certifi."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, bool):
        return _made(verify, os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None)
    path = os.fspath(verify)
    return _made(True, None, path) if os.path.isdir(path) else _made(True, path, None)


@cache
def _made(is_verified: bool, file: str | None, directory: str | None) -> ssl.SSLContext:
    """Make it once, because loading the roots takes longer than a call."""
    if not is_verified or not (file or directory):
        return httpx2.create_ssl_context(verify=is_verified, trust_env=False)
    try:
        return ssl.create_default_context(cafile=file, capath=directory)
    except (OSError, ssl.SSLError) as error:
        raise LLMConfigurationError(
            f"The certificates at {file or directory!r} could not be read ({type(error).__name__}): "
            "check verify=, SSL_CERT_FILE and SSL_CERT_DIR."
        ) from None
