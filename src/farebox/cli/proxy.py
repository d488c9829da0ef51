"""`farebox proxy`: the wallet, the budget and the purse on one side, programs with a token on the other.

Rules
1. Only this machine is listened to, unless the operator says otherwise.
2. The token is printed to standard output, which is what the command is for, and cut out of every log.
3. On SIGTERM or Ctrl-C it hears nobody new, and answers whom it is answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import secrets
import signal
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final

import httpx
import structlog

from farebox.cli.books import found_wallet, purse_place, wallet_needed
from farebox.cli.config import host_and_port
from farebox.cli.listening import listening_socket, url_of
from farebox.cli.logs import configure, log_what_nobody_catches
from farebox.cli.output import as_usage, say, tell
from farebox.cli.policy import finish_earlier, open_by_policy
from farebox.cli.state import write_private
from farebox.cli.sub_purses import tell_change
from farebox.core.budget import Budget
from farebox.core.errors import ConfigError, UsageError
from farebox.core.host import is_loopback
from farebox.core.purse_token import KEY_BYTES, PurseToken
from farebox.core.secret import Secret
from farebox.http.buy import AsyncClient
from farebox.http.buyer import Buyer
from farebox.http.forward.authority import Authority
from farebox.http.forward.proxy import ForwardProxy
from farebox.http.forward.reach import CheckedTransport, Reach
from farebox.http.forward.server import ForwardServer
from farebox.http.forward.target import Here
from farebox.stores.engine import utc_now

log = structlog.get_logger("farebox")

_EXAMPLE: Final = "127.0.0.1:8403"
_LOCAL: Final = ("127.0.0.1", "[::1]", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    purse: str
    limit: str | None
    budget: str
    time_zone: str | None
    most: str | None
    approve_above: str | None
    approval_wait_s: float
    listen: str
    public: bool
    authority: bool
    domains: tuple[str, ...]
    allow: tuple[str, ...]
    allow_private: bool
    deny: tuple[str, ...]
    upstream_ca: Path | None
    timeout_s: float
    state_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where it listens."""

    host: str
    port: int
    is_public: bool

    @property
    def url(self) -> str:
        return url_of(self.host, self.port)

    def here(self) -> Here:
        named = self.url.removeprefix("http://")
        return Here(names=None if self.is_public else frozenset((named, *(f"{each}:{self.port}" for each in _LOCAL))))

    def own(self) -> frozenset[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
        hosts = [each.strip("[]") for each in (self.host, *_LOCAL) if each != "localhost"]
        return frozenset((ipaddress.ip_address(host), self.port) for host in hosts)


def run_proxy(wanted: Wanted, *, wallet_url: str | None, folder: Path, log_level: str) -> None:
    """Serve until a signal says to stop. Raises ConfigError, WalletError, MalformedBudget, StoreUnavailable."""
    with as_usage():
        host, port = host_and_port("--listen", wanted.listen, _EXAMPLE)
    host = "127.0.0.1" if host == "localhost" else host
    is_public = _checked_public(host, allowed=wanted.public)
    wallet = wallet_needed(found_wallet(wallet_url, folder))
    buyer = open_by_policy(
        wallet=wallet,
        budget=wanted.budget,
        time_zone=wanted.time_zone,
        max=wanted.most,
        purse=purse_place(folder),
        approve_above=wanted.approve_above,
        approval_patience=timedelta(seconds=wanted.approval_wait_s),
    )
    with contextlib.closing(buyer):
        token = _token(buyer, wanted)
        configure(log_level, known=[Secret(token), *([Secret(wallet_url)] if wallet_url else [])])
        log_what_nobody_catches()
        authority = kept_authority(folder, wanted.domains) if wanted.authority else None
        with contextlib.closing(listening_socket(host, port)) as bound:
            place = _Place(host=host, port=bound.getsockname()[1], is_public=is_public)
            with as_usage():
                reach = Reach(allow=wanted.allow, deny=wanted.deny, private=wanted.allow_private, own=place.own)
            transport = CheckedTransport(reach, tls=_believed(wanted.upstream_ca))

            async def serve() -> None:
                timeout = httpx.Timeout(wanted.timeout_s, connect=min(10.0, wanted.timeout_s))
                nothing = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # cookies are the callers' business
                async with AsyncClient(
                    buyer=buyer, transport=transport, trust_env=False, timeout=timeout, cookies=nothing
                ) as client:
                    proxy = ForwardProxy(
                        client=client,
                        here=place.here(),
                        tunnels=authority.vouches_for if authority else lambda _: False,
                    )
                    end, earlier = _told_to_end(), asyncio.create_task(finish_earlier(buyer))
                    _announce(wanted, place, token, _certificate_file(folder) if authority else None)
                    log.info("proxying", url=place.url, purse=wanted.purse, https=authority is not None)
                    await ForwardServer(proxy, authority=authority).serve(bound, until=end)
                    earlier.cancel()

            asyncio.run(serve())


def _checked_public(host: str, *, allowed: bool) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise UsageError(f"--listen is an address and a port, such as {_EXAMPLE}, not a name") from None
    is_public = not is_loopback(host)
    if is_public and not allowed:
        raise UsageError(
            f"{host} can be reached by others, and tokens go to the proxy in plain text; say --public if you mean it"
        )
    return is_public


def _token(buyer: Buyer, wanted: Wanted) -> str:
    """The token of the sub-purse, which is made, or given other limits, if need be."""
    purse = buyer.drivers.purse
    known = next((each for each in purse.purses() if each.name == wanted.purse), None)
    if known is not None and known.revoked_at is not None:
        raise UsageError(f"the purse {wanted.purse} was revoked; name another one with --purse")
    if known is None or wanted.limit is not None:
        if wanted.limit is None:  # what is said of a host or a tag holds over all calls in any case
            limits = [window for window in buyer.budget.windows if not window.label]
        else:
            limits = list(Budget.read(wanted.limit, buyer.zone).windows)
        before, known = known, purse.add_purse(wanted.purse, limits, Secret(secrets.token_bytes(KEY_BYTES)))
        tell_change(before, known)
    return PurseToken.mint(known.name, known.key).reveal()


def _believed(more: Path | None) -> ssl.SSLContext:
    """Whom servers are believed by."""
    context = httpx.create_ssl_context(trust_env=False)
    if more is not None:
        try:
            context.load_verify_locations(more)
        except OSError as error:  # ssl's errors are such
            raise UsageError(f"--upstream-ca: {more} can't be used: {error.strerror or error}") from None
    return context


def _told_to_end() -> asyncio.Event:
    """An event that SIGINT, SIGTERM and SIGHUP set, however often they come: the process ends in good order."""
    end, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell_end(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so it is ending
            loop.call_soon_threadsafe(end.set)

    for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name == "posix" else [])):
        signal.signal(number, tell_end)
    return end


