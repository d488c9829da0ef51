"""The commands of `farebox`, each a short way to what the rooms below do.

Typer was chosen over cyclopts: it starts a little sooner, and the completions and rich help are the ones people know.
Every command imports what it needs when it runs, so that `farebox --help` is quick.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from farebox.cli.output import errors_told


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
    "5 unresolved, 6 network, 7 refused by the server, 8 paid and not served, 10 dry run of a call that costs.",
)

Json = Annotated[bool, typer.Option("--json", help="JSON even on a terminal.")]
State = Annotated[
    Path | None,
    typer.Option("--state-dir", envvar="FAREBOX_STATE", help="Where farebox keeps things for you.", show_default=False),
]


def _folder(chosen: Path | None) -> Path:
    from farebox.cli.state import state_dir

    return chosen or state_dir()


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
    price: Annotated[str | None, typer.Option(help="Per call, such as 21sat. (default: 21 sat with --openai)")] = None,
    path: Annotated[str | None, typer.Option(help="Where it is sold. (default: /api/dvm, or everything)")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port. (default: 127.0.0.1:8402)")] = None,
    public_url: Annotated[str | None, typer.Option(help="What the public calls it.")] = None,
    receiver: Annotated[
        str | None,
        typer.Option(
            envvar="FAREBOX_RECEIVER",
            help="The node or wallet that is paid, such as phoenixd+http://:PASSWORD@127.0.0.1:9740.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(help="The ledger, such as sqlite:///shop.db.")] = None,
    free_calls: Annotated[int | None, typer.Option(help="Per client and 24 hours. (default: 1)")] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Yes, sell for play money, even to the public.")] = False,
    state: Annotated[Path | None, typer.Option("--state", help="Also write the URLs to this file, as JSON.")] = None,
    log_level: Annotated[Level, typer.Option(help="What is worth a line.")] = Level.INFO,
    state_dir: State = None,
) -> None:
    """Sell calls: a model, a service that exists already, or everything in a farebox.toml."""
    with errors_told():
        from farebox.cli.config import checked, read_config
        from farebox.cli.running import run_until_signal
        from farebox.cli.serve import check_exposure
        from farebox.core.errors import ConfigError

        flags = {"listen": listen, "public_url": public_url, "receiver": receiver, "store": store}
        given: dict[str, object] = {name: value for name, value in flags.items() if value is not None}
        if free_calls is not None:
            given["free_calls"] = free_calls
        if config is None and not (openai or upstream) and Path("farebox.toml").exists():
            config = Path("farebox.toml")
        if config is not None:
            if openai or upstream or model or price or path:
                raise ConfigError("what is sold stands in the file; leave out --openai, --upstream, --price and --path")
            shop = read_config(config).with_flags(given)
        else:
            line = _line(openai=openai, model=model, api_key=api_key, upstream=upstream, price=price, path=path)
            shop = checked({**given, "route": [line]}, "the command line")
        check_exposure(shop, sandbox_allowed=sandbox)
        run_until_signal(shop, folder=_folder(state_dir), state_file=state, log_level=log_level.value)


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


@app.command(rich_help_panel="Sell")
def ledger(
    store: Annotated[
        str | None,
        typer.Argument(help="sqlite:///path, or a farebox.toml (default: the one in this folder, or yours)."),
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="So many of the newest payments.")] = 20,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What was sold: the books, and the newest payments."""
    with errors_told(as_json=as_json):
        from farebox.cli.books import show_ledger

        if store is None and Path("farebox.toml").exists():
            store = "farebox.toml"

        show_ledger(store, folder=_folder(state_dir), limit=limit, as_json=as_json)


@app.command(rich_help_panel="Buy", context_settings={"ignore_unknown_options": False})
def call(
    url: Annotated[str, typer.Argument(help="What to call.")],
    data: Annotated[
        str | None, typer.Option("-d", "--data", help="The body; @FILE reads it, @- from standard input.")
    ] = None,
    method: Annotated[str | None, typer.Option("-X", "--request", help="Default: GET, or POST with -d.")] = None,
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help='"Name: value"; may be repeated.')] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the answer to a file.")] = None,
    wallet: Annotated[
        str | None,
        typer.Option(
            envvar="FAREBOX_WALLET",
            help="What pays, such as phoenixd+http://:PASSWORD@127.0.0.1:9740. (default: a running sandbox's)",
            show_default=False,
        ),
    ] = None,
    most: Annotated[str | None, typer.Option("--max", help="The most this call may cost, such as 21sat.")] = None,
    budget: Annotated[
        str, typer.Option(envvar="FAREBOX_BUDGET", help="Over all your calls, such as '500 sat/day, 50 sat/call'.")
    ] = "500 sat/day",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask for the price and pay nothing; what costs nothing is called.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: answer, price, receipt.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one HTTP exchange.")] = 120.0,
    state_dir: State = None,
) -> None:
    """Call a URL and pay for it if it asks for money and your budget allows."""
    with errors_told(as_json=as_json):
        from farebox.cli.call import Wanted, call_once

        wanted = Wanted(
            url=url, method=method, headers=tuple(header or ()), data=data, most=most, budget=budget,
            timeout_s=timeout_s, output=output, as_json=as_json,
        )  # fmt: skip
        raise SystemExit(call_once(wanted, wallet_url=wallet, folder=_folder(state_dir), dry_run=dry_run))


@app.command(rich_help_panel="Buy")
def budget(
    limits: Annotated[
        str, typer.Argument(envvar="FAREBOX_BUDGET", help="Such as '500 sat/day, 50 sat/call'.")
    ] = "500 sat/day",
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What is spent and what is left of a budget, over all your calls."""
    with errors_told(as_json=as_json):
        from farebox.cli.books import show_budget

        show_budget(limits, folder=_folder(state_dir), as_json=as_json)


@app.command(rich_help_panel="Buy")
def history(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="So many of the newest purchases.")] = 20,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What was bought."""
    with errors_told(as_json=as_json):
        from farebox.cli.books import show_history

        show_history(folder=_folder(state_dir), limit=limit, as_json=as_json)


@app.command(rich_help_panel="Buy")
def wallet(
    url: Annotated[
        str | None,
        typer.Argument(envvar="FAREBOX_WALLET", help="Default: that of a running sandbox.", show_default=False),
    ] = None,
    pay: Annotated[str | None, typer.Option(help="Pay this BOLT11 invoice by hand.")] = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """The balance of a wallet; with --pay, pay an invoice from it by hand."""
    with errors_told(as_json=as_json):
        from farebox.cli.books import show_wallet

        raise SystemExit(show_wallet(url, pay=pay, folder=_folder(state_dir), as_json=as_json))


@app.command(rich_help_panel="See it work")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the shop running and print curl commands.")] = False,
    state: Annotated[Path | None, typer.Option("--state", help="Write the URLs to this file, as JSON.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8402 with --keep, else a free one.")] = None,
) -> None:
    """A whole sale and purchase, told step by step, with play money."""
    with errors_told():
        from farebox.cli.demo import tell_story

        raise SystemExit(tell_story(keep=keep, state_file=state, port=port))
