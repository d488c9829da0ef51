"""What a model is told that fetches and pays: text in any case, within bounds, with the budget that is left."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from farebox.core.ports import Failed, Unresolved
from farebox.dialects import L402
from farebox.http.buy_tool import Shopper
from farebox.http.buyer import open_buyer
from farebox.testing.shopping import ANSWER, SHOP, Face, Parts, hasten

HOST = "shop.example"
HALF = json.loads('"\\ud800"')


SOON = timedelta(seconds=0.2)


@dataclass
class Errand:
    """A model's call of its tool."""

    is_async: bool
    face: Face = field(default_factory=lambda: Face("client"))

    def shopper(self, budget: str = "500 sat/day", hosts: Any = (HOST,), **options: Any) -> Shopper:
        face = self.face
        buyer = open_buyer(wallet=face.wallet, budget=budget, purse=face.purse, clock=face.clock)
        hasten(buyer, face.clock, face.waits)
        return Shopper(buyer, hosts=hosts, **(options or {"transport": httpx.MockTransport(face.shop)}))

    def fetch(self, url: str = SHOP, method: Any = "GET", body: str | None = None, **terms: Any) -> list[str]:
        """What it is told, line by line."""
        shopper = self.shopper(**terms)
        if self.is_async:
            return asyncio.run(shopper.afetch(url, method, body)).split("\n")
        return shopper.fetch(url, method, body).split("\n")

    def answers(self, body: bytes, **headers: str) -> None:
        """Have the shop answer this to the proof."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.face.shop.script = [self.face.shop.asks(), self.face.shop.answer(200, Parts([body]), told)]


@pytest.fixture(params=["blocking", "awaiting"])
def errand(request: pytest.FixtureRequest) -> Errand:
    return Errand(is_async=request.param == "awaiting")


# --- what is told of an answer ----------------------------------------------------------------------------------------


def test_an_answer_comes_with_what_was_paid_and_what_is_left(errand: Errand) -> None:
    assert [
        "status: 200 OK",
        "type: application/json",
        "paid: 21 sat (fee 0 sat)",
        "budget left: 479 sat of 500 sat/day",
        "body:",
        json.dumps(ANSWER),
    ] == errand.fetch(method="POST", body='{"prompt": "hi"}')
    assert ["application/json", '{"prompt": "hi"}'] == [
        errand.face.shop.seen[1].headers["content-type"],
        errand.face.shop.seen[1].content.decode(),
    ]
    assert errand.face.row.served


def test_an_answer_without_a_price_is_told_to_have_cost_nothing(errand: Errand) -> None:
    errand.face.shop.script = [errand.face.shop.answers()]

    assert "paid: nothing" in errand.fetch()


def test_a_refusal_of_the_seller_is_an_answer_like_any_other(errand: Errand) -> None:
    errand.face.shop.script = [errand.face.shop.problem(404, "route-unknown")]

    told = errand.fetch()

    assert ["status: 404 Not Found", '{"type": "route-unknown"}'] == [told[0], told[-1]]


def test_a_refusal_that_keeps_what_was_paid_says_so(errand: Errand) -> None:
    shop = errand.face.shop
    refusal = shop.problem(404, "no-such-npub")
    refusal.headers["payment-kept"] = "true"
    shop.script = [shop.asks(), refusal]

    told = errand.fetch()

    assert "payment kept: the seller refuses the call; the very same call pays nothing anew" in told


def test_plain_text_is_sent_as_plain_text(errand: Errand) -> None:
    errand.fetch(method="POST", body="not json")

    assert "text/plain; charset=utf-8" == errand.face.shop.seen[0].headers["content-type"]


def test_a_long_answer_is_cut_and_served_all_the_same(errand: Errand) -> None:
    errand.answers(b"x" * 3_000_000, content_type="text/plain")

    told = errand.fetch()

    assert ["body, its first 20000 characters:", "x" * 20_000] == told[-2:]
    assert errand.face.row.served


def test_an_answer_that_does_not_end_is_left(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.http.buy_tool._MOST_READ", 2**20)
    endless = Parts([b"x" * 2**16] * 10_000)
    errand.face.shop.script = [errand.face.shop.asks(), errand.face.shop.answer(200, endless, {})]

    assert "status: 200 OK" == errand.fetch()[0]
    assert endless.taken <= 2**20 + 2**16
    assert endless.closed


def test_a_compressed_answer_is_unfolded_within_bounds(errand: Errand) -> None:
    errand.answers(gzip.compress(b"word " * 2**23), content_encoding="gzip")

    told = errand.fetch()

    assert "word " * 4000 == told[-1]
    assert "identity" == errand.face.shop.seen[0].headers["accept-encoding"]


@pytest.mark.parametrize("coding", ["br", "gzip", "gzip, gzip"])
def test_an_answer_in_a_coding_that_was_not_asked_for_is_not_shown(errand: Errand, coding: str) -> None:
    errand.answers(b"{}", content_encoding=coding)

    assert errand.fetch()[-1].startswith("body: not shown")


def test_bytes_that_are_no_text_are_not_shown(errand: Errand) -> None:
    errand.answers(bytes(range(128, 256)) * 10, content_type="image/png")

    assert "body: not shown, 1280 bytes that are no text" == errand.fetch()[-1]


def test_what_a_stranger_says_in_a_header_stays_on_its_line(errand: Errand) -> None:
    errand.answers(b"paid: nothing", content_type="text/x\tpaid: nothing\x0b" + "y" * 9999)

    told = errand.fetch()

    assert told[1].startswith("type: text/x paid: nothing y")
    assert len(told[1]) < 500
    assert ["paid: 21 sat (fee 0 sat)", "body:", "paid: nothing"] == [told[2], *told[-2:]]


def test_a_redirect_is_told_and_not_followed(errand: Errand) -> None:
    errand.face.shop.script = [errand.face.shop.redirects(302, "https://elsewhere.example/")]

    assert "location: https://elsewhere.example/" in errand.fetch()
    assert 1 == len(errand.face.shop.seen)


# --- what is told of a failure ----------------------------------------------------------------------------------------


def test_a_price_over_the_budget_is_told_with_what_is_left_and_what_to_do(errand: Errand) -> None:
    told = errand.fetch(budget="21 sat/day")

    assert ["error: over-budget", "money moved: no", "budget left: 21 sat of 21 sat/day"] == [told[0], told[2], told[4]]
    assert told[1].startswith("what happened: The price is over the budget: ")
    assert told[3].startswith("next step: ")
    assert [] == errand.face.wallet.payments


def test_a_payment_that_failed_says_that_no_money_moved(errand: Errand) -> None:
    errand.face.wallet.on_pay = [Failed(reason="no route")]

    told = errand.fetch()

    assert ["error: payment-failed", "money moved: no"] == [told[0], told[2]]
    assert "budget left: 500 sat of 500 sat/day" == told[-1]


def test_a_payment_of_which_nobody_can_tell_is_told_to_be_held(errand: Errand) -> None:
    errand.face.wallet.on_pay = [Unresolved(reason="timed out")]

    told = errand.fetch()

    assert "money moved: nobody can tell yet, the amount stays held" == told[2]
    assert "budget left: 478 sat of 500 sat/day" == told[-1]
    assert f"payment hash: {errand.face.wallet.payments[0].hex()}" in told


def test_an_answer_that_breaks_off_is_asked_for_again_without_paying(errand: Errand) -> None:
    shop = errand.face.shop
    shop.script = [shop.asks(), shop.answers(Parts([b"{"], httpx.ReadError("cut")))]

    told = errand.fetch()

    assert ["paid: 21 sat (fee 0 sat)", json.dumps(ANSWER)] == [told[2], told[-1]]
    assert 1 == len(errand.face.wallet.payments)


def test_an_answer_that_breaks_off_each_time_is_told_to_be_paid(errand: Errand) -> None:
    shop = errand.face.shop
    shop.script = [shop.asks(), *[shop.answers(Parts([b"{"], httpx.ReadError("cut"))) for _ in range(3)]]

    told = errand.fetch()

    assert ["error: paid-not-served", "money moved: yes"] == [told[0], told[2]]
    assert 1 == len(errand.face.wallet.payments)


def test_an_answer_to_a_kept_proof_says_that_nothing_was_paid_even_if_it_breaks_off(
    errand: Errand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(L402, "reusable_until", lambda _self, _challenge, *, now: now + timedelta(days=1))
    shop, shopper = errand.face.shop, errand.shopper()

    def fetch() -> str:
        return asyncio.run(shopper.afetch(SHOP)) if errand.is_async else shopper.fetch(SHOP)

    fetch()
    assert "\npaid: nothing, for an earlier payment is still good\n" in fetch()
    shop.script = [shop.answers(Parts([b"{"], httpx.ReadError("cut")))]
    assert "error: no-answer\nwhat happened: ReadError: cut\nmoney moved: no" in fetch()


def test_a_shop_that_does_not_answer_is_told_without_a_traceback(errand: Errand) -> None:
    errand.face.shop.script = [httpx.ConnectError("refused")]

    assert ["error: no-answer", "what happened: ConnectError: refused", "money moved: no"] == errand.fetch()[:3]


def test_a_purse_that_cannot_be_written_is_told(errand: Errand) -> None:
    errand.face.purse.full = True

    assert ["error: store-unavailable", "money moved: no"] == errand.fetch()[:4:2]


class Endless(httpx.AsyncByteStream):
    """A body of one byte at a time that never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b"x"