# --- the authority ----------------------------------------------------------------------------------------------------


def _certificate_file(folder: Path) -> Path:
    return folder / "proxy-ca.pem"


def kept_authority(folder: Path, domains: Sequence[str]) -> Authority:
    """The one in the state folder, made if there is none yet or if it is about to run out. Raises ConfigError."""
    file = folder / "proxy-ca.key"
    domains = tuple(domain.lower().removeprefix("*.").strip(".") for domain in domains)
    if file.exists():
        authority = Authority(_read_private(file), clock=utc_now)
        if sorted(authority.domains) != sorted(domains):
            told = ", ".join(authority.domains) or "every host"
            raise ConfigError(f"the authority in {file} is for {told}; take the file away, and another one is made")
        if not authority.runs_out:
            return authority
        tell("the authority of the proxy was about to run out: there is a new one, to be trusted in its place")
    pem = Authority.make(domains=domains, clock=utc_now)
    authority = Authority(pem, clock=utc_now)
    write_private(file, pem.decode())
    write_private(_certificate_file(folder), authority.certificate_pem())
    return authority


def _read_private(file: Path) -> bytes:
    try:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise ConfigError(f"others can read the key in {file}; make it yours alone: chmod 600 {file}")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from None


# --- what the operator is told ----------------------------------------------------------------------------------------


def _announce(wanted: Wanted, place: _Place, token: str, certificate: Path | None) -> None:
    """Lines to paste, on standard output, and the same in a file for other programs."""
    through = place.url.replace("http://", f"http://purse:{token}@")
    for line in _lines(place, token, through, certificate):
        say(line)
    if wanted.state_file is not None:
        state = {
            "proxy": place.url,
            "http_proxy": through,
            "pay": f"{place.url}/pay/",
            "token": token,
            "purse": wanted.purse,
            "ca": str(certificate) if certificate else None,
        }
        write_private(wanted.state_file, json.dumps(state))


def _lines(place: _Place, token: str, through: str, certificate: Path | None) -> Iterator[str]:
    yield f"# a proxy that pays at {place.url}; stop with Ctrl-C"
    yield f"export http_proxy={through} HTTP_PROXY={through}"
    if certificate is not None:
        yield f"export https_proxy={through} HTTPS_PROXY={through}"
        yield (
            f"export SSL_CERT_FILE={certificate} REQUESTS_CA_BUNDLE={certificate} CURL_CA_BUNDLE={certificate} "
            f"NODE_EXTRA_CA_CERTS={certificate}  # for programs that go through the proxy"
        )
    yield f"curl -H 'Farebox-Purse: {token}' {place.url}/pay/https://host/path"
    yield f"curl -H 'Farebox-Purse: {token}' {place.url}/budget"
