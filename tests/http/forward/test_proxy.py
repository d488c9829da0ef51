"""The proxy that pays: what passes through it, what it costs, and who is told what."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.purse_token import PurseToken
from farebox.core.secret import Secret
from farebox.http.forward.wire import Patience
from farebox.testing.raw_http import NotHttp

pytestmark = pytest.mark.anyio

PRICE = Amount.sats(21)
TOKEN = PurseToken.mint("agent", Secret(bytes(range(32)))).reveal().encode()  # of the agency's purse
BASIC = b"Proxy-Authorization: Basic " + b64encode(TOKEN + b":") + b"\r\n"
BEARER = b"Proxy-Authorization: Bearer %b\r\n" % TOKEN
OWN = b"Farebox-Purse: %b\r\n" % TOKEN
UPGRADE = b"Connection: upgrade\r\nUpgrade: WebSocket\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ASKED = b'{"prompt": "hi"}'


def post(
    target: bytes = b"http://shop.test/api/dvm",
    *,
    host: bytes = b"shop.test",
    fields: bytes = BASIC,
    body: bytes = ASKED,
) -> bytes:
    framing = b"" if b"Transfer-Encoding" in fields else b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n%b" % (target, host, fields, framing, body)


def get(target: bytes, *, host: bytes = b"shop.test", fields: bytes = BASIC, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, fields)


def problem(answer: Any) -> Any:
    assert [b"application/problem+json"] == answer.values(b"content-type")
    told = json.loads(answer.body)
    assert answer.status == told["status"]
    return told["type"].removeprefix("urn:farebox:problem:")


async def test_it_buys_what_is_asked_for_and_tells_what_it_cost(open_agency: Any) -> None:
    async with open_agency() as agency:
        told = await agency.hear(post())
        (answer,) = told.answers
        assert (200, {"result": "hi #1"}) == (answer.status, json.loads(answer.body))
        assert [b"21 sat"] == answer.values(b"farebox-paid")
        assert [b"0 sat"] == answer.values(b"farebox-fee")
        assert [b"479 sat"] == answer.values(b"farebox-budget-left")
        (purchase,) = agency.purse.history(9)
        assert [purchase.payment_hash.hex().encode()] == answer.values(b"farebox-payment-hash")
        assert (PRICE, True) == (await agency.earned(), purchase.served)


@pytest.mark.parametrize(("target", "host"), [(b"/pay/http://shop.test/api/dvm", b"127.0.0.1:8403")])
@pytest.mark.parametrize("fields", [BASIC, BEARER, OWN])
async def test_it_buys_behind_its_own_address_too(open_agency: Any, target: bytes, host: bytes, fields: bytes) -> None:
    async with open_agency() as agency:
        assert [200] == (await agency.hear(post(target, host=host, fields=fields))).statuses
        assert PRICE == await agency.earned()


async def test_a_server_hears_nothing_of_the_proxy_but_that_there_is_one(open_agency: Any) -> None:
    extra = b"Connection: X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nProxy-Connection: x\r\n"
    extra += b"Farebox-Max: 9\r\nX-Kept: yes\r\nAuthorization: Bearer mine\r\nExpect: 100-continue\r\n"
    async with open_agency() as agency:
        told = await agency.hear(post(fields=BASIC + extra), heads=1)
        assert [100, 200] == told.statuses
        for request in agency.sent:
            names = {name.lower() for name in request.headers}
            assert {"host", "via", "x-kept", "content-length", "authorization"} == names, names
            assert "shop.test" == request.headers["host"]
        assert "Bearer mine" == agency.sent[0].headers["authorization"]
        assert agency.sent[1].headers["authorization"].startswith("L402 ")


async def test_a_caller_hears_nothing_of_the_connection_to_the_server_nor_a_servers_word_on_money(
    open_agency: Any,
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"connection", b"x-hop"), (b"x-hop", b"1"), (b"farebox-paid", b"0 sat"), (b"x-kept", b"yes")]
        headers += [(b"proxy-authenticate", b"Basic"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async with open_agency(app) as agency:
        (answer,) = (await agency.hear(get(b"http://shop.test/"))).answers
        assert {b"x-kept", b"content-length", b"via"} == {name for name, _ in answer.fields}


@pytest.mark.parametrize("fields", [b"", b"Authorization: Bearer %b\r\n" % TOKEN, b"X-Farebox-Purse: %b\r\n" % TOKEN])
async def test_without_a_token_nothing_is_asked_and_nothing_is_spent(open_agency: Any, fields: bytes) -> None:
    async with open_agency() as agency:
        (answer,) = (await agency.hear(post(fields=fields))).answers
        assert (407, "token-refused") == (answer.status, problem(answer))
        assert 2 == len(answer.values(b"proxy-authenticate"))
        (answer,) = (
            await agency.hear(post(b"/pay/http://shop.test/api/dvm", host=b"127.0.0.1:8403", fields=fields))
        ).answers
        assert (401, "token-refused") == (answer.status, problem(answer))
        assert [b'Farebox-Purse realm="farebox"'] == answer.values(b"www-authenticate")
        assert "Farebox-Purse: TOKEN" in json.loads(answer.body)["next_step"]
        assert ([], NOTHING) == (agency.sent, await agency.earned())


async def test_a_token_that_is_not_good_is_told_so(open_agency: Any) -> None:
    async with open_agency() as agency:
        (answer,) = (await agency.hear(post(fields=b"Farebox-Purse: another\r\n"))).answers
        assert (407, "token-refused") == (answer.status, problem(answer))
        assert [] == agency.sent


async def test_what_is_over_the_budget_is_a_403_that_tells_why_and_never_a_402(open_agency: Any) -> None:
    async with open_agency(budget="30 sat/day") as agency:
        told = await agency.hear(post(), post(body=b'{"prompt": "more"}'))
        assert [200, 403] == told.statuses
        over = json.loads(told.answers[1].body)
        assert ("urn:farebox:problem:over-budget", False) == (over["type"], over["money_moved"])
        assert over["next_step"]
        assert PRICE == await agency.earned()


async def test_a_402_that_asks_for_nothing_payable_is_a_problem_too(open_agency: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 402, "headers": [(b"www-authenticate", b"Other x=1")]})
        await send({"type": "http.response.body", "body": b"pay me"})

    async with open_agency(app) as agency:
        (answer,) = (await agency.hear(get(b"http://shop.test/"))).answers
        assert (403, "challenge-unreadable") == (answer.status, problem(answer))


async def test_a_redirect_is_the_callers_to_follow(open_agency: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"location", b"http://evil.test/"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with open_agency(app) as agency:
        (answer,) = (await agency.hear(get(b"http://shop.test/"))).answers
        assert (307, [b"http://evil.test/"]) == (answer.status, answer.values(b"location"))
        assert ["http://shop.test/"] == [str(request.url) for request in agency.sent]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"http://evil.test/", [b"/pay/elsewhere/http://evil.test/"]),
        (b"https://evil.test:8443/a?b=c#d", [b"/pay/elsewhere/https://evil.test:8443/a?b=c#d"]),
        (b"//evil.test/x", [b"/pay/elsewhere/https://evil.test/x"]),
        (b"https://SHOP.test:443/a", [b"/pay/https://shop.test/a"]),
        (b"http://shop.test/a", [b"/pay/elsewhere/http://shop.test/a"]),
        (b"https://shop.test:8443/a", [b"/pay/elsewhere/https://shop.test:8443/a"]),
        (b"next?page=2", [b"/pay/https://shop.test/a/next?page=2"]),
        (b"/", [b"/pay/https://shop.test/"]),
        (b"ftp://evil.test/", []),
        (b"http:///", []),
        (b"http://evil.test:99999999/", [b"/pay/elsewhere/http://evil.test:99999999/"]),
        (b"http://\xff/", []),
    ],
)
async def test_a_redirect_of_what_stood_behind_the_prefix_leads_to_the_proxy_again(
    location: bytes, expected: list[bytes], open_agency: Any
) -> None:
    """Whoever follows it sends its token along, which is nothing for a seller to see."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"Location", location), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with open_agency(app) as agency:
        (answer,) = (await agency.hear(get(b"/pay/https://shop.test/a/b", host=b"127.0.0.1:8403", fields=OWN))).answers
        assert (307, expected) == (answer.status, answer.values(b"location"))


