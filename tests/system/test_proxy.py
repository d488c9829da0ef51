"""`farebox proxy` as programs find it: what they buy through it, and how they do not get round it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import httpx
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from farebox.core.amount import Amount

pytestmark = pytest.mark.system

PATIENCE_S = 20.0
PRICE = Amount.sats(21)
NOBODY = "phoenixd+http://:password@127.0.0.1:9"


@pytest.fixture
def shop(open_shop: Any, writer_url: str) -> Iterator[Any]:
    with open_shop("--upstream", writer_url, "--price", str(PRICE), "--free-calls", "0") as shop:
        yield shop


@pytest.fixture
def open_proxy(shop: Any, open_forwarder: Any) -> Any:
    """Opens a proxy that pays from the shop's sandbox: `with open_proxy("--limit", "50 sat/day") as forwarder`."""
    return lambda *arguments: open_forwarder(shop.place["buyer_wallet"], "--allow", "127.0.0.1", *arguments)


def without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


# --- who buys through it ----------------------------------------------------------------------------------------------


def by_requests(url: str, through: str, prompt: str) -> tuple[int, Mapping[str, str], Any]:
    with requests.Session() as session:
        answer = session.post(url, data=prompt, proxies={"http": through}, timeout=PATIENCE_S)
        return answer.status_code, answer.headers, answer.json()


def by_httpx(url: str, through: str, prompt: str) -> tuple[int, Mapping[str, str], Any]:
    with httpx.Client(proxy=through, trust_env=False, timeout=PATIENCE_S) as client:
        answer = client.post(url, content=prompt)
        return answer.status_code, answer.headers, answer.json()


def by_urllib(url: str, through: str, prompt: str) -> tuple[int, Mapping[str, str], Any]:
    with build_opener(ProxyHandler({"http": through})).open(
        Request(url, prompt.encode()), timeout=PATIENCE_S
    ) as answer:
        return answer.status, answer.headers, json.load(answer)


