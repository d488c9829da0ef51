"""A wallet over Nostr Wallet Connect."""

from farebox.lightning.nwc.wallet import NostrWalletConnect

__all__ = ["NostrWalletConnect"]
