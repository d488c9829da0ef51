"""What is remembered: the seller's ledger and the buyer's purse, in SQLite."""

from farebox.stores.ledger import open_ledger
from farebox.stores.purse import open_purse

__all__ = ["open_ledger", "open_purse"]
