"""How challenge, credential and receipt look on a wire: pure codecs; none knows another, none pays."""

from farebox.dialects.l402 import L402
from farebox.dialects.payment_auth import PaymentAuth
from farebox.dialects.payment_hash import PaymentHash
from farebox.dialects.x402 import X402

__all__ = ["L402", "X402", "PaymentAuth", "PaymentHash"]