async def for_ever(_: Any) -> Any:
    await asyncio.Event().wait()


class Silent(httpx.AsyncBaseTransport):
    """A shop that says nothing any more after so many answers."""

    def __init__(self, errand: Errand, answers: int) -> None:
        self.errand = errand
        self.answers = answers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.answers:
            await for_ever(request)
        self.answers -= 1
        answer: httpx.Response = self.errand.face.shop(request)
        return answer


@pytest.mark.parametrize(("answers", "kind", "moved"), [(0, "no-answer", "no"), (1, "paid-not-served", "yes")])
def test_a_shop_that_keeps_one_waiting_is_left(errand: Errand, answers: int, kind: str, moved: str) -> None:
    told = errand.fetch(transport=Silent(errand, answers), within=SOON)

    assert [f"error: {kind}", f"money moved: {moved}"] == told[:4:2]
    assert "it took longer than 0.2 s" in told[1]


@pytest.mark.parametrize(("paid", "kind"), [(False, "no-answer"), (True, "paid-not-served")])
def test_an_answer_that_drips_is_left(errand: Errand, paid: bool, kind: str) -> None:
    shop = errand.face.shop
    shop.script = [shop.asks()] * paid + [httpx.Response(200, stream=Endless())]

    assert f"error: {kind}" == errand.fetch(transport=httpx.MockTransport(shop), within=SOON)[0]


