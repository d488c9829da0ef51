"""The webhook: where a shop's own node calls when something was paid; there only for a node with a secret for it."""

from __future__ import annotations

from typing import Final

from farebox.core.errors import CallerError, CredentialRejected, MethodUnknown, Unavailable
from farebox.gate.hooks import Hooks
from farebox.http import problem
from farebox.http.paywall import refuse
from farebox.http.request import AsgiApp, Disconnected, Receive, Scope, Send, read_body

WEBHOOK_PATH: Final = "/webhook"
_MOST_BYTES: Final = 16 * 1024


class Webhook:
    """Hears calls to `/webhook` in front of an app. What they say is looked up and never believed."""

    def __init__(self, app: AsgiApp, hooks: Hooks) -> None:
        self._app = app
        self._hooks = hooks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope.get("path") != WEBHOOK_PATH:
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] != "POST":
                raise MethodUnknown(allow="POST")
            body = await read_body(scope["headers"], receive, _MOST_BYTES)
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if not await self._hooks.hear(headers, body):
                raise CredentialRejected("this call is not signed by a node of this shop")
        except Disconnected:
            return
        except (CallerError, Unavailable) as error:
            await refuse(scope, send, error)
            return
        await problem.answer(send, 204, [], b"", head=True)
