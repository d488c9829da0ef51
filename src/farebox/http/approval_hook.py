"""The approval webhook: a parked call is told to an address of the operator's, whose answer may decide it at once.

    POST <address>                                        200 {"decision": "approve"}   or   {"decision": "deny"}
    webhook-id: 7-1763800000   webhook-timestamp: …       anything else: it stays parked, for `farebox approvals`
    webhook-signature: v1,<base64 HMAC-SHA256 of "id.timestamp.body" under the key in the secret>
    {"approval": 7, "amount_msat": 2100000, "origin": …, "resource": …, "url": …, "payee": …, "labels": […], …}

Signed as Standard Webhooks 1.0 says. The answer is signed by nobody: it is the address that is believed. A redirect is
not followed, and no more than a short answer is read.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import httpx

from farebox.core.errors import DecisionRefused, MalformedValue
from farebox.core.json_text import load_json
from farebox.core.ports import Clock
from farebox.core.purse import Approval, Purse
from farebox.core.secret import Secret

_WITHIN_S: Final = 10.0
_MOST_BYTES: Final = 4096
_DECISIONS: Final = {"approve": True, "deny": False}
_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = range(24, 64 + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalHook:
    """Where parked calls are told. Raises MalformedValue for an address that is no http or https URL."""

    url: str
    key: Secret[bytes]
    purse: Purse
    clock: Clock

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise MalformedValue("an approval webhook is an http or https URL")

    def ask(self, number: int) -> None:
        """Tell it, and write down what is answered. Raises StoreUnavailable."""
        approval = self._find(number)
        if approval is None:
            return
        body = b""
        with (
            suppress(httpx.HTTPError),
            httpx.Client(timeout=_WITHIN_S, trust_env=False) as client,
            client.stream("POST", self.url, content=_told(approval), headers=self._headers(approval)) as answer,
        ):
            for part in answer.iter_raw() if answer.status_code == httpx.codes.OK else ():
                body += part
                if len(body) > _MOST_BYTES:
                    break
        self._decide(number, body)

    async def aask(self, number: int) -> None:
        """The same, awaiting."""
        approval = await asyncio.to_thread(self._find, number)
        if approval is None:
            return
        body = b""
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=_WITHIN_S, trust_env=False) as client:
                told = {"content": _told(approval), "headers": self._headers(approval)}
                async with client.stream("POST", self.url, **told) as answer:  # type: ignore[arg-type] # as stream takes
                    if answer.status_code == httpx.codes.OK:
                        async for part in answer.aiter_raw():
                            body += part
                            if len(body) > _MOST_BYTES:
                                break
        await asyncio.to_thread(self._decide, number, body)

    def _find(self, number: int) -> Approval | None:
        return next((one for one in self.purse.approvals(pending=True) if one.number == number), None)

    def _headers(self, approval: Approval) -> dict[str, str]:
        stamp = int(self.clock().timestamp())
        name = f"{approval.number}-{stamp}"
        signed = b".".join((name.encode(), str(stamp).encode(), _told(approval)))
        signature = base64.b64encode(hmac.digest(self.key.reveal(), signed, "sha256")).decode()
        return {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "webhook-id": name,
            "webhook-timestamp": str(stamp),
            "webhook-signature": f"v1,{signature}",
        }

    def _decide(self, number: int, body: bytes) -> None:
        try:
            answer = load_json(body) if len(body) <= _MOST_BYTES else None
        except ValueError:
            return
        decision = answer.get("decision") if isinstance(answer, dict) else None
        if isinstance(decision, str) and decision in _DECISIONS:
            with suppress(DecisionRefused):  # somebody was quicker
                self.purse.decide(number, approved=_DECISIONS[decision])


def read_key(secret: str) -> Secret[bytes]:
    """The key in a secret of Standard Webhooks: base64 with or without `whsec_` before it. Raises MalformedValue."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        key = b""
    if len(key) not in _KEY_BYTES:
        raise MalformedValue(
            "an approval webhook needs a secret (FAREBOX_APPROVAL_SECRET, approval_secret) of 24 to 64 random bytes in "
            "base64; make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return Secret(key)


def _told(approval: Approval) -> bytes:
    return json.dumps(
        {
            "approval": approval.number,
            "amount_msat": approval.amount.msat,
            "origin": approval.origin,
            "resource": approval.resource,
            "url": approval.url,
            "payee": approval.payee.hex(),
            "labels": sorted(approval.labels),
            "asked_at": approval.asked_at.isoformat(),
            "expires_at": approval.expires_at.isoformat(),
        }
    ).encode()
