"""What a node or wallet says in JSON, read strictly: a member is what it should be, or it is None."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network
from farebox.core.conversation import HttpReply
from farebox.core.errors import MalformedAmount, NodeUnavailable
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.json_text import load_json
from farebox.core.secret import Secret

Told = Mapping[str, Json]
_MOST_WORDS: Final = 200  # characters of what a backend says
_NETWORKS: Final = MappingProxyType(
    {each.value: each for each in Network} | {"testnet3": Network.TESTNET, "testnet4": Network.TESTNET}
)
_SLOW: Final = "it takes too long"
_OK, _NOT_GOOD = 200, 300


def read_object(body: bytes) -> Told | None:
    """The members of a JSON object."""
    try:
        value = load_json(body)
    except ValueError:  # not JSON, not UTF-8, or nested without end
        return None
    return value if isinstance(value, dict) else None


def read_list(body: bytes) -> list[Told] | None:
    """The objects of a JSON array; None when it is none, or holds something else."""
    try:
        value = load_json(body)
    except ValueError:
        return None
    return _objects(value)


def read_lines(body: bytes) -> list[Told]:
    """The objects of JSON that comes line by line, up to the first line that is none."""
    objects = []
    for line in body.splitlines():
        told = read_object(line)
        if told is None:
            break
        objects.append(told)
    return objects


def read_reply(reply: HttpReply, *good: int) -> Told | None:
    """The members of the JSON object in a reply of one of these statuses; of 200 where none is named."""
    return read_object(reply.body) if reply.status in (good or (_OK,)) else None


def need(reply: HttpReply, fault: str, *good: int) -> Told:
    """The members of the object in a good reply. Raises NodeUnavailable with that fault."""
    told = read_reply(reply, *good)
    if told is None:
        raise NodeUnavailable(fault)
    return told


def member(told: Told, *names: str) -> Told:
    """The object that these names lead to; an empty one where they lead nowhere."""
    for name in names:
        value = told.get(name)
        told = value if isinstance(value, dict) else {}
    return told


def objects(told: Told, name: str) -> list[Told] | None:
    """The objects of a list; None when it is none, or holds something else."""
    return _objects(told.get(name))


def text(told: Told, name: str) -> str | None:
    """A text that is not empty."""
    value = told.get(name)
    return value if isinstance(value, str) and value else None


def count(told: Told, name: str) -> int | None:
    """A whole number, 0 or more."""
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def whole(told: Told, name: str) -> int:
    """A whole number of either sign; 0 where there is none."""
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def sats(told: Told, name: str) -> Amount | None:
    """An amount that is told in satoshis."""
    return _amount(Amount.sats, count(told, name))


def msats(told: Told, name: str) -> Amount | None:
    """An amount that is told in millisatoshis."""
    return _amount(Amount.msats, count(told, name))


def hash_of(told: Told, name: str) -> bytes | None:
    """32 bytes that are told in hexadecimal digits."""
    value = text(told, name)
    try:
        octets = bytes.fromhex(value or "")
    except ValueError:
        return None
    return octets if len(octets) == HASH_BYTES else None


def preimage_of(told: Told, name: str, payment_hash: bytes) -> Secret[bytes] | None:
    """The preimage, told in hexadecimal digits, if it is the one of this payment hash; zeros and ids are not."""
    octets = hash_of(told, name)
    if octets is None or hashlib.sha256(octets).digest() != payment_hash:
        return None
    return Secret(octets)


def network_of(told: Told, name: str) -> Network | None:
    """The chain, by the name that nodes give it."""
    return _NETWORKS.get(text(told, name) or "")


def one_line(words: str) -> str:
    """What a backend says, fit to be shown: in one line, and not too long."""
    return " ".join(words.encode(errors="replace").decode().split())[:_MOST_WORDS]


def fault_of(reply: HttpReply, by: str) -> str:
    """What is wrong with a reply, in words that may be shown to anyone, and that are none of the backend's own.

    by: what the backend is called. A reply of a good status is one that could not be read.
    """
    if reply.status == 0:
        why = _SLOW if reply.reason == "ReadTimeout" else reply.reason
        return f"{by} did not answer ({why})" if why else f"{by} did not answer"
    if _OK <= reply.status < _NOT_GOOD:
        return f"{by} answered with something that can't be read"
    return f"{by} answered {reply.status}"


def _objects(value: Json) -> list[Told] | None:
    if not isinstance(value, list):
        return None
    listed: list[Told] = [each for each in value if isinstance(each, dict)]
    return listed if len(listed) == len(value) else None


def _amount(of: Callable[[int], Amount], number: int | None) -> Amount | None:
    try:
        return None if number is None else of(number)
    except MalformedAmount:  # more than there is
        return None
