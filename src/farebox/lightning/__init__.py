"""Nodes and wallets: one file each, found by URL scheme among the entry points of the group `farebox.lightning`.

To add one: a class with `open_receiver(url)` and `open_wallet(url)` (see Backend), and an entry point that is named
after its URL scheme. There is no list to add it to. What every backend does is in `api` (calls), `reply` (JSON, read
strictly), `invoice` (what was asked for), `outcome` (what became of a payment) and `url`.
"""

from farebox.lightning.backend import Backend, open_receiver, open_wallet

__all__ = ["Backend", "open_receiver", "open_wallet"]
