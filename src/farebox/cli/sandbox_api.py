"""The sandbox's wallets, for anyone on this machine who has their passwords: phoenixd's API on a loopback port."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farebox.cli.listening import listening_socket
from farebox.cli.state import read_json, sandbox_file, write_private
from farebox.core.secret import Secret
from farebox.http.request import AsgiApp

if TYPE_CHECKING:
    from farebox.lightning.sandbox import Sandbox

_CANCEL_AFTER: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallets:
    """The sandbox's wallets, as URLs for anyone on this machine; each holds a password.

    seller: can only be paid. refunds: the seller's too, which can pay.
    """

    buyer: Secret[str]
    seller: Secret[str]
    refunds: Secret[str]


@contextmanager
def sandbox_address(folder: Path) -> Iterator[tuple[socket.socket, Wallets]]:
    """A socket for the API, and the wallets that it opens, which a file tells to whoever may read the folder."""
    with listening_socket("127.0.0.1", 0) as bound:
        passwords, port = _passwords(folder), bound.getsockname()[1]
        wallets = Wallets(
            buyer=Secret(f"phoenixd+http://:{passwords['buyer']}@127.0.0.1:{port}"),
            seller=Secret(f"phoenixd+http://:{passwords['seller']}@127.0.0.1:{port}"),
            refunds=Secret(f"phoenixd+http://:{passwords['refunds']}@127.0.0.1:{port}"),
        )
        file = sandbox_file(folder, port)
        told = {
            "buyer_wallet": wallets.buyer.reveal(),
            "seller_wallet": wallets.seller.reveal(),
            "refund_wallet": wallets.refunds.reveal(),
        }
        write_private(file, json.dumps(told))
        try:
            yield bound, wallets
        finally:
            file.unlink(missing_ok=True)


def sandbox_app(sandbox: Sandbox, folder: Path) -> AsgiApp:
    """The API, as an app."""
    from farebox.lightning.phoenixd_api import phoenixd_api

    return phoenixd_api(sandbox, {password: role for role, password in _passwords(folder).items()})


@asynccontextmanager
async def sandbox_api(sandbox: Sandbox, folder: Path, bound: socket.socket) -> AsyncIterator[None]:
    """While inside, the API answers on this socket."""
    from farebox.cli.server import Quiet

    api = Quiet(sandbox_app(sandbox, folder), cancel_after=_CANCEL_AFTER)
    serving = asyncio.create_task(api.serve(sockets=[bound]))
    try:
        yield
    finally:
        api.should_exit = True
        await serving


def _passwords(folder: Path) -> Mapping[str, str]:
    file = folder / "sandbox-passwords.json"
    remembered = read_json(file)
    passwords = {role: remembered.get(role) or secrets.token_hex(32) for role in ("buyer", "seller", "refunds")}
    if passwords != remembered:
        write_private(file, json.dumps(passwords))
    return passwords
