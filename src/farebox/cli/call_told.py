"""What `farebox call` tells of an answer: what it cost, on standard error, or everything in one JSON object."""

from __future__ import annotations

import time
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import httpx

from farebox.cli.call_place import Download, Place, Remembered
from farebox.cli.call_request import Wanted
from farebox.cli.call_wait import Told
from farebox.cli.output import Exit, print_json, tell
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
    refused = answer.status_code >= 400
    kept = answer.headers.get("payment-kept")
    if wanted.as_json:
        row = _as_json(answer, bought, place)
        row["took_ms"] = round((time.monotonic() - began) * 1000)
        print_json(row)
    if refused:
        tell(f"the server answered {answer.status_code} {answer.reason_phrase}", style="red")
    if bought.payment_hash is not None and kept == "true":
        told.say("the seller refused this call and keeps what was paid for it, for the same call made again")
    elif bought.payment_hash is not None and kept == "false":
        told.say("the seller refused this call and gives back what was paid for it")
    if answer.is_redirect and not wanted.most_redirects:
        told.say(f"the server says that it is at {answer.headers.get('location', '')}; -L follows it")
    if not wanted.as_json and (bought.payment_hash is not None or not refused):
        told.say(_cost(bought))
    return Exit.SERVER_REFUSED if refused else Exit.DONE


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