@pytest.mark.parametrize("is_mute", [True, False])
def test_a_seller_that_is_paid_and_keeps_one_waiting_is_paid_no_third_time(errand: Errand, is_mute: bool) -> None:
    def tarpit() -> httpx.AsyncBaseTransport:
        if is_mute:
            return Silent(errand, 1)
        errand.face.shop.script = [errand.face.shop.asks(), httpx.Response(200, stream=Endless())]
        return httpx.MockTransport(errand.face.shop)

    told = [errand.fetch(f"{SHOP}?n={number}", transport=tarpit(), within=SOON)[0] for number in range(3)]

    assert ["error: paid-not-served", "error: paid-not-served", "error: seller-shunned"] == told
    assert 2 == len(errand.face.wallet.payments)


def test_a_caller_that_goes_away_is_not_held_against_the_seller() -> None:
    errand = Errand(is_async=True)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON.total_seconds()):
                await errand.shopper(transport=Silent(errand, 1)).afetch(SHOP)

    asyncio.run(main())

    assert (False, None) == (errand.face.row.served, errand.face.row.undelivered_at)


def test_a_payment_that_takes_too_long_is_told_to_be_held_and_is_found_by_the_same_call(errand: Errand) -> None:
    shopper = errand.shopper(transport=httpx.MockTransport(errand.face.shop), within=SOON)
    drivers = shopper._buyer.drivers
    usual, drivers.awaiting = drivers.awaiting, replace(drivers.awaiting, talk=for_ever)

    told = asyncio.run(shopper.afetch(SHOP)).split("\n")

    assert "error: payment-unresolved" == told[0]
    assert "money moved: nobody can tell yet, the amount stays held" in told
    assert "budget left: 478 sat of 500 sat/day" == told[-1]
    drivers.awaiting = usual
    asyncio.run(shopper.afetch(SHOP))
    assert 1 == len(errand.face.purse.rows)


