"""The commands of `farebox`, each a short way to what the rooms below do.

Typer was chosen over cyclopts: it starts a little sooner, and the completions and rich help are the ones people know.
Every command imports what it needs when it runs, so that `farebox --help` is quick.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from farebox.cli.approvals_command import approvals
from farebox.cli.buying import budget, call, history, resume
from farebox.cli.doctor_command import doctor
from farebox.cli.options import Json, ReceiverUrl, State
from farebox.cli.options import folder as _folder
from farebox.cli.output import errors_told
from farebox.cli.proxy_command import proxy
from farebox.cli.purse_command import purse
from farebox.cli.refund_command import refund
from farebox.cli.wallet_serve_command import serve_wallet


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


app = typer.Typer(
    name="farebox",
    help="Sell an HTTP call for a few sats over Lightning, and buy one within a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes of `call`: 0 done, 1 failed, 2 usage, 3 over budget or refused before paying, 4 payment failed, "
    "5 unresolved, 6 network, 7 refused by the server, 8 paid and not served, 10 dry run of a call that costs, "
    "11 needs a person's approval.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"farebox {version('farebox')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Sell an HTTP call for a few sats over Lightning, and buy one within a budget."""


# Options of `serve` that take more than a line.
Workers = Annotated[
    str | None,
    typer.Option(metavar="N", help="So many processes; `auto` for one per core. (default: one and no other)"),
]
InvoicesPerS = Annotated[float | None, typer.Option(help="New invoices a second, for everyone together. (default: 50)")]
SpendingKey = Annotated[
    bool, typer.Option("--allow-spending-key", help="Yes, the node's credential may be one that can also pay.")
]


