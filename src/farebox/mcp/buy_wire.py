"""What a tool call and its results are to the payer: the Payment scheme in JSON-RPC (draft-payment-transport-mcp-00).

    error    {"code": -32042, "data": {"challenges": [{"id": "…", "method": "lightning", "request": {…}, …}]}}
    params   {"_meta": {"org.paymentauth/credential": {"challenge": {…the same…}, "payload": {"preimage": "…"}}}}
    result   {"_meta": {"org.paymentauth/receipt": {"status": "success", …}}}

Rules
1. Nothing but the challenges of such an error asks for money; what a tool, its description or its result says never
   does.
2. What is a JSON object here is base64url of its canonical text in a header field. The Payment dialect reads and writes
   those, so that it stands once.
3. A challenge is echoed as it came. One out of the purse is put together again from its parameters.
4. An error in answer to a proof never serves. A result that says it is one, without a receipt, refuses the call: the
   seller keeps the payment for it, and the proof is shown again to the same call.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, REQUEST_TIMEOUT, CallToolResult

from farebox.core.errors import MalformedChallenge, MalformedValue
from farebox.core.exchange import Json, Wire
from farebox.dialects.canonical_json import read_members, write_members
from farebox.dialects.http_auth import split_credential, write_challenge
from farebox.payer import Answered, NoAnswer

CREDENTIAL: Final = "org.paymentauth/credential"
RECEIPT: Final = "org.paymentauth/receipt"

_PAYMENT_REQUIRED: Final = -32042
_VERIFICATION_FAILED: Final = -32043
_ASKING: Final = frozenset((_PAYMENT_REQUIRED, _VERIFICATION_FAILED))
_UNHEARD: Final = frozenset((REQUEST_TIMEOUT, CONNECTION_CLOSED))
_SCHEME: Final = "Payment"
_OBJECTS: Final = ("request", "opaque")  # the members that are objects here, and base64url in a header field
_MOST_CHALLENGES: Final = 16

Challenges = Mapping[str, Mapping[str, Json]]
NO_CHALLENGES: Final[Challenges] = MappingProxyType({})


def read_error(error: MCPError, origin: str, *, shown: bool) -> tuple[Answered | NoAnswer | None, Challenges]:
    """What an error means to the payer, and the challenges in it, as they came, by their ids.

    shown: whether it answers a proof. None for an error that is the caller's to see.
    """
    told = _challenges(error.data) if error.code in _ASKING else []
    if told:
        wire = Wire(headers=tuple(("www-authenticate", line) for line in map(_write_header, told) if line))
        by_id = {each["id"]: each for each in told if isinstance(each.get("id"), str)}
        return Answered(status=402, origin=origin, wire=wire), cast("Challenges", by_id)
    if not shown:
        return None, NO_CHALLENGES
    if error.code in _UNHEARD:
        return NoAnswer(reason=error.message), NO_CHALLENGES
    refuses = error.code in (INVALID_PARAMS, _VERIFICATION_FAILED)
    return Answered(status=401 if refuses else 500, origin=origin, wire=Wire()), NO_CHALLENGES


def read_result(result: CallToolResult, origin: str, *, shown: bool) -> Answered:
    """What a result means to the payer."""
    receipt = (result.meta or {}).get(RECEIPT)
    if isinstance(receipt, dict):
        try:
            return Answered(
                status=200, origin=origin, wire=Wire(headers=(("payment-receipt", write_members(receipt)),))
            )
        except MalformedValue:
            pass  # a receipt that can't be read takes nothing away from what was bought
    if shown and result.is_error:
        return Answered(status=422, origin=origin, wire=Wire(headers=(("payment-kept", "true"),)))
    return Answered(status=200, origin=origin, wire=Wire())


def write_proof(proof: Wire, heard: Challenges) -> dict[str, Json]:
    """The members of `_meta` that carry a proof. heard: the challenges of this call.

    Raises TypeError for a proof in another scheme than Payment.
    """
    for scheme, text in map(split_credential, proof.all("authorization")):
        if scheme == _SCHEME.lower():
            credential = read_members(text)
            parameters = cast("dict[str, Json]", credential["challenge"])
            challenge_id = parameters.get("id")
            came = heard.get(challenge_id) if isinstance(challenge_id, str) else None
            return {CREDENTIAL: {**credential, "challenge": dict(came) if came is not None else _native(parameters)}}
    raise TypeError("a tool call is paid for in the Payment scheme alone")


def _challenges(data: object) -> list[dict[str, Json]]:
    told = data.get("challenges") if isinstance(data, dict) else None
    return [each for each in told[:_MOST_CHALLENGES] if isinstance(each, dict)] if isinstance(told, list) else []


def _write_header(challenge: Mapping[str, Json]) -> str | None:
    """The challenge as a header line; None where it can't be said in one, and so is not for us."""
    parameters: list[tuple[str, str]] = []
    try:
        for name, value in challenge.items():
            if name in _OBJECTS and isinstance(value, dict):
                parameters.append((name, write_members(value)))
            elif isinstance(value, str) and name != "description":  # prose, which need not fit into a header
                parameters.append((name, value))
        return write_challenge(_SCHEME, tuple(parameters))
    except (MalformedChallenge, MalformedValue):
        return None


def _native(parameters: Mapping[str, Json]) -> dict[str, Json]:
    challenge = dict(parameters)
    for name in _OBJECTS:
        text = challenge.get(name)
        if isinstance(text, str):
            challenge[name] = read_members(text)
    return challenge
