"""farebox.toml: what a shop sells, at which price, through which node.

Rules
1. What is not known is refused with the nearest name that is; a typing error never becomes a default.
2. A value that begins with `$` is taken from the environment, so that a file can be shown to others.
3. Paths are relative to the file's own folder.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from farebox.catalog.routes import FREE
from farebox.cli.environment import Text, expanded
from farebox.cli.rates import RatesConfig
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, MalformedAmount
from farebox.core.fiat import Fiat
from farebox.core.secret import Secret
from farebox.gate import Limits, Terms

P = TypeVar("P", bound="Places")

DEFAULT_LISTEN: Final = "127.0.0.1:8402"
DEFAULT_METRICS: Final = "127.0.0.1:9402"
DEFAULT_PRICE: Final = "21 sat"
SANDBOX: Final = "sandbox:"
_PASSWORD_IN_URL: Final = re.compile(r"://[^/\s@]*:([^\s@]+)@")


def _amount(text: str) -> str:
    if text != FREE:
        try:
            if not Amount.read(text):
                raise ValueError("a price is more than nothing; write `free` if that is meant")
        except MalformedAmount as error:
            raise ValueError(str(error)) from None
    return text


def _price(text: str) -> str:
    try:
        Amount.read(text)
    except MalformedAmount:
        try:
            return text if text == FREE else str(Fiat.read(text))
        except MalformedAmount as error:
            raise ValueError(str(error)) from None
    return _amount(text)


def _method(text: str) -> str:
    method = text.upper()
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE", "*"):
        raise ValueError("GET, POST, PUT, PATCH, DELETE, or * for all of them")
    return method


def _workers(value: object) -> object:
    if value == "auto":
        return 0
    if isinstance(value, bool) or not (value is None or isinstance(value, int) or str(value).isdecimal()):
        raise ValueError('a number of processes, or "auto" for one per core')
    return value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL such as http://127.0.0.1:9000")
    return text


PriceText = Annotated[str, AfterValidator(_price)]
AmountText = Annotated[str, AfterValidator(_amount)]
HttpUrl = Annotated[str, AfterValidator(expanded), AfterValidator(_http_url)]


class Settle(StrEnum):
    """When what is paid for a call is the seller's."""

    AT_ONCE = "at-once"
    ON_SUCCESS = "on-success"


class RouteConfig(BaseModel):
    """One line of the price list, and what is behind it: an upstream, an OpenAI-compatible model, the demo."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    path: str
    method: Annotated[str, AfterValidator(_method)] | None = None
    price: PriceText
    summary: str = ""
    upstream: HttpUrl | None = None
    upstream_headers: dict[str, Text] = Field(default_factory=dict, repr=False)
    upstream_timeout_s: float = Field(default=120, gt=0)
    rerun: bool = False
    charge_for: tuple[int, ...] = ()
    settle: Settle = Settle.AT_ONCE
    openai: HttpUrl | None = None
    model: str | None = None
    api_key: Text | None = Field(default=None, repr=False)
    demo: bool = False

    @model_validator(mode="after")
    def _one_thing(self) -> RouteConfig:
        if sum((self.upstream is not None, self.openai is not None, self.demo)) != 1:
            raise ValueError("needs exactly one of `upstream`, `openai` and `demo`")
        if (self.openai is None) != (self.model is None):
            raise ValueError("`openai` and `model` go together")
        if self.price == "free" and self.upstream is None:
            raise ValueError("only an `upstream` can be free")
        return self


class Places(BaseModel):
    """Where a shop keeps things, for commands that need nothing else of it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    store: Text | None = Field(default=None, repr=False)
    keys: Path | None = None

    def in_folder(self, here: Path) -> None:
        """Take what is relative as relative to this folder."""
        if self.keys is not None:
            self.keys = here / self.keys
        if self.store and self.store.startswith("sqlite:///") and not self.store.startswith("sqlite:////"):
            self.store = f"sqlite:///{(here / self.store.removeprefix('sqlite:///')).resolve()}"


