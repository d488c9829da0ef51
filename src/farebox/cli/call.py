"""`farebox call`: one HTTP call, paid for if need be.

The answer goes to standard output and what it cost to standard error, so that it can stand in a pipe.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from farebox.cli.books import fits, found_wallet, purse_path, wallet_needed
from farebox.cli.output import Cell, Exit, is_person, show_one, tell
from farebox.cli.state import made_dir
from farebox.core.amount import Amount
from farebox.core.budget import Budget
from farebox.core.errors import ConfigError
from farebox.core.ports import Wallet
from farebox.http.buy import Client
from farebox.payer import Bought, Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    url: str
    method: str | None
    headers: tuple[str, ...]
    data: str | None
    most: str | None
    budget: str
    timeout_s: float
    output: Path | None
    as_json: bool


def call_once(wanted: Wanted, *, wallet_url: str | None, folder: Path, dry_run: bool) -> Exit:
    """Make the call and print its answer. Raises PurchaseError, ConfigError, WalletError, MalformedBudget."""
    request = _request(wanted)
    _check_output(wanted.output)
    most = Amount.read(wanted.most) if wanted.most else None
    budget = Budget.read(wanted.budget)
    wallet = found_wallet(wallet_url, folder)
    if wallet is None:
        return _without_wallet(wanted, request)
    with (
        _client(wanted, wallet, budget, most, folder) as client,
        _network_told(wanted),
    ):
        if dry_run:
            return _dry_run(client.ask(request), budget, wanted, folder)
        answer = client.send(request)
        return _show(wanted, answer, answer.extensions.get("farebox") or Bought())


def _check_output(output: Path | None) -> None:
    """Before anything is paid: whether the answer can be put where it is wanted."""
    if output is None:
        return
    folder = output.parent
    if output.is_dir() or not folder.is_dir() or not os.access(output if output.exists() else folder, os.W_OK):
        raise ConfigError(f"can't write the answer to {output}; nothing was sent")


def _client(wanted: Wanted, wallet: Wallet, budget: Budget, most: Amount | None, folder: Path) -> Client:
    return Client(
        wallet=wallet,
        budget=budget,
        max=most,
        purse=purse_path(made_dir(folder)),
        timeout=wanted.timeout_s,
        follow_redirects=True,
    )


def _without_wallet(wanted: Wanted, request: httpx.Request) -> Exit:
    """A call that costs nothing needs no wallet; one that does says how to name it."""
    with _network_told(wanted), httpx.Client(timeout=wanted.timeout_s, follow_redirects=True) as client:
        answer = client.send(request)
        if answer.status_code == httpx.codes.PAYMENT_REQUIRED:
            wallet_needed(None)
        return _show(wanted, answer, Bought())


@contextmanager
def _network_told(wanted: Wanted) -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, httpx.TooManyRedirects) as error:
        reason = str(error) or type(error).__name__
        if wanted.as_json or not sys.stderr.isatty():
            told = {"error": True, "exit_code": Exit.NETWORK, "type": "network", "message": reason, "url": wanted.url}
            print(json.dumps(told), file=sys.stderr)
        else:
            tell(f"farebox: can't reach {wanted.url}: {reason}", style="red")
        raise SystemExit(Exit.NETWORK) from None


def _request(wanted: Wanted) -> httpx.Request:
    body = _body(wanted.data)
    headers = [_header(line) for line in wanted.headers]
    if body is not None and not any(name.lower() == "content-type" for name, _ in headers):
        kind = "application/json" if body.lstrip()[:1] in (b"{", b"[") else "text/plain; charset=utf-8"
        headers.append(("content-type", kind))
    method = (wanted.method or ("GET" if body is None else "POST")).upper()
    try:
        request = httpx.Request(method, wanted.url, headers=headers, content=body)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"this is no request: {error}") from None
    if request.url.scheme not in ("http", "https") or not request.url.host:
        raise ConfigError(f"{wanted.url} is no URL; write it out, such as http://127.0.0.1:8402/api/dvm")
    request.headers.setdefault("accept", "*/*")
    request.headers.setdefault("user-agent", "farebox")
    return request


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {data[1:]}: {error.strerror}") from None


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f'a header is "Name: value", not {line!r}')
    return name.strip(), value.strip()


def _dry_run(offer: Offer | None, budget: Budget, wanted: Wanted, folder: Path) -> Exit:
    if offer is None:
        show_one({"url": wanted.url, "price": "nothing", "free": True}, title="Price", as_json=wanted.as_json)
        return Exit.DONE
    row: dict[str, Cell] = {
        "url": wanted.url,
        "free": False,
        "price": str(offer.amount),
        "amount_msat": offer.amount.msat,
        "fee_limit": str(offer.fee_limit),
        "payee": offer.invoice.payee.hex(),
        "network": offer.invoice.network.value,
        "expires": offer.invoice.expires_at.isoformat(timespec="seconds"),
        "dialect": offer.dialect.name,
        "budget": str(budget),
        "fits": fits(budget, offer.amount + offer.fee_limit, folder),
    }
    show_one(row, title="Price", as_json=wanted.as_json)
    return Exit.DRY_RUN


def _show(wanted: Wanted, answer: httpx.Response, bought: Bought) -> Exit:
    refused = answer.status_code >= 400
    if wanted.as_json:
        print(json.dumps(_as_json(answer, bought), ensure_ascii=False))
    elif wanted.output is not None:
        try:
            wanted.output.write_bytes(answer.content)
        except OSError as error:
            sys.stdout.buffer.write(answer.content)
            raise ConfigError(f"can't write to {wanted.output} ({error.strerror}), so the answer is printed") from None
    else:
        sys.stdout.buffer.write(answer.content)
        if is_person() and not answer.content.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    if refused:
        tell(f"the server answered {answer.status_code} {answer.reason_phrase}", style="red")
    if answer.headers.get("payment-kept") == "true":
        tell("the seller keeps what was paid for this call; the same call shows the same proof, and pays nothing")
    if not wanted.as_json and (bought.paid or not refused):
        tell(_cost(bought), style="dim")
    return Exit.SERVER_REFUSED if refused else Exit.DONE


def _cost(bought: Bought) -> str:
    if bought.payment_hash is None:
        return "free"
    earlier = ", paid earlier" if bought.replayed else ""
    return f"paid {bought.paid} (fee {bought.fee}){earlier}, payment {bought.payment_hash.hex()}"


def _as_json(answer: httpx.Response, bought: Bought) -> dict[str, object]:
    try:
        body: object = answer.json()
    except ValueError:
        body = answer.text
    return {
        "url": str(answer.url),
        "status": answer.status_code,
        "content_type": answer.headers.get("content-type"),
        "paid": bool(bought.paid),
        "amount_msat": bought.paid.msat,
        "fee_msat": bought.fee.msat,
        "payment_hash": bought.payment_hash.hex() if bought.payment_hash else None,
        "replayed": bought.replayed,
        "kept": answer.headers.get("payment-kept") == "true",
        "dialect": bought.dialect,
        "body": body,
    }