def by_curl(url: str, through: str, prompt: str) -> tuple[int, Mapping[str, str], Any]:
    ran = subprocess.run(
        ["curl", "-sS", "-D", "/dev/stderr", "-d", prompt, url],
        env=without_proxies() | {"http_proxy": through},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    status, *lines = ran.stderr.splitlines()
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(status.split()[1]), headers, json.loads(ran.stdout)


def test_programs_that_know_of_http_proxy_alone_buy(shop: Any, open_proxy: Any, writer: Any) -> None:
    buyers = [by_requests, by_httpx, by_urllib, *([by_curl] if shutil.which("curl") else [])]
    with open_proxy() as forwarder:
        for number, buy in enumerate(buyers, 1):
            status, headers, told = buy(f"{shop.url}/write", forwarder.place["http_proxy"], buy.__name__)
            assert (200, {"text": writer.runs[buy.__name__][0]}) == (status, told)
            left = str(Amount.sats(500 - 21 * number))
            assert ("21 sat", left) == (headers["farebox-paid"], headers["farebox-budget-left"])


def test_a_program_that_can_not_use_a_proxy_writes_the_url_behind_its_address(
    shop: Any, open_proxy: Any, writer: Any
) -> None:
    with open_proxy() as forwarder, httpx.Client(trust_env=False, headers=forwarder.token) as client:
        answer = client.post(f"{forwarder.place['pay']}{shop.url}/write", content="hello")
        assert {"text": writer.runs["hello"][0]} == answer.json()
        left = client.get(f"{forwarder.place['proxy']}/budget").json()["budget"]
        assert {479_000} == {each["left_msat"] for each in left}
        with client.stream("POST", f"{forwarder.place['pay']}{shop.url}/stream", content="events") as events:
            lines = [line.removeprefix("data: ") for line in events.iter_lines() if line]
        assert [writer.runs["events"][0], "[DONE]"] == ["".join(lines[:-1]), lines[-1]]


def test_a_proxy_that_is_told_to_end_gives_the_answer_it_is_giving(shop: Any, open_proxy: Any, writer: Any) -> None:
    writer.held = True
    with open_proxy() as forwarder:
        answers: list[int] = []
        through = forwarder.place["http_proxy"]
        caller = threading.Thread(target=lambda: answers.append(by_httpx(f"{shop.url}/write", through, "hello")[0]))
        caller.start()
        until = time.monotonic() + PATIENCE_S
        while not writer.runs:
            assert time.monotonic() < until
            time.sleep(0.01)
        forwarder.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        writer.held = False
        caller.join(PATIENCE_S)
        assert [200] == answers


@pytest.mark.parametrize("way", ["proxy", "prefix", "tunnel"])
def test_a_caller_who_is_not_patient_enough_and_calls_again_has_paid_once(
    way: str, shop: Any, open_proxy: Any, writer: Any, tmp_path: Path
) -> None:
    with (
        in_tls(shop.port, tmp_path) as (port, believed),
        open_proxy("--ca", "--allow", "localhost", "--upstream-ca", str(believed)) as forwarder,
    ):
        place, options = forwarder.place, {"trust_env": False}
        url = {"prefix": f"{place['pay']}{shop.url}/write", "tunnel": f"https://localhost:{port}/write"}
        if way == "prefix":
            options |= {"headers": forwarder.token}
        else:
            options |= {"proxy": place["http_proxy"], "verify": ssl.create_default_context(cafile=place["ca"])}

        def call(timeout: float) -> httpx.Response:
            with httpx.Client(timeout=timeout, **options) as client:
                return client.post(url.get(way, f"{shop.url}/write"), content="hello")

        writer.held = True
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                call(1)
        threading.Timer(0.5, setattr, (writer, "held", False)).start()
        answer = call(PATIENCE_S)
        assert [answer.json()] == [{"text": text} for text in writer.runs["hello"]]
        assert ("21 sat", "true") == (answer.headers["farebox-paid"], answer.headers["farebox-replayed"])
        budget = httpx.get(f"{place['proxy']}/budget", headers=forwarder.token, trust_env=False).json()["budget"]
        assert {479_000} == {each["left_msat"] for each in budget}


def test_a_caller_who_leaves_as_soon_as_he_has_his_answer_gets_another_one_the_next_time(
    shop: Any, open_proxy: Any, writer: Any
) -> None:
    with open_proxy() as forwarder:
        url, token = f"{forwarder.place['pay']}{shop.url}/write", forwarder.token
        answers = [httpx.post(url, content="hello", headers=token, timeout=PATIENCE_S) for _ in range(20)]
        assert [{"text": text} for text in writer.runs["hello"]] == [answer.json() for answer in answers]


def test_the_purse_keeps_its_token_and_what_was_spent_over_a_restart(shop: Any, open_proxy: Any) -> None:
    tokens = []
    for _ in range(2):
        with open_proxy("--limit", "30 sat/day") as forwarder:
            tokens.append(forwarder.place["token"])
            answer = httpx.post(
                f"{forwarder.place['pay']}{shop.url}/write", content=f"{len(tokens)}", headers=forwarder.token
            )
            assert [200, 403][len(tokens) - 1] == answer.status_code
    assert tokens[0] == tokens[1]


def test_another_limit_for_a_purse_that_is_there_is_told(open_proxy: Any) -> None:
    for limit in ("30 sat/day", "30 sat/day", "50 sat/day"):
        with open_proxy("--purse", "bot", "--limit", limit) as forwarder:
            told = forwarder.told
    assert 1 == told.count("the limit of the purse bot was 30 sat/day and is now 50 sat/day")


def test_a_limit_that_a_purse_can_not_have_is_refused_and_not_left_out(farebox: Any) -> None:
    ran = farebox("proxy", "--limit", "100 sat/day, 20 sat/day on api.example.com", FAREBOX_WALLET=NOBODY)
    assert (2, "malformed-budget") == (ran.returncode, json.loads(ran.stderr)["type"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--listen", "0.0.0.0:0"), "--public"),
        (("--listen", "shop.test:1"), "--listen"),
        (("--allow", "http://x"), "--allow"),
        (("--limit", "much"), "budget"),
        (("--purse", "Not A Name"), "purse"),
        (("--upstream-ca", "/nowhere.pem"), "--upstream-ca"),
    ],
)
def test_what_can_not_be_is_told_in_one_line(farebox: Any, arguments: tuple[str, ...], told: str) -> None:
    ran = farebox("proxy", "--listen", "127.0.0.1:0", *arguments, FAREBOX_WALLET=NOBODY, FAREBOX_STATE="buyer")
    (line,) = ran.stderr.splitlines()
    assert 2 == ran.returncode
    assert told in json.loads(line)["message"]


# --- https ------------------------------------------------------------------------------------------------------------


@contextmanager
def in_tls(port: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """A TLS server in front of a plain one, and the authority that its callers have to believe."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server in a test")])
    own = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(own), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "server.key", folder / "server.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    files[0].write_bytes(pem)
    files[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    loop, opened, place = asyncio.new_event_loop(), threading.Event(), []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, forth), pipe(back, writer))

    async def serve(leave: asyncio.Event) -> None:
        async with await asyncio.start_server(join, "127.0.0.1", 0, ssl=context) as server:
            place.append(server.sockets[0].getsockname()[1])
            opened.set()
            await leave.wait()

    leave = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(leave)))
    thread.start()
    assert opened.wait(PATIENCE_S)
    try:
        yield place[0], files[1]
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


def test_with_an_authority_https_is_paid_for_through_a_tunnel(
    shop: Any, open_proxy: Any, writer: Any, tmp_path: Path
) -> None:
    with (
        in_tls(shop.port, tmp_path) as (port, believed),
        open_proxy("--ca", "--allow", "localhost", "--upstream-ca", str(believed)) as forwarder,
    ):
        url, through, ours = f"https://localhost:{port}/write", forwarder.place["http_proxy"], forwarder.place["ca"]
        with httpx.Client(proxy=through, trust_env=False, verify=ssl.create_default_context(cafile=ours)) as client:
            answers = [client.post(url, content=prompt, timeout=PATIENCE_S) for prompt in ("one", "two")]
        assert ["21 sat", "21 sat"] == [answer.headers["farebox-paid"] for answer in answers]
        assert {"text": writer.runs["two"][0]} == answers[1].json()
        with requests.Session() as session:
            session.proxies = {"https": through}
            assert "21 sat" == session.post(url, data="three", verify=ours, timeout=PATIENCE_S).headers["farebox-paid"]
        if shutil.which("curl"):
            ran = subprocess.run(
                ["curl", "-sS", "-D", "-", "-d", "four", url],
                env=without_proxies() | {"https_proxy": through, "CURL_CA_BUNDLE": ours},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert "farebox-paid: 21 sat" in ran.stdout, ran.stderr
        assert oct(0o600) == oct((tmp_path / "forwarder" / "buyer" / "proxy-ca.key").stat().st_mode & 0o777)


def test_the_real_servers_certificate_is_verified_whatever_the_caller_was_shown(
    shop: Any, open_proxy: Any, tmp_path: Path
) -> None:
    with in_tls(shop.port, tmp_path) as (port, _), open_proxy("--ca", "--allow", "localhost") as forwarder:
        ours = ssl.create_default_context(cafile=forwarder.place["ca"])
        with httpx.Client(proxy=forwarder.place["http_proxy"], trust_env=False, verify=ours) as client:
            answer = client.post(f"https://localhost:{port}/write", content="hello", timeout=PATIENCE_S)
        assert (502, "server-unreachable") == (answer.status_code, answer.json()["type"].rpartition(":")[2])


def test_an_authority_for_some_domains_tunnels_to_them_alone(shop: Any, open_proxy: Any, tmp_path: Path) -> None:
    with (
        in_tls(shop.port, tmp_path) as (port, _),
        open_proxy("--ca-for", "shop.test") as forwarder,
        httpx.Client(proxy=forwarder.place["http_proxy"], trust_env=False) as client,
        pytest.raises(httpx.ProxyError, match="501"),
    ):
        client.get(f"https://localhost:{port}/")
