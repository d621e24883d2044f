"""Requests to one registry that are let in, led on, and repeated where that may help.

Rule 1: Authorization goes to the registry's own scheme, host and port, and never elsewhere; where a redirect leads
        away, it is left out, and stays out.
Rule 2: each try starts at the URL of the registry: where it sends us to is good for minutes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import urljoin

from composefs import limits
from composefs.errors import ConnectionLostError, RegistryError
from composefs.registry.challenge import Challenge, parse_challenges
from composefs.registry.connection import READ_TIME, Answer, Request, send
from composefs.registry.endpoint import Endpoint
from composefs.registry.failures import refusal, without_secrets
from composefs.registry.pauses import PAUSES, backoff, retry_after, spread
from composefs.registry.tokens import Tokens, check_realm
from composefs.registry.urls import url_host, url_origin
from composefs.text import printable

TRIES = 5
_FIRST_BACKOFF = 1.0  # seconds
_FIRST_PAUSE = 2.0  # seconds, after 429
_HOPS = 10  # redirects in a row
REDIRECTS = (301, 302, 303, 307, 308)
_TOO_MANY = 429
PASSING = (408, _TOO_MANY, 500, 502, 503, 504)  # statuses that may be others the next time
_NOTICES = 100  # different ones of a registry
_HEADERS = {"User-Agent": "composefs"}
_WARNING = re.compile(r'299[ \t]+\S+[ \t]+"((?:[^"\\]|\\.)*)"')

_log = logging.getLogger(__name__)

Notice = Callable[[str], object]
Wait = Callable[[float], object]  # waits for some seconds; raises to end what is waiting


class Session:
    """Requests to *endpoint*.  Threads may share it.

    Args:
        endpoint: the registry.
        tokens: what is known of how to get in.
        on_notice: told, once each, what the user should know: pauses, and warnings of the registry; by default a log.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tokens: Tokens,
        on_notice: Notice | None = None,
    ) -> None:
        self.endpoint, self.tokens = endpoint, tokens
        self._on_notice = on_notice

    def request(
        self,
        method: str,
        location: str,
        *,
        what: str,
        scopes: tuple[str, ...],
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | None = None,
        body_size: int = 0,
        max_size: int | None = None,
        patience: float = READ_TIME,
        tries: int = TRIES,
        wait: Wait = time.sleep,
    ) -> Answer:
        """Return the answer to a request, whose status is one of *expected*; it has to be closed.

        Args:
            method: of HTTP.
            location: path and query at the registry, or a URL that it gave.
            what: for messages: what is asked for.
            scopes: what the request needs, such as `repository:a/b:pull`.
            expected: statuses to return; also redirects, which are followed otherwise.
            headers: more of them.
            body: what to send; gone through again for each try.
            body_size: bytes of the body.
            max_size: read the answer, but not much more than so many bytes, and close it: a document.
            patience: seconds to wait for the answer.
            tries: how often to ask, if that may help.
            wait: waits for some seconds; raises to end what is waiting.

        Raises:
            AuthenticationError: the registry wants other credentials, or grants less than that.
            RegistryError: it cannot be reached, or answers otherwise.
        """
        self.enter(wait)
        url = urljoin(f"{self.tokens.scheme}://{self.endpoint.address}", location)
        is_led = not location.startswith("/")
        request = Request(method, url, what, {**_HEADERS, **(headers or {})}, body, body_size, patience, wait, is_led)
        return self._repeat(request, lambda: self._let_in(request, scopes, expected), expected, tries, max_size)

    def ask_anyone(
        self, url: str, *, what: str, expected: Collection[int], headers: Mapping[str, str], wait: Wait
    ) -> Answer:
        """Return the answer of whoever is at *url*, who is shown no credentials; errors are those of `request`."""
        request = Request("GET", url, what, {**_HEADERS, **headers}, wait=wait)
        return self._repeat(request, lambda: self._led(request, expected), expected)

    def enter(self, wait: Wait = time.sleep) -> None:
        """Find out how the registry wants to be spoken to, if that is not known.

        Raises:
            RegistryError: it does not answer, or is none.
        """
        with self.tokens.lock:
            if self.tokens.scheme is None:
                self._find_scheme(wait)

    def _find_scheme(self, wait: Wait) -> None:
        try:
            url_origin(f"https://{self.endpoint.address}")
        except ValueError:
            raise RegistryError("this is no HOST[:PORT]", self.endpoint.address) from None
        if not self.endpoint.plain_http:
            self._ping("https", TRIES, wait)
            return
        try:
            self._ping("https", 1, wait)
        except RegistryError as error:
            if error.status in PASSING:  # it does speak TLS, so nothing else is spoken to it
                self._ping("https", TRIES, wait)
                return
            try:
                self._ping("http", TRIES, wait)
            except RegistryError as second:
                if second.what == error.what:
                    raise
                raise type(second)(
                    f"{error.what}; without TLS, {second.what}", second.host, second.status, second.code
                ) from None

    def _ping(self, scheme: str, tries: int, wait: Wait) -> None:
        request = Request("GET", f"{scheme}://{self.endpoint.address}/v2/", "GET /v2/", _HEADERS, wait=wait)
        answer = self._repeat(request, lambda: self._led(request, (200, 401)), (200, 401), tries)
        answer.discard()
        if url_origin(answer.url) == request.origin:  # nobody else says where our password goes
            self.tokens.learn(_challenges(answer))
        self.tokens.scheme = scheme

    def _ask_for_token(self, request: Request, wait: Wait) -> Answer:
        def check(url: str) -> None:
            check_realm(url, self.endpoint, self.tokens.scheme or "https")

        expected = (200, 404) if request.method == "POST" else (200,)
        request = replace(request, headers={**_HEADERS, **request.headers}, wait=wait)
        return self._repeat(
            request, lambda: self._led(request, expected, check), expected, max_size=limits.REGISTRY_ERROR_SIZE
        )

    def _let_in(self, request: Request, scopes: tuple[str, ...], expected: Collection[int]) -> Answer:
        """Ask with what lets us in; if it no longer does, or the registry wants more rights, with a new token, once."""
        registry = url_origin(f"{self.tokens.scheme}://{self.endpoint.address}")
        was_renewed = was_asked_again = False
        while True:
            authorization = self.tokens.authorization(
                self.endpoint, scopes, partial(self._ask_for_token, wait=request.wait)
            )
            mine = request
            if authorization.header is not None and request.origin == registry:
                mine = replace(request, headers={**request.headers, "Authorization": authorization.header})
            answer = self._led(mine, expected)
            is_own = url_origin(answer.url) == registry
            was_led_away = url_origin(answer.url) != request.origin
            if was_led_away or answer.status < 400:
                self.tokens.prove(authorization)
            if answer.status in (401, 403) and is_own and not was_renewed:
                challenges = _challenges(answer)
                wanted = _insufficient(challenges)
                may_help = authorization.is_proven or (authorization.header is None and challenges)
                if wanted or (answer.status == 401 and may_help):
                    answer.discard()
                    self.tokens.reject(authorization)
                    self.tokens.learn(challenges)
                    scopes = (*wanted, *(scope for scope in scopes if scope not in wanted))
                    was_renewed = True
                    continue
            if answer.status in (400, 401, 403) and was_led_away and not was_asked_again:
                answer.discard()  # it was signed too long ago, perhaps
                was_asked_again = True
                continue
            return answer

    def _led(
        self,
        request: Request,
        expected: Collection[int],
        check: Callable[[str], None] | None = None,
    ) -> Answer:
        """Follow redirects, and return the first answer that is none, or is one of *expected*."""
        for _ in range(_HOPS + 1):
            PAUSES.wait(url_host(request.url), request.wait)
            answer = send(request, self.endpoint.tls, self.endpoint.proxies)
            self._show_warnings(answer)
            location = answer.header("Location")
            if answer.status not in REDIRECTS or answer.status in expected or location is None:
                return answer
            answer.discard()
            request = self._redirected(request, location, answer.status)
            if check is not None:
                check(request.url)
        raise RegistryError(f"{request.what}: more than {_HOPS} redirects", url_host(request.url))

    def _redirected(self, request: Request, location: str, status: int) -> Request:
        host = url_host(request.url)
        if request.method not in ("GET", "HEAD") and (status not in (307, 308) or request.body is not None):
            raise RegistryError(f"{request.what}: a redirect of {request.method}, which is not followed", host, status)
        try:
            url = urljoin(request.url, location)
            origin = url_origin(url)
        except ValueError:
            raise RegistryError(f"{request.what}: a redirect to what is no URL of HTTP", host, status) from None
        if request.origin[0] == "https" and origin[0] != "https":
            raise RegistryError(f"{request.what}: a redirect from HTTPS to HTTP, {url_host(url)}", host, status)
        headers = dict(request.headers)
        if origin != request.origin:
            headers.pop("Authorization", None)
        return replace(request, url=url, headers=headers, is_led=True)

    def _repeat(
        self,
        request: Request,
        attempt: Callable[[], Answer],
        expected: Collection[int],
        tries: int = TRIES,
        max_size: int | None = None,
    ) -> Answer:
        """Return what *attempt* gives, once that is not a failure that may pass."""
        for failures in range(1, tries + 1):
            try:
                answer = attempt()
                if answer.status in expected:
                    if max_size is not None:
                        answer.load(max_size)
                    return answer
            except ConnectionLostError as error:
                if failures == tries:
                    raise
                self._notice(f"{error}; trying again")
                request.wait(backoff(failures, _FIRST_BACKOFF))
                continue
            seconds = self._pause_after(answer, failures)
            if failures == tries or answer.status not in PASSING:
                raise self._refused(answer)
            if answer.status != _TOO_MANY:  # of which the pause tells
                self._notice(f"{answer.host}: {request.what}: {answer.status}; trying again")
            answer.discard()
            request.wait(seconds)
        raise AssertionError

    def _pause_after(self, answer: Answer, failures: int) -> float:
        """Return how many seconds to wait before the next try, if there is one; after 429, everybody has to."""
        asked = retry_after(answer.header("Retry-After"), answer.header("Date"))
        is_too_much = answer.status == _TOO_MANY
        seconds = backoff(failures, _FIRST_PAUSE if is_too_much else _FIRST_BACKOFF) if asked is None else spread(asked)
        if is_too_much and PAUSES.pause(answer.host, seconds):
            self._notice(f"{answer.host}: too many requests (429); all streams to it wait {seconds:.0f} s")
        return seconds

    def _refused(self, answer: Answer) -> RegistryError:
        try:
            if answer.status == 416:  # docker-registry 2.8 says the size of the blob, and sends 33 bytes
                answer.close()
            else:
                answer.load(limits.REGISTRY_ERROR_SIZE)
        except ConnectionLostError:
            answer.close()
        credentials = self.endpoint.credentials
        remedy = ""
        if answer.status in (401, 403):
            remedy = "; asked without credentials" if credentials is None else "; credentials are configured"
        secrets = self._secrets(answer)
        return refusal(answer.status, answer.body, what=answer.what, host=answer.host, secrets=secrets, remedy=remedy)

    def _secrets(self, answer: Answer) -> tuple[str, ...]:
        """Return what *answer* may repeat, and nobody is to see."""
        return (*self.tokens.secrets(self.endpoint.credentials), *answer.secrets)

    def _show_warnings(self, answer: Answer) -> None:
        for header in answer.all_headers("Warning"):
            for text in _WARNING.findall(header):
                shown = printable(without_secrets(text, self._secrets(answer))[:200].encode("utf-8", "replace"))
                self._notice(f"{answer.host} warns: {shown}")

    def _notice(self, text: str) -> None:
        said = self.tokens.said
        if text not in said and len(said) < _NOTICES:
            said.add(text)
            if self._on_notice is not None:
                self._on_notice(text)
            else:
                _log.warning("%s", text)


def _challenges(answer: Answer) -> tuple[Challenge, ...]:
    return parse_challenges(answer.all_headers("WWW-Authenticate"))


def _insufficient(challenges: Iterable[Challenge]) -> tuple[str, ...]:
    """Return the scopes that a registry misses in a token."""
    for challenge in challenges:
        if challenge.parameters.get("error") == "insufficient_scope":
            return tuple(challenge.parameters.get("scope", "").split())
    return ()