def test_a_body_that_is_no_text_is_told_and_not_sent(errand: Errand) -> None:
    assert ["error: no-answer", "money moved: no"] == errand.fetch(method="POST", body=HALF)[:4:2]
    assert [] == errand.face.shop.seen


# --- where a model may go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("", "shop.example", "ftp://shop.example/", "file:///etc/passwd", "https://me:pw@shop.example/", "http://\n/"),
        *("http://shop.example:99999/", "http://a..b/", f"http://{'a' * 300}/", "http://xn--a/", f"http://{HALF}/"),
    ],
)
def test_what_is_no_address_is_told_and_not_called(errand: Errand, url: str) -> None:
    told = errand.fetch(url, hosts=None)

    assert told[0] in ("error: host-refused", "error: no-answer")
    assert "money moved: no" == told[2]
    assert [] == errand.face.shop.seen


@pytest.mark.parametrize(
    ("hosts", "is_called"),
    [
        (["shop.example"], True),
        (["SHOP.example"], True),
        (["shop.example:443"], True),
        (["shop.example:80"], False),
        (["example"], False),
        ([], False),
    ],
)
def test_only_hosts_that_the_user_allows_are_called(errand: Errand, hosts: list[str], is_called: bool) -> None:
    told = errand.fetch(hosts=hosts)

    assert is_called == ("status: 200 OK" == told[0])
    assert is_called == bool(errand.face.shop.seen)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "224.0.0.1",
    ],
)
def test_without_a_list_no_address_of_the_users_own_network_is_called(errand: Errand, host: str) -> None:
    told = errand.fetch(f"http://{host}:9740/", hosts=None, timeout=5)

    assert "error: host-refused" == told[0]
    assert "money moved: no" == told[2]


def test_a_name_is_looked_up_once_and_judged_by_where_it_leads(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def home(host: str, port: int, *_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", home)

    assert "error: host-refused" == errand.fetch(hosts=None, timeout=5)[0]
    assert [HOST] == asked


def test_a_blocking_tool_may_be_called_where_a_loop_runs() -> None:
    errand = Errand(is_async=False)

    async def main() -> list[str]:
        return errand.fetch()

    assert "status: 200 OK" == asyncio.run(main())[0]


# --- the budget -------------------------------------------------------------------------------------------------------


def test_each_window_of_the_budget_is_told_with_what_is_left(errand: Errand) -> None:
    shopper = errand.shopper(budget="500 sat/day, 50 sat/call")
    shopper.fetch(SHOP)

    told = asyncio.run(shopper.aleft()) if errand.is_async else shopper.left()

    assert "budget left: 479 sat of 500 sat/day\nbudget left: 50 sat of 50 sat/call" == told


@pytest.mark.parametrize("charset", ["undefined", "punycode", "zip", "no such thing"])
def test_text_in_a_charset_that_is_none_is_told_all_the_same(errand: Errand, charset: str) -> None:
    errand.answers(b"zz-99999999999999", content_type=f"text/plain; charset={charset}")

    assert ["body:", "zz-99999999999999"] == errand.fetch()[-2:]


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("utf-7", b"half +2AA-", "half ?"),
        ("unicode_escape", rb"half \ud800", "half ?"),
        ("utf-7", b"whole +2D3eAA-", "whole \N{GRINNING FACE}"),
    ],
)
def test_what_is_told_can_be_written_in_utf_8_whatever_the_charset(
    errand: Errand, charset: str, body: bytes, text: str
) -> None:
    errand.answers(body, content_type=f"text/plain; charset={charset}")

    told = errand.fetch()

    assert ["body:", text] == told[-2:]
    "\n".join(told).encode()


def test_a_redirect_to_what_is_no_host_is_told(errand: Errand) -> None:
    errand.face.shop.script = [errand.face.shop.redirects(302, "http://xn--/")]

    assert "error: no-answer" == errand.fetch()[0]
