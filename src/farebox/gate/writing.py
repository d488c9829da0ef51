"""Writing: what the gate says, in every dialect at once, so that the other side answers in whichever it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import reduce
from operator import or_

from farebox.core.bolt11 import Invoice
from farebox.core.exchange import Quote, Receipt, Wire
from farebox.core.ports import Dialect


def write_challenge(dialects: Sequence[Dialect], quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Wire:
    """One invoice in every dialect that can say this price, sealed until then."""
    challenges = [(dialect, dialect.issue(quote, invoice, valid_until=valid_until)) for dialect in dialects]
    written = [dialect.write_challenge(challenge) for dialect, challenge in challenges if challenge is not None]
    return reduce(or_, written, Wire())


def write_receipt(dialects: Sequence[Dialect], receipt: Receipt) -> Wire:
    """A receipt in every dialect that has them."""
    return reduce(or_, [dialect.write_receipt(receipt) for dialect in dialects], Wire())