@app.command(rich_help_panel="Sell")
def serve(
    config: Annotated[
        Path | None, typer.Argument(help="A farebox.toml; `farebox init` writes one (default: the one in this folder).")
    ] = None,
    openai: Annotated[str | None, typer.Option(help="Put an OpenAI-compatible model on sale: its base URL.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name, with --openai.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="The model's API key.", show_default=False)
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Put an HTTP service that exists already on sale.")] = None,
    price: Annotated[
        str | None, typer.Option(help="Per call, such as 21sat or '0.5 US cent'. (default: 21 sat with --openai)")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Where it is sold. (default: /api/dvm, or everything)")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port. (default: 127.0.0.1:8402)")] = None,
    public_url: Annotated[str | None, typer.Option(help="What the public calls it.")] = None,
    receiver: ReceiverUrl = None,
    store: Annotated[str | None, typer.Option(help="The ledger, such as sqlite:///shop.db.")] = None,
    free_calls: Annotated[int | None, typer.Option(help="Per client and 24 hours. (default: 1)")] = None,
    workers: Workers = None,
    invoices_per_s: InvoicesPerS = None,
    metrics: Annotated[str | None, typer.Option(help="host:port where Prometheus reads /metrics.")] = None,
    allow_spending_key: SpendingKey = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Yes, sell for play money, even to the public.")] = False,
    state: Annotated[Path | None, typer.Option("--state", help="Also write the URLs to this file, as JSON.")] = None,
    log_level: Annotated[Level, typer.Option(help="What is worth a line.")] = Level.INFO,
    state_dir: State = None,
) -> None:
    """Sell calls: a model, a service that exists already, or everything in a farebox.toml."""
    with errors_told():
        from farebox.cli.config import Source
        from farebox.cli.running import run_until_signal, supervise_until_signal
        from farebox.cli.serve import check_exposure
        from farebox.core.errors import ConfigError

        flags = {
            "listen": listen, "public_url": public_url, "receiver": receiver, "store": store, "metrics": metrics,
            "free_calls": free_calls, "invoices_per_s": invoices_per_s, "workers": workers,
            "allow_spending_key": allow_spending_key or None,
        }  # fmt: skip
        given: dict[str, object] = {name: value for name, value in flags.items() if value is not None}
        if config is None and not (openai or upstream) and Path("farebox.toml").exists():
            config = Path("farebox.toml")
        if config is not None:
            if openai or upstream or model or price or path:
                raise ConfigError("what is sold stands in the file; leave out --openai, --upstream, --price and --path")
        else:
            line = _line(openai=openai, model=model, api_key=api_key, upstream=upstream, price=price, path=path)
            given["route"] = [line]
        source = Source(file=config, flags=given)
        shop = source.read()
        check_exposure(shop, sandbox_allowed=sandbox)
        if shop.workers is None:
            run_until_signal(shop, folder=_folder(state_dir), state_file=state, log_level=log_level.value)
        else:
            supervise_until_signal(
                shop, source, folder=_folder(state_dir), state_file=state, log_level=log_level.value,
                sandbox_allowed=sandbox,
            )  # fmt: skip


def _line(
    *, openai: str | None, model: str | None, api_key: str | None, upstream: str | None, price: str | None,
    path: str | None,
) -> dict[str, object]:  # fmt: skip
    from farebox.core.errors import ConfigError

    if (openai is None) == (upstream is None):
        raise ConfigError(
            "say what is sold: a farebox.toml, --openai URL --model NAME, or --upstream URL --price 21sat"
        )
    if openai is not None:
        if model is None:
            raise ConfigError("--openai needs --model NAME")
        line: dict[str, object] = {"path": path or "/api/dvm", "method": "POST", "price": price or "21 sat"}
        return line | {"openai": openai, "model": model} | ({"api_key": api_key} if api_key else {})
    if price is None:
        raise ConfigError("--upstream needs --price, such as --price 21sat")
    return {"path": path or "/*", "price": price, "upstream": upstream}


@app.command(rich_help_panel="Sell")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("farebox.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented farebox.toml to begin with."""
    with errors_told():
        from farebox.cli.config import TEMPLATE
        from farebox.cli.output import tell
        from farebox.cli.state import key_ring, write_private
        from farebox.core.errors import ConfigError

        if path.exists() and not force:
            raise ConfigError(f"{path} is there already; --force replaces it")
        write_private(path, TEMPLATE)
        key_ring(path.parent / "farebox.keys")
        tell(f"wrote {path} and its keys; next: farebox serve {path}")


keys = typer.Typer(
    no_args_is_help=True, help="The master keys of a shop: list, rotate and revoke them while it serves."
)
app.add_typer(keys, name="keys", rich_help_panel="Sell")

KeyFile = Annotated[
    Path | None,
    typer.Option("--keys", help="The key file. (default: that of the farebox.toml here, or yours)", show_default=False),
]


@keys.command("list")
def list_keys(file: KeyFile = None, as_json: Json = False, state_dir: State = None) -> None:
    """The ids of the keys, oldest first, and which one mints; never a key."""
    with errors_told(as_json=as_json):
        from farebox.cli.keys import chosen_file, show_keys

        show_keys(chosen_file(file, folder=_folder(state_dir)), as_json=as_json)


@keys.command("rotate")
def rotate_keys(file: KeyFile = None, as_json: Json = False, state_dir: State = None) -> None:
    """Add a fresh key: it mints from now on, and the old ones verify until they are revoked. No restart is needed."""
    with errors_told(as_json=as_json):
        from farebox.cli.keys import chosen_file, rotate, tell_rotated, utc_now

        made = rotate(chosen_file(file, folder=_folder(state_dir)), now=utc_now())
        tell_rotated(made, as_json=as_json)


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `farebox keys list` tells it.")],
    file: KeyFile = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """Take a key away for good: what it minted is refused from now on, paid for or not, and what it sealed is gone."""
    with errors_told(as_json=as_json):
        from farebox.cli.keys import chosen_file, revoke, tell_revoked

        revoke(chosen_file(file, folder=_folder(state_dir)), key_id)
        tell_revoked([key_id], as_json=as_json)


@keys.command("prune")
def prune_keys(file: KeyFile = None, as_json: Json = False, state_dir: State = None) -> None:
    """Take away the keys that nothing which can still be claimed was minted with."""
    with errors_told(as_json=as_json):
        from farebox.cli.keys import chosen_file, prune, tell_revoked, utc_now

        gone = prune(chosen_file(file, folder=_folder(state_dir)), now=utc_now())
        tell_revoked(gone, as_json=as_json)


class _ShowsByDefault(TyperGroup):
    """`farebox ledger [STORE]` is short for `farebox ledger show [STORE]`, and so with `wallet`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


ledger = typer.Typer(cls=_ShowsByDefault, help="What was sold. Without a command, or with a store: `show`.")
app.add_typer(ledger, name="ledger", rich_help_panel="Sell")

Store = Annotated[
    str | None,
    typer.Argument(
        help="sqlite:///path, postgresql://…, or a farebox.toml (default: the one in this folder, or yours)."
    ),
]


def _store(named: str | None) -> str | None:
    return "farebox.toml" if named is None and Path("farebox.toml").exists() else named


@ledger.command("show")
def show_ledger(
    store: Store = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="So many of the newest payments.")] = 20,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What was sold: the books, and the newest payments."""
    with errors_told(as_json=as_json):
        from farebox.cli import books

        books.show_ledger(_store(store), folder=_folder(state_dir), limit=limit, as_json=as_json)


@ledger.command("migrate")
def migrate_ledger(store: Store = None, state_dir: State = None) -> None:
    """Bring the ledger to this version for good, once no gateway of an older one runs on it any more."""
    with errors_told():
        from farebox.cli.books import migrate_ledger as migrate

        migrate(_store(store), folder=_folder(state_dir))


@ledger.command("verify")
def verify_ledger(
    store: Store = None,
    keys: KeyFile = None,
    noted: Annotated[
        list[str] | None,
        typer.Option(help="A head that was noted elsewhere, such as 17:9f86d081884c7d65; may be repeated."),
    ] = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """Whether the ledger is as it was sealed, and the books balance; exit code 9 and a line for what is off."""
    with errors_told(as_json=as_json):
        from farebox.cli.seals import verify_ledger as verify

        folder = _folder(state_dir)
        raise SystemExit(verify(_store(store), keys, folder=folder, noted=tuple(noted or ()), as_json=as_json))


app.command(rich_help_panel="Sell")(refund)


for _command in (call, budget, history, resume):
    app.command(rich_help_panel="Buy")(_command)
app.add_typer(approvals, name="approvals", rich_help_panel="Buy")
app.add_typer(purse, name="purse", rich_help_panel="Buy")


wallet = typer.Typer(cls=_ShowsByDefault, help="The wallet that pays. Without a command, or with a URL: `show`.")
wallet.command("serve")(serve_wallet)
app.add_typer(wallet, name="wallet", rich_help_panel="Buy")


@wallet.command("show")
def show_wallet(
    url: Annotated[
        str | None,
        typer.Argument(envvar="FAREBOX_WALLET", help="Default: that of a running sandbox.", show_default=False),
    ] = None,
    pay: Annotated[str | None, typer.Option(help="Pay this BOLT11 invoice by hand.")] = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """The balance of a wallet; with --pay, pay an invoice from it by hand."""
    with errors_told(as_json=as_json, moved=None if pay else False):
        from farebox.cli.books import show_wallet as show

        raise SystemExit(show(url, pay=pay, folder=_folder(state_dir), as_json=as_json))


app.command(rich_help_panel="Buy")(proxy)
app.add_typer(doctor, name="doctor", rich_help_panel="Sell")


@app.command(rich_help_panel="See it work")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the shop running and print curl commands.")] = False,
    state: Annotated[Path | None, typer.Option("--state", help="Write the URLs to this file, as JSON.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8402 with --keep if it is free, else another.")
    ] = None,
    lightning: Annotated[
        bool, typer.Option("--lightning", help="Over real channels, between lnd nodes that scripts/lightning installs.")
    ] = False,
) -> None:
    """A whole sale and purchase, told step by step, with play money."""
    with errors_told():
        from farebox.cli.demo import tell_story

        raise SystemExit(tell_story(keep=keep, state_file=state, port=port, lightning=lightning))