@pytest.mark.parametrize("led", [False, True])
async def test_where_a_redirect_led_to_another_origin_nothing_goes_along_by_which_the_caller_is_known(
    open_agency: Any, *, led: bool
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"location", b"/next"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    prefix, known = b"/pay/elsewhere/" if led else b"/pay/", {"authorization": "Bearer key", "cookie": "a=b"}
    fields = OWN + b"".join(f"{name}: {value}\r\n".encode() for name, value in {**known, "x-mine": "1"}.items())
    async with open_agency(app) as agency:
        asked = get(prefix + b"http://evil.test/", host=b"127.0.0.1:8403", fields=fields)
        (answer,) = (await agency.hear(asked)).answers
        (sent,) = agency.sent
        told = {name: sent.headers[name] for name in (*known, "x-mine") if name in sent.headers}
    assert ({} if led else known) | {"x-mine": "1"} == told
    assert [prefix + b"http://evil.test/next"] == answer.values(b"location")


@pytest.mark.parametrize("host", [b"xn--", b"xn--a.example", b"a" * 64 + b".com"])
@pytest.mark.parametrize("prefix", [b"", b"/pay/"])
async def test_a_host_that_nobody_can_have_is_refused(host: bytes, prefix: bytes, open_agency: Any) -> None:
    async with open_agency() as agency:
        target = prefix + b"http://" + host + b"/"
        heard = await agency.hear(get(target, host=b"127.0.0.1:8403", fields=OWN) if prefix else get(target, host=host))
        assert [(400, "malformed-request")] == [(answer.status, problem(answer)) for answer in heard.answers]


async def test_a_server_that_redirects_to_what_is_no_host_is_told_to_be_the_trouble(open_agency: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"location", b"http://xn--/"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 302, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with open_agency(app) as agency:
        (answer,) = (await agency.hear(get(b"http://shop.test/"))).answers
        assert 502 == answer.status


async def test_requests_in_one_go_are_answered_one_after_the_other(open_agency: Any) -> None:
    said = [post(body=b'{"prompt": "%d"}' % number) for number in range(50)]
    async with open_agency(budget="100 sat/day") as agency:
        told = await agency.hear(*said)
        assert [200] * 4 + [403] * 46 == told.statuses
        assert Amount.sats(84) == await agency.earned()


async def test_a_chunked_body_is_paid_for_like_any_other(open_agency: Any) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ASKED), ASKED)
    async with open_agency() as agency:
        assert [200] == (await agency.hear(post(fields=BASIC + CHUNKED, body=body))).statuses
        assert ASKED == agency.service.bodies[-1]


