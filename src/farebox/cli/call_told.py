"""What `farebox call` tells of an answer: what it cost, on standard error, or everything in one JSON object."""

from __future__ import annotations

import sys
import time
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import httpx

from farebox.cli.call_place import Download, Place, Remembered
from farebox.cli.call_request import Wanted
from farebox.cli.call_wait import Told
from farebox.cli.output import Cell, Exit, complain, complaint, forget, print_json
from farebox.core.json_text import load_json
from farebox.payer import Bought


def tell_whole(wanted: Wanted, told: Told, file: Path) -> Exit:
    """A download that was whole already."""
    told.say(f"{file} is whole already; nothing was sent. Without -c it is bought anew")
    if wanted.as_json:
        size = file.stat().st_size
        print_json(
            {
                "url": wanted.url,
                "status": None,
                "size": size,
                "paid": False,
                "amount_msat": 0,
                "fee_msat": 0,
                "whole_already": True,
                "output": str(file),
            }
        )
    return Exit.DONE


def tell_answer(wanted: Wanted, told: Told, answer: httpx.Response, place: Place, *, began: float) -> Exit:
    """An answer that is where it was to go, and what it cost. began: by the monotonic clock."""
    bought = answer.extensions.get("farebox") or Bought()
    if wanted.as_json:
        row = _as_json(answer, bought, place)
        row["took_ms"] = round((time.monotonic() - began) * 1000)
        _print(row, bought)
    if answer.status_code >= 400:
        complain(_refusal(answer, bought), as_json=wanted.as_json)
        return Exit.SERVER_REFUSED
    if answer.is_redirect and not wanted.most_redirects:
        told.say(f"the server says that it is at {answer.headers.get('location', '')}; -L follows it")
    if not wanted.as_json:
        told.say(_cost(bought))
    return Exit.DONE


def _print(row: dict[str, object], bought: Bought) -> None:
    """The object, or, where it can't be printed, what became of the money: its answer counts as served by now."""
    try:
        print_json(row)
    except BrokenPipeError:
        raise
    except OSError as error:
        paid = _paid(bought)
        told = complaint(
            Exit.FAILED,
            "operator-error",
            title="The answer can't be printed",
            detail=f"{error.strerror}; {_cost(bought)}",
            moved=bool(paid),
            next_step="Make room and call again, which pays anew; -o keeps what was paid for." if paid else "",
            **paid,
        )
        complain(told, as_json=True)
        forget(sys.stdout)
        raise SystemExit(Exit.FAILED) from None


def _refusal(answer: httpx.Response, bought: Bought) -> dict[str, Cell]:
    """What went wrong, and what became of the money: also where nothing is said of what went well (-s)."""
    detail, next_step = f"the server answered {answer.status_code} {answer.reason_phrase}".rstrip(), ""
    if paid := _paid(bought):
        detail, next_step = f"{detail}; {_cost(bought)}", _then(answer.headers.get("payment-kept"))
    return complaint(
        Exit.SERVER_REFUSED,
        "server-refused",
        title="The server refused the call",
        detail=detail,
        moved=bool(paid),
        next_step=next_step,
        url=str(answer.url),
        status=answer.status_code,
        **paid,
    )


def _then(kept: str | None) -> str:
    """What to do after a paid refusal, by what the seller says of the money."""
    match kept:
        case "true":
            return "Make the same call again: the seller keeps what was paid for it, and nothing is paid anew."
        case "false":
            return "The seller says that it gives back what was paid. The same call would be paid anew."
        case _:
            return "Ask the seller: what was paid bought this answer. The same call would be paid anew."


def _paid(bought: Bought) -> dict[str, Cell]:
    if not bought.paid or bought.payment_hash is None:
        return {}
    return {"amount_msat": bought.paid.msat, "fee_msat": bought.fee.msat, "payment_hash": bought.payment_hash.hex()}


def _cost(bought: Bought) -> str:
    if bought.payment_hash is None:
        return "free"
    earlier = ", paid earlier" if bought.replayed else ""
    return f"paid {bought.paid} (fee {bought.fee}){earlier}, payment {bought.payment_hash.hex()}"


def _as_json(answer: httpx.Response, bought: Bought, place: Place) -> dict[str, object]:
    receipt = bought.receipt
    row: dict[str, object] = {
        "url": str(answer.url),
        "status": answer.status_code,
        "content_type": answer.headers.get("content-type"),
        "size": place.size,
        "paid": bool(bought.paid),
        "amount_msat": bought.paid.msat,
        "fee_msat": bought.fee.msat,
        "payment_hash": bought.payment_hash.hex() if bought.payment_hash else None,
        "replayed": bought.replayed,
        "kept": answer.headers.get("payment-kept") == "true",
        "dialect": bought.dialect,
        "receipt": None
        if receipt is None
        else {"at": receipt.at and _at(receipt.at), "challenge_id": receipt.challenge_id},
        "at": _at(datetime.now(UTC)),
    }
    if isinstance(place, Download):
        row["output"] = str(place.file)
    elif isinstance(place, Remembered):
        row |= _body(answer, place.body)
    return row


def _body(answer: httpx.Response, body: bytes) -> dict[str, object]:
    """JSON as it is, text as a text, and anything else as base64."""
    try:
        return {"body": load_json(body)}
    except ValueError:
        pass
    try:
        return {"body": body.decode(answer.charset_encoding or "utf-8")}
    except (ValueError, LookupError):
        return {"body": None, "body_base64": b64encode(body).decode()}


def _at(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")
