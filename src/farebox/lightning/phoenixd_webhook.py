"""What phoenixd calls a webhook with, when it was paid (https://phoenix.acinq.co/server/api, Webhooks)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from farebox.core.secret import Secret
from farebox.lightning.reply import hash_of, read_object


def read_webhook(secret: Secret[str], headers: Mapping[str, str], body: bytes) -> bytes | None:
    """The payment hash in a call that phoenixd has signed: `X-Phoenix-Signature`, HMAC-SHA256 in hexadecimal digits.

    headers: names in lower case. None for a call that it has not signed, or that is about something else.
    """
    signature = hmac.digest(secret.reveal().encode(), body, "sha256").hex()
    shown = headers.get("x-phoenix-signature", "").lower().encode("utf-8", "replace")
    if not hmac.compare_digest(signature.encode(), shown):
        return None
    told = read_object(body)
    return hash_of(told, "paymentHash") if told is not None and told.get("type") == "payment_received" else None