async def test_a_head_is_answered_without_a_body(open_agency: Any) -> None:
    async with open_agency() as agency:
        said = get(b"http://shop.test/free", method=b"HEAD"), get(b"http://shop.test/", fields=b"", method=b"HEAD")
        told = await agency.hear(*said, heads=2)
        assert [b""] * len(told.answers) == [answer.body for answer in told.answers]
        assert 407 == told.statuses[1]


async def test_an_old_caller_is_answered_and_let_go(open_agency: Any) -> None:
    said = post().replace(b"HTTP/1.1", b"HTTP/1.0")
    async with open_agency() as agency:
        assert [200] == (await agency.hear(said, said)).statuses


@pytest.mark.parametrize(
    ("said", "status", "kind"),
    [
        (get(b"http://shop.test/", method=b"TRACE"), 405, "method-unknown"),
        (get(b"http://shop.test/", fields=BASIC + UPGRADE), 501, "no-websockets"),
        (get(b"http://shop.test/", fields=BASIC + b"Prefer: wait=9, L402=require\r\n"), 403, "pays-by-itself"),
        (get(b"shop.test:443", host=b"shop.test:443", method=b"CONNECT"), 501, "no-tunnel"),
        (get(b"shop.test:25", host=b"shop.test:25", method=b"CONNECT"), 403, "port-refused"),
        (get(b"/", host=b"evil.test"), 400, "malformed-request"),
        (get(b"/else", host=b"127.0.0.1:8403"), 404, "route-unknown"),
        (get(b"/budget", host=b"127.0.0.1:8403", method=b"DELETE"), 405, "method-unknown"),
        (get(b"/budget", host=b"127.0.0.1:8403", fields=b""), 401, "token-refused"),
        (get(b"http://shop.test/", host=b"evil.test"), 400, "malformed-request"),
        (get(b"http://shop.test/", fields=BASIC + BEARER), 400, "malformed-request"),
        (post(fields=BASIC + CHUNKED + b"Content-Length: 3\r\n", body=b"0\r\n\r\n"), 400, "malformed-request"),
        (post(fields=BASIC + b"Content-Length: 3\r\n"), 400, "malformed-request"),
        (get(b"http://shop.test/", fields=b"X: " + b"x" * 40_000 + b"\r\n"), 431, "headers-too-large"),
        (get(b"http://shop.test/", fields=BASIC + b"X: x\r\n" * 200), 431, "headers-too-large"),
        (b"GET http://shop.test/ HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        (b"nonsense\r\n\r\n", 400, "malformed-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed-request"),
    ],
)  # fmt: skip
async def test_what_is_not_forwarded_is_told_as_a_problem(
    open_agency: Any, said: bytes, status: int, kind: str
) -> None:
    async with open_agency() as agency:
        told = await agency.hear(said)
        assert (status, kind) == (told.statuses[0], problem(told.answers[0]))
        assert [] == agency.sent


async def test_a_request_that_comes_back_is_known(open_agency: Any) -> None:
    async with open_agency() as agency:
        await agency.hear(get(b"http://shop.test/"))
        via = agency.sent[0].headers["via"].encode()
        (answer,) = (
            await agency.hear(get(b"http://shop.test/", fields=BASIC + b"Via: 1.0 x, " + via + b"\r\n"))
        ).answers
        assert (508, "loop") == (answer.status, problem(answer))


async def test_a_body_that_is_too_large_is_refused_before_it_has_come_whole(open_agency: Any) -> None:
    async with open_agency() as agency:
        huge = b"Content-Length: 99999999\r\n\r\n" + b"x" * (17 * 1024 * 1024)
        head = b"POST http://shop.test/api/dvm HTTP/1.1\r\nHost: shop.test\r\n" + BASIC
        told = await agency.hear(head + huge)
        assert ([413], []) == (told.statuses, agency.sent)


async def test_a_caller_that_leaves_in_the_middle_of_a_body_has_nothing_bought(open_agency: Any) -> None:
    async with open_agency() as agency:
        told = await agency.hear(post()[:-3])
        assert ([400], []) == (told.statuses, agency.sent)


async def test_who_has_a_token_can_ask_what_is_left(open_agency: Any) -> None:
    async with open_agency(budget="500 sat/day, 50 sat/call") as agency:
        ask = get(b"/budget", host=b"127.0.0.1:8403")
        _, answer = (await agency.hear(post(), ask)).answers
        first, second, third = json.loads(answer.body)["budget"]
        assert ("500 sat/day", 500_000, 21_000, 479_000, "479 sat", None) == tuple(first.values())
        assert (50_000, 979_000) == (second["left_msat"], third["left_msat"])


async def test_anyone_can_ask_what_this_is(open_agency: Any) -> None:
    async with open_agency() as agency:
        (answer,) = (await agency.hear(get(b"/", host=b"127.0.0.1:8403", fields=b""))).answers
        assert 200 == answer.status
        assert b"http://127.0.0.1:8403/pay/https://host/path" in answer.body


async def test_an_answer_that_breaks_off_is_broken_off(open_agency: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half"})

    async with open_agency(app) as agency:
        with pytest.raises(NotHttp, match="breaks off"):
            await agency.hear(get(b"http://shop.test/"), get(b"http://shop.test/"))


async def test_a_body_takes_up_room_only_until_its_answer_is_told(open_agency: Any) -> None:
    async with open_agency() as agency:
        agency.patience = replace(agency.patience, most_bodies=len(ASKED))
        assert [200, 200] == (await agency.hear(post() + post())).statuses
        too_much = (await agency.hear(post(body=ASKED + b" "))).answers[0]
        assert (503, "too-much-at-once", [b"2"]) == (
            too_much.status,
            problem(too_much),
            too_much.values(b"retry-after"),
        )


@pytest.mark.parametrize(
    ("token", "is_held"), [(BASIC, True), (b"", False), (b"Proxy-Authorization: Bearer x\r\n", False)]
)
async def test_a_connection_is_held_for_longer_only_after_a_good_token(
    open_agency: Any, token: bytes, is_held: bool
) -> None:
    async with open_agency() as agency:
        agency.patience = Patience(stranger=timedelta(seconds=0.2))
        assert is_held is await agency.stays(get(b"http://shop.test/free", fields=token), for_s=0.5)
