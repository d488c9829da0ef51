"""lnd, over REST."""

from farebox.lightning.lnd.node import Lnd

__all__ = ["Lnd"]
