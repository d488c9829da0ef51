"""`farebox demo`: a whole sale and purchase with play money, told step by step, over real HTTP.

Each step checks what it tells; the first that is not true ends the story with exit code 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import httpx

from farebox.cli.output import Exit, say
from farebox.cli.state import write_private
from farebox.core.amount import Amount
from farebox.core.bolt11 import decode
from farebox.core.errors import OperatorError, OverBudget
from farebox.core.payment import Balance
from farebox.core.ports import Paid
from farebox.http.buy import Client
from farebox.http.converse import converse
from farebox.lightning import open_wallet
from farebox.stores import open_ledger, open_purse

PROMPT: Final = "Write 3 bullet points about L402"
PRICE: Final = Amount.sats(21)
FAREBOX: Final = shlex.quote(str(Path(sys.executable).with_name("farebox")))
KEPT_PORT: Final = 8402
_PATIENCE_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the demo takes place."""

    shop: str
    buyer_wallet: str
    seller_wallet: str
    store: str

    @property
    def url(self) -> str:
        """What is called."""
        return f"{self.shop}/api/dvm"


def tell_story(*, keep: bool, state_file: Path | None, port: int | None, lightning: bool = False) -> Exit:
    """Tell it. With `keep`, then leave a fresh shop running until Ctrl-C or SIGTERM: on `port`, or 8402 if it is free.

    lightning: with lnd nodes, on a chain of their own, instead of the sandbox. Raises OperatorError.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the shop is closed on the way out
    if port and not _is_free(port):
        raise OperatorError(f"port {port} can't be had; choose another with --port, or leave it out")
    with _nodes(lightning=lightning) as nodes:
        with _folder() as folder, _shop(folder, 0 if keep or port is None else port, nodes) as place:
            if not keep:
                _write_state(state_file, place)
            _story(place, folder / "purse.db")
        if keep:
            with _folder() as folder, _shop(folder, _kept_port() if port is None else port, nodes) as place:
                _keep(place, state_file)
    return Exit.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Real ones: what the shop is paid by, which can't pay, and what the buyer pays with."""

    receiver: str
    wallet: str


@contextmanager
def _nodes(*, lightning: bool) -> Iterator[Nodes | None]:
    if not lightning:
        yield None
        return
    from farebox.testing.regtest import NotStarted, Regtest, kept_programs

    say("Starting a chain and three lnd nodes with channels between them; this takes some seconds.", style="dim")
    with ExitStack() as stack:
        try:
            regtest = stack.enter_context(Regtest(stack.enter_context(_folder()), kept_programs(os.environ)))
        except NotStarted as error:
            raise OperatorError(str(error).splitlines()[0]) from None
        narrow = regtest.seller.bake("invoices:read", "invoices:write")
        yield Nodes(receiver=regtest.seller.url(narrow), wallet=regtest.buyer.url())


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="farebox-demo-") as name:
        yield Path(name)


def _write_state(file: Path | None, place: Place) -> None:
    if file is not None:
        write_private(file, json.dumps(vars_of(place), indent=2) + "\n")


def vars_of(place: Place) -> dict[str, str]:
    """The URLs of a place, as `--state` writes them."""
    return {
        "shop": place.shop,
        "buyer_wallet": place.buyer_wallet,
        "seller_wallet": place.seller_wallet,
        "store": place.store,
    }


@contextmanager
def _shop(folder: Path, port: int, nodes: Nodes | None) -> Iterator[Place]:
    """A shop in a process of its own, as `farebox serve` starts it."""
    config, state = folder / "farebox.toml", folder / "state.json"
    receiver = "" if nodes is None else f'receiver = "{nodes.receiver}"\nstore = "sqlite:///{folder}/shop.db"\n'
    config.write_text(
        f'{receiver}listen = "127.0.0.1:{port}"\n\n[[route]]\npath = "/api/dvm"\nmethod = "POST"\nprice = "{PRICE}"\n'
        'summary = "Text from a prompt"\ndemo = true\n'
    )
    command = [sys.executable, "-m", "farebox", "serve", str(config)]
    command += ["--state", str(state), "--state-dir", str(folder / "seller"), "--log-level", "warning"]
    log = (folder / "shop.log").open("w+")
    shop = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own interpreter and arguments
    try:
        yield _opened(shop, state, log.name, nodes)
    finally:
        shop.send_signal(signal.SIGTERM)
        shop.wait(timeout=_PATIENCE_S)
        log.close()


