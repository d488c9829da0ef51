"""Core Lightning, over clnrest and over its JSON-RPC socket."""

from farebox.lightning.cln.node import Cln

__all__ = ["Cln"]