class Config(Places):
    """A whole shop."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    listen: Text = DEFAULT_LISTEN
    metrics: Text | None = None
    public_url: HttpUrl | None = None
    receiver: Annotated[tuple[Text, ...], BeforeValidator(_several)] = Field(
        default=(SANDBOX,), min_length=1, repr=False
    )
    allow_spending_key: bool = False
    workers: Annotated[int | None, BeforeValidator(_workers), Field(ge=0, le=256)] = None
    free_calls: int = Field(default=1, ge=0, le=10_000)
    free_calls_per_subnet: int | None = Field(default=None, ge=0)
    free_calls_a_day: int = Field(default=10_000, ge=0)
    free_up_to: AmountText = "1000 sat"
    calls_per_client_s: float = Field(default=10, gt=0)
    calls_at_once: int = Field(default=100, ge=1)
    invoices_per_s: float = Field(default=50, gt=0)
    unpaid_per_client: int = Field(default=20, ge=1)
    unpaid_invoices: int = Field(default=100_000, ge=1)
    invoice_expires_in_s: int = Field(default=600, ge=60, le=86_400)
    keep_answers_s: int = Field(default=86_400, ge=60, le=31 * 86_400)
    most_body_bytes: int = Field(default=1024 * 1024, ge=0, le=256 * 1024 * 1024)
    most_answer_bytes: int = Field(default=16 * 1024 * 1024, ge=0, le=256 * 1024 * 1024)
    trusted_proxies: list[str] = Field(default_factory=list)
    client_header: str = "x-forwarded-for"
    rates: RatesConfig = Field(default_factory=RatesConfig, repr=False)
    route: list[RouteConfig] = Field(min_length=1)

    def with_flags(self, flags: Mapping[str, object]) -> Config:
        """The same shop with some values from the command line. Raises ConfigError."""
        return checked({**self.model_dump(exclude_unset=True), **flags}, "the command line") if flags else self

    @property
    def is_sandbox(self) -> bool:
        """Whether it sells for play money."""
        return self.receiver == (SANDBOX,)

    @property
    def worker_count(self) -> int | None:
        """How many processes answer calls beside the one that supervises them; None for one process and no other."""
        if self.workers is None:
            return None
        return self.workers or _cores()

    @property
    def secrets(self) -> tuple[Secret[str], ...]:
        """Every password and key in it, for those who have to keep them out of what they write."""
        urls = " ".join(
            (*self.receiver, self.store or "", *(line.upstream or line.openai or "" for line in self.route))
        )
        given = [each[1] for each in _PASSWORD_IN_URL.finditer(urls)]
        for line in self.route:
            given += [line.api_key or "", *line.upstream_headers.values()]
            given += [value.rpartition(" ")[2] for value in line.upstream_headers.values()]
        return tuple(Secret(each) for each in dict.fromkeys(given) if each)

    @property
    def terms(self) -> Terms:
        """The seller's terms."""
        return Terms(
            free_calls=self.free_calls,
            free_calls_of_subnet=self.free_calls_per_subnet,
            free_calls_of_all=self.free_calls_a_day,
            free_up_to=Amount(0) if self.free_up_to == "free" else Amount.read(self.free_up_to),
            invoice_expires_in=timedelta(seconds=self.invoice_expires_in_s),
            keep_answers=timedelta(seconds=self.keep_answers_s),
            limits=Limits(
                calls_per_s=self.calls_per_client_s,
                calls_at_once=self.calls_at_once,
                invoices_per_s=self.invoices_per_s / (self.worker_count or 1),  # each process has its share
                unpaid_invoices=self.unpaid_per_client,
                all_unpaid_invoices=self.unpaid_invoices,
            ),
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises ConfigError."""
        return host_and_port("listen", self.listen, DEFAULT_LISTEN)

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port where metrics are read; None for nowhere. Raises ConfigError."""
        return None if self.metrics is None else host_and_port("metrics", self.metrics, DEFAULT_METRICS)


def host_and_port(name: str, text: str, example: str) -> tuple[str, int]:
    """Host and port, written with a colon between them. Raises ConfigError, naming the setting."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{name} is host:port, such as {example}, not {text}")
    return host.strip("[]"), int(port)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a shop is described: in a file, if there is one, and by what the command line says on top."""

    file: Path | None
    flags: Mapping[str, object]

    def read(self) -> Config:
        """The shop as it is described now. Raises ConfigError."""
        if self.file is None:
            return checked(dict(self.flags), "the command line")
        return read_config(self.file).with_flags(self.flags)


def read_config(path: Path) -> Config:
    """The shop that a file describes. Raises ConfigError with the line or key that is wrong."""
    config = checked(_content(path), str(path))
    config.rates.in_folder(path.parent)
    config.in_folder(path.parent)
    return config


def read_place(path: Path, name: str) -> Places:
    """The `store` or the `keys` of the shop that a file describes, whatever the environment lacks for the rest of it.

    Raises ConfigError.
    """
    content = _content(path)
    wanted = {each: value for each, value in content.items() if each == name or each not in Config.model_fields}
    places = _validated(Places, wanted, str(path))
    places.in_folder(path.parent)
    return places


def _content(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}; `farebox init` writes one") from None
    except (ValueError, RecursionError) as error:  # also of numbers that are too long, and of too deep a nesting
        raise ConfigError(f"{path}: {error}") from None


def checked(content: dict[str, object], source: str) -> Config:
    """A shop from plain values. Raises ConfigError."""
    return _validated(Config, content, source)


def _validated(kind: type[P], content: dict[str, object], source: str) -> P:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        # A name that is not known is likely why another one is missing.
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        raise ConfigError(f"{source}: {_told(first['type'], first['loc'], first['msg'])}") from None


def _told(kind: str, where: tuple[int | str, ...], message: str) -> str:
    in_route = len(where) > 1 and where[0] == "route"
    place = f"route {int(where[1]) + 1}: " if in_route else ""
    name = ".".join(str(part) for part in (where[2:] if in_route else where))
    if kind == "extra_forbidden":
        known = RouteConfig.model_fields if in_route else Config.model_fields
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
        return f"{place}`{name}` is not known; {hint}"
    text = 'a text in quotes, such as "21 sat"' if kind == "string_type" else message.removeprefix("Value error, ")
    return f"{place}`{name}`: {text}" if name else f"{place}{text}"


TEMPLATE: Final = """\
# A farebox shop. Start it with:  farebox serve farebox.toml

listen = "127.0.0.1:8402"            # where callers reach it; put nginx or Caddy with TLS in front for the public
# public_url = "https://api.example.com"  # what the public calls it; binds proofs to it
# workers = "auto"                   # so many processes, one for each core with "auto"; without this, one and no other
# metrics = "127.0.0.1:9402"         # where Prometheus reads /metrics; never the public's address

# The node or wallet that is paid. `sandbox:` moves no real money: it is for trying things out.
# A value that begins with $ is taken from the environment.
receiver = "sandbox:"
# receiver = "$FAREBOX_RECEIVER"     # such as phoenixd+http://:PASSWORD@127.0.0.1:9740
# receiver = ["$MY_NODE", "$MY_OTHER_NODE"]  # the first that answers makes the invoice

store = "sqlite:///farebox.db"       # the ledger; keep it, it is what you earned and what you owe
# store = "postgresql://shop@db.example/shop"  # one ledger for gateways on many machines
keys = "farebox.keys"                # made here if it is not there; whoever has it can forge proofs

free_calls = 1                       # per client and 24 hours; 0 for none
# keep_answers_s = 86400             # for so long a paid answer can be fetched again
# most_answer_bytes = 16777216       # a larger one is given once: it can't be fetched again when its connection breaks
# free_calls_per_subnet = 4          # a day, for the /48 around a client of IPv6
# free_calls_a_day = 10000           # for everyone together
# free_up_to = "1000 sat"            # what costs more is never free

# What callers may ask for before they pay; a payment is bound by none of it.
# calls_per_client_s = 10            # of one client, on average; calls_at_once = 100 in a burst
# unpaid_per_client = 20             # invoices of one client that are not paid yet
# invoices_per_s = 50                # new invoices for everyone; each one is a question to your node
# unpaid_invoices = 100000           # of everyone; 100,000 are about 60 MB in the ledger
trusted_proxies = []                 # such as ["127.0.0.1"] when a proxy of yours sets X-Forwarded-For

# What a bitcoin costs, for prices in fiat. Without this, public services are asked: docs/prices.md.
# [rates]
# USD = ["https://api.coinbase.com/v2/prices/BTC-USD/spot#/data/amount", "https://mempool.space/api/v1/prices#/USD"]
# EUR = "file:rates.json#/EUR"       # written by a job of yours; or a rate that you decided on, such as "58000"
# stale_after_s = 600                # what is older is no rate: such calls are told 503 until there is one again

# What is sold. Each route has a path, a price and something behind it.

[[route]]
path = "/api/dvm"
method = "POST"
price = "21 sat"                     # or "500 msat", "0.5 US cent", "$0.005", "2 EUR"
summary = "Text from a prompt"
demo = true                          # a tiny built-in writer, to see it work; replace it by a model:
# openai = "http://127.0.0.1:11434/v1"    # any OpenAI-compatible server
# model = "llama3.2"
# api_key = "$OPENAI_API_KEY"

# [[route]]
# path = "/score/*"                  # everything below /score/ of a service that exists already
# price = "2 sat"
# upstream = "http://127.0.0.1:9000"
# upstream_headers = { Authorization = "$UPSTREAM_TOKEN" }
# rerun = true                       # it may be run twice for one payment, of which its Idempotency-Key tells;
#                                    # without this, a call of which nobody knows whether it ran becomes credit
# settle = "on-success"              # the node holds the money until the call has succeeded, and gives it back when
#                                    # it has not (lnd, Alby Hub; other nodes: paid first, and kept for a retry)
# charge_for = [404]                 # a refusal (4xx) is not charged (what was paid is kept for the same proof shown
#                                    # again), except these, which are answers like any other

# [[route]]
# path = "/about"
# price = "free"
# upstream = "http://127.0.0.1:9000"
"""
