"""`farebox call`: one HTTP call, paid for if need be.

The answer goes to standard output and what it cost to standard error, so that it can stand in a pipe.

Rules
1. Where the answer is to go is looked at before anything is sent.
2. A payment of which nobody can tell is waited for, and never made a second time. Whatever stops the call meanwhile,
   the same command finds it again.
3. A paid answer that breaks off is asked for again with the same proof.
4. With -c, a download that is whole already is left as it is: nothing is sent for it.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from farebox.cli.books import found_wallet, purse_place, wallet_needed
from farebox.cli.call_place import AnotherAnswer, Download, Place, Printed, Remembered, check_output, is_whole
from farebox.cli.call_request import Wanted, read_request
from farebox.cli.call_told import tell_answer, tell_whole
from farebox.cli.call_wait import Told, ToldWallet, stopped, wait_for_outcome
from farebox.cli.output import Exit, complain, complaint
from farebox.cli.policy import open_by_policy
from farebox.core.allowance import UNNARROWED
from farebox.core.errors import ConfigError, PaidNotServed, PaymentUnresolved, UsageError
from farebox.core.ports import Wallet
from farebox.core.purse import Purse
from farebox.core.purse_token import PREFIX
from farebox.http.buy import Client
from farebox.http.buy_wire import check_place, read_call
from farebox.http.buyer import Buyer
from farebox.http.converse import trust
from farebox.payer import Bought
from farebox.payer.spending import spending, spending_under

_MOST_TRIES = 4  # of a paid answer that breaks off


def call_once(wanted: Wanted, *, wallet_url: str | None, folder: Path) -> Exit:
    """Make the call and give its answer. Raises PurchaseError, ConfigError, MalformedValue, StoreUnavailable."""
    began = time.monotonic()
    request = read_request(wanted)
    if wanted.most is not None and _is_paid_for_by_a_proxy(request.url.host):
        why = "http_proxy leads to a farebox proxy, which pays within limits of its own: --max says nothing to it"
        raise UsageError(f"{why}; unset it, or leave --max out. Nothing was sent")
    told = Told(quiet=wanted.quiet, verbose=wanted.verbose)
    if wanted.output is not None:
        check_output(wanted.output)
        if wanted.resume and is_whole(wanted.output):
            return tell_whole(wanted, told, wanted.output)
    wallet = found_wallet(wallet_url, folder)
    if wallet is None:
        with open_plain(wanted, told) as client, network_told(wanted):
            taken = Taking(wanted, told, send=lambda it: _unpaid(client, it), key="").take(request)
            return tell_answer(wanted, told, *taken, began=began)
    with closing(buyer_of(wanted, told, ToldWallet(wallet, told), purse_place(folder))) as buyer:
        client = Client(buyer=buyer, **client_options(wanted, told))
        with client, narrowed(wanted, buyer), network_told(wanted):
            return _buy(wanted, told, client, buyer.drivers.purse, request, began)


def _buy(wanted: Wanted, told: Told, client: Client, purse: Purse, request: httpx.Request, began: float) -> Exit:
    digest = read_call(request).digest
    until = time.monotonic() + wanted.payment_timeout_s

    def send(asked: httpx.Request) -> httpx.Response:
        while True:
            try:
                with spelt():
                    return client.send(asked, stream=True)
            except PaymentUnresolved as unresolved:
                left_s = until - time.monotonic()
                told.say(f"the wallet can't tell yet whether it paid; waiting up to {max(0, round(left_s))} s for it")
                wait_for_outcome(unresolved, client.resume, within_s=left_s)

    try:
        key = digest.hex() if digest else ""
        taken = Taking(wanted, told, send=send, key=key).take(request)
    except KeyboardInterrupt:
        left = stopped(purse, digest)
        if left is None:
            raise
        raise left from None
    return tell_answer(wanted, told, *taken, began=began)


def _is_paid_for_by_a_proxy(host: str) -> bool:
    """Whether the environment has calls to this host go through a `farebox proxy`, with a token of it."""
    ways = getproxies()
    return not proxy_bypass(host) and any(f":{PREFIX}" in way for way in ways.values())


# --- the clients ------------------------------------------------------------------------------------------------------


def buyer_of(wanted: Wanted, told: Told, wallet: Wallet, purse: str | Path) -> Buyer:
    """A buyer as it is wanted, with the purse at this place.

    Raises MalformedBudget, MalformedAmount, ConfigError, StoreUnavailable.
    """
    buyer = open_by_policy(
        wallet=wallet,
        budget=wanted.budget,
        time_zone=wanted.time_zone,
        max=wanted.most,
        max_fee=wanted.most_fee,
        purse=purse,
        prefer=[prefer.dialect for prefer in wanted.prefer],
        approve_above=wanted.approve_above,
        approval_patience=timedelta(seconds=wanted.approval_wait_s),
    )
    tell_parked = buyer.drivers.blocking.ask_approval

    def ask_approval(number: int) -> None:
        told.say(f"parked: farebox approvals approve {number}")
        if tell_parked is not None:
            tell_parked(number)

    buyer.drivers.blocking = replace(buyer.drivers.blocking, ask_approval=ask_approval)
    return buyer


@contextmanager
def narrowed(wanted: Wanted, buyer: Buyer) -> Iterator[None]:
    """What is said of this call alone. Raises TokenRefused, MalformedAmount, MalformedValue."""
    by_token = UNNARROWED if wanted.token is None else buyer.admit(wanted.token)
    with spending_under(by_token), spending(tags=wanted.tags, accept_price=wanted.accept_price):
        yield


def client_options(wanted: Wanted, told: Told) -> dict[str, Any]:
    """How the HTTP client is to behave."""
    return {
        "timeout": wanted.timeout_s,
        "follow_redirects": wanted.most_redirects > 0,
        "max_redirects": wanted.most_redirects,
        "event_hooks": told.hooks(),
        "verify": _believed(),
    }


def _believed() -> ssl.SSLContext | bool:
    """Whom servers are believed by: those that are loaded for the wallet anyhow, or as the environment has it."""
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    return True if named else trust(httpx, None)


def open_plain(wanted: Wanted, told: Told) -> httpx.Client:
    """A client that pays for nothing."""
    client = httpx.Client(**client_options(wanted, told))
    client.event_hooks["request"].append(check_place)
    return client


def _unpaid(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """A call that costs nothing needs no wallet; one that does says how to name it."""
    with spelt():
        answer = client.send(request, stream=True)
    if answer.status_code == httpx.codes.PAYMENT_REQUIRED:
        answer.close()
        wallet_needed(None)
    return answer


@contextmanager
def network_told(wanted: Wanted) -> Iterator[None]:
    """Turns the HTTP client's errors into one line, or one JSON object, on standard error, and their exit code."""
    try:
        yield
    except (httpx.RequestError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        told = complaint(
            Exit.NETWORK,
            "network",
            title="The server can't be reached",
            detail=f"{wanted.url}: {reason}",
            moved=False,
            next_step="Make the same call again when it can be reached.",
            url=wanted.url,
        )
        complain(told, as_json=wanted.as_json)
        raise SystemExit(Exit.NETWORK) from None


@contextmanager
def spelt() -> Iterator[None]:
    """Sending: a redirect to a host or port that nobody can have raises InvalidURL, which says that it was one."""
    try:
        yield
    except (UnicodeError, httpx.InvalidURL) as error:
        raise httpx.InvalidURL(f"the server redirects to what is no address: {error}") from None


# --- the answer -------------------------------------------------------------------------------------------------------


class Taking:
    """Takes an answer whole, asking again for what was paid and broke off.

    send: gets an answer whose body is not read yet. key: tells the same call made again.
    """

    def __init__(
        self,
        wanted: Wanted,
        told: Told,
        *,
        send: Callable[[httpx.Request], httpx.Response],
        key: str,
    ) -> None:
        self._wanted = wanted
        self._told = told
        self._send = send
        self._out: Place = Remembered() if wanted.as_json else Printed(sys.stdout.buffer)
        self._file = self._file_of(wanted, key)
        self._headed = False

    @staticmethod
    def _file_of(wanted: Wanted, key: str) -> Place | None:
        file = wanted.output
        if file is None:
            return None
        if file.exists() and not file.is_file():  # such as /dev/null
            return Printed(file.open("wb", buffering=0))
        return Download(file, key=key, resume=wanted.resume)

    def take(self, request: httpx.Request) -> tuple[httpx.Response, Place]:
        """The answer, and where its body is. Raises PaidNotServed, and what `send` raises."""
        try:
            return self._take(request)
        finally:
            if isinstance(self._file, Download):
                self._file.leave()

    def _take(self, request: httpx.Request) -> tuple[httpx.Response, Place]:
        lost: httpx.RequestError | None = None
        first: Bought | None = None
        tries = 0
        while True:
            asked = request if self._file is None else self._file.asking(request)
            answer = self._send(asked)
            place = self._file if self._file is not None and answer.is_success else self._out
            with _closing(answer):
                bought: Bought = answer.extensions.get("farebox") or Bought()
                answer.extensions["farebox"] = bought = bought.again_after(first)
                first = first or bought
                try:
                    if not place.begins(answer):
                        continue  # once: from then on all of it is asked for
                    self._head(answer)
                    self._read(answer, place)
                    return answer, place
                except AnotherAnswer:
                    raise _broken(answer, place, "the answer that came again is another one") from None
                except ConfigError as error:  # it can't be put where it was to go
                    if bought.free:
                        raise
                    raise _broken(answer, place, error.detail or error.title) from None
                except httpx.RequestError as error:
                    lost, tries = error, tries + 1
                if bought.free:
                    raise lost
                if tries == _MOST_TRIES:
                    raise _broken(answer, place, f"the answer broke off after {place.size} bytes") from None
            self._told.say("the answer broke off; asking for it again with the same proof")

    def _read(self, answer: httpx.Response, place: Place) -> None:
        parts = answer.iter_bytes() if answer.is_stream_consumed else answer.iter_raw()  # as it came
        if not isinstance(place, Download):
            for part in parts:
                place.take(part)
        else:
            with self._told.counting(answer, begun=place.size) as count:
                for part in parts:
                    place.take(part)
                    count(place.size)
        place.finish()

    def _head(self, answer: httpx.Response) -> None:
        if not self._wanted.include or self._headed or not isinstance(self._out, Printed):
            return
        self._headed = True
        lines = [f"{answer.http_version} {answer.status_code} {answer.reason_phrase}".rstrip()]
        lines += [f"{name}: {value}" for name, value in answer.headers.multi_items()]
        self._out.head(lines)


def _broken(answer: httpx.Response, place: Place, reason: str) -> PaidNotServed:
    bought: Bought = answer.extensions["farebox"]
    error = PaidNotServed(reason, amount_msat=bought.paid.msat)
    if bought.payment_hash is not None:
        error.with_evidence(payment_hash=bought.payment_hash.hex())
    return error.with_evidence(part=str(place.part)) if isinstance(place, Download) else error


@contextmanager
def _closing(answer: httpx.Response) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(httpx.RequestError):
            answer.close()