def _kept_port() -> int:
    """Where the shop that stays is found, or 0 for any port, where that one is taken."""
    if _is_free(KEPT_PORT):
        return KEPT_PORT
    say(f"\nPort {KEPT_PORT} can't be had, so the shop that stays opens at another one.", style="dim")
    return 0


def _is_free(port: int) -> bool:
    with suppress(OSError):
        socket.create_server(("127.0.0.1", port)).close()
        return True
    return False


def _opened(shop: subprocess.Popen[bytes], state: Path, log: str, nodes: Nodes | None) -> Place:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if state.exists():
            told = json.loads(state.read_text())
            if nodes is not None:
                told |= {"buyer_wallet": nodes.wallet, "seller_wallet": nodes.receiver}
            place = Place(**{each.name: told[each.name] for each in fields(Place)})
            try:
                if httpx.get(f"{place.shop}/health", trust_env=False).is_success:
                    return place
            except httpx.TransportError:
                pass
        elif shop.poll() is not None:
            break
        time.sleep(0.05)
    last = [line for line in Path(log).read_text().splitlines() if line.strip()]
    raise OperatorError(f"the shop did not open: {last[-1] if last else 'no reason given'}")


# --- the story --------------------------------------------------------------------------------------------------------


def _check(told: str, true: bool) -> None:
    if not true:
        raise OperatorError(f"the demo did not go as told: {told}")
    say(f"  ✓ {told}", style="green")


def _step(number: int, text: str) -> None:
    say(f"\n{number}. {text}", style="bold")


def _story(place: Place, purse: Path) -> None:
    say("A shop sells text at 21 sat a call, the first call of a day free. No real money moves in this demo.")
    body = {"prompt": PROMPT}
    with httpx.Client(trust_env=False) as plain:
        had = converse(open_wallet(place.buyer_wallet).balance(), plain)
        _step(1, f"The first call is free: POST {place.url}")
        free = plain.post(place.url, json=body)
        _check(f"200, and nothing was paid ({free.headers.get('ratelimit')})", free.status_code == 200)
        _quote(free)

        _step(2, "The second one is answered 402 Payment Required, with a Lightning invoice")
        asked = plain.post(place.url, json=body)
        _check("402", asked.status_code == 402)
        challenge: dict[str, Any] = asked.json()
        invoice = decode(challenge["invoice"])
        _check(f"an invoice for {invoice.amount} that expires in {invoice.expires_in}", invoice.amount == PRICE)
        say(f"    {challenge['invoice'][:60]}…")

        _step(3, "A wallet pays it")
        outcome = converse(open_wallet(place.buyer_wallet).pay_invoice(invoice, fee_limit=Amount.sats(1)), plain)
        _check("paid; the preimage is the proof", isinstance(outcome, Paid))
        assert isinstance(outcome, Paid)

        _step(4, "The same request again, with the proof")
        proof = {"authorization": f"L402 {challenge['macaroon']}:{outcome.preimage.reveal().hex()}"}
        served = plain.post(place.url, json=body, headers=proof)
        _check("200: the answer", served.status_code == 200)
        _quote(served)

        _step(5, "The same proof again: the answer is kept, so a lost reply loses nothing")
        again = plain.post(place.url, json=body, headers=proof)
        _check("the same answer", again.content == served.content)
        _check("nothing charged (Payment-Replayed: true)", again.headers.get("payment-replayed") == "true")
    _program(place, purse, body)
    _books(place, purse, had)
    say(f"\nThat is all of it. Next: {FAREBOX} serve --help, {FAREBOX} call --help, README.md", style="bold")


def _program(place: Place, purse: Path, body: dict[str, str]) -> None:
    _step(6, 'A program does all this by itself: farebox.Client(wallet=…, budget="50 sat/day")')
    with Client(wallet=place.buyer_wallet, budget="50 sat/day", purse=purse, trust_env=False) as client:
        for topic in ("macaroons", "invoices"):
            answer = client.post(place.url, json={"prompt": f"Write 3 bullet points about {topic}"})
            bought = answer.extensions["farebox"]
            _check(f"{topic}: 200, paid {bought.paid}", answer.status_code == 200 and bought.paid == PRICE)
        _step(7, "A third one would be over its budget, so it is refused before anything is paid")
        try:
            client.post(place.url, json=body)
        except OverBudget as error:
            _check(f"{error.title}: {error.detail}", error.money_moved is False)
        else:
            raise OperatorError("the demo did not go as told: the budget did not hold")


def _books(place: Place, purse: Path, had: Amount) -> None:
    _step(8, "The books")
    balance, wrong = asyncio.run(_balance(place.store))
    _check(f"the seller received {balance.received} and earned {balance.earned}", balance.earned == PRICE * 3)
    _check(
        "received = earned + held + credit + refunded: "
        f"{balance.received} = {balance.earned} + {balance.held} + {balance.credit} + {balance.refunded}",
        balance.balanced and not wrong,
    )
    kept = open_purse(purse)
    bought = kept.history(10)
    kept.close()
    spent = sum((purchase.counted for purchase in bought), Amount(0))
    _check(f"the buyer's purse has {len(bought)} purchases for {spent}", spent == PRICE * 2)
    with httpx.Client(trust_env=False) as plain:
        left = converse(open_wallet(place.buyer_wallet).balance(), plain)
    _check(f"the buyer's wallet has {left} left", left == had - PRICE * 3)


async def _balance(store: str) -> tuple[Balance, list[str]]:
    ledger = open_ledger(store)
    try:
        return await ledger.balance(), list(await ledger.audit())
    finally:
        await ledger.close()


def _quote(answer: httpx.Response) -> None:
    for line in str(answer.json().get("result", "")).splitlines():
        say(f"    {line}", style="dim")


# --- kept running -----------------------------------------------------------------------------------------------------


def _keep(place: Place, state_file: Path | None) -> None:
    body = shlex.quote(json.dumps({"prompt": PROMPT}))
    again = f"curl -s {place.url} -H 'content-type: application/json' -d {body}"
    password, _, at = place.buyer_wallet.removeprefix("phoenixd+http://:").partition("@")
    say(f"The shop is open at {place.shop}; Ctrl-C closes it. No real money moves. In another terminal:", style="bold")
    invoice = '$(python3 -c \'import json; print(json.load(open("402.json"))["invoice"])\')'
    if at:
        pay = f'curl -s -u :{password} http://{at}/payinvoice --data-urlencode "invoice={invoice}" | tee paid.json'
        preimage = "paymentPreimage"
    else:  # a real node: farebox's own command pays
        pay = f'{FAREBOX} wallet {shlex.quote(place.buyer_wallet)} --pay "{invoice}" | tee paid.json'
        preimage = "preimage"
    for told, command in (
        ("the first call is free", again),
        ("the second one gets a 402; keep its invoice and payment_hash", f"{again} | tee 402.json"),
        (
            "pay the invoice from the buyer's wallet" + (" (phoenixd's own API)" if at else ""),
            pay,
        ),
        (
            "the very same request with the payment hash",
            f"{again} -H \"x-payment-hash: $(python3 -c 'import json; "
            'print(json.load(open("402.json"))["payment_hash"])\')"',
        ),
        (
            "or with macaroon and preimage, from anywhere",
            f'{again} -H "authorization: L402 $(python3 -c \'import json; print(json.load(open("402.json"))'
            f'["macaroon"], json.load(open("paid.json"))["{preimage}"], sep=":")\')"',
        ),
        (
            "or let farebox do all of it",
            f"FAREBOX_WALLET={shlex.quote(place.buyer_wallet)} {FAREBOX} call {place.url} -d {body} --max 21sat",
        ),
        ("the seller's books", f"{FAREBOX} ledger {place.store}"),
    ):
        say(f"\n# {told}", style="green")
        say(command)
    try:
        _write_state(state_file, place)
        while True:
            time.sleep(1)  # signal.pause would miss one that comes just before it
    except KeyboardInterrupt:
        say("\nclosed")
