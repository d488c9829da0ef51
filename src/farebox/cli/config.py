"""farebox.toml: what a shop sells, at which price, through which node.

Rules
1. What is not known is refused with the nearest name that is; a typing error never becomes a default.
2. A value that begins with `$` is taken from the environment, so that a file can be shown to others.
3. Paths are relative to the file's own folder.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, MalformedAmount
from farebox.gate import Terms

DEFAULT_LISTEN: Final = "127.0.0.1:8402"
DEFAULT_PRICE: Final = "21 sat"


def _expanded(text: str) -> str:
    if not text.startswith("$"):
        return text
    value = os.environ.get(text[1:])
    if not value:
        raise ValueError(f"the environment has no {text[1:]}")
    return value


def _price(text: str) -> str:
    if text != "free":
        try:
            if not Amount.read(text):
                raise ValueError("a price is more than nothing; write `free` if that is meant")
        except MalformedAmount as error:
            raise ValueError(str(error)) from None
    return text


def _method(text: str) -> str:
    method = text.upper()
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE", "*"):
        raise ValueError("GET, POST, PUT, PATCH, DELETE, or * for all of them")
    return method


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL such as http://127.0.0.1:9000")
    return text


Text = Annotated[str, AfterValidator(_expanded)]
PriceText = Annotated[str, AfterValidator(_price)]
HttpUrl = Annotated[str, AfterValidator(_expanded), AfterValidator(_http_url)]


class RouteConfig(BaseModel):
    """One line of the price list, and what is behind it: an upstream, an OpenAI-compatible model, the demo."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    path: str
    method: Annotated[str, AfterValidator(_method)] | None = None
    price: PriceText
    summary: str = ""
    upstream: HttpUrl | None = None
    upstream_headers: dict[str, Text] = Field(default_factory=dict)
    upstream_timeout_s: float = Field(default=120, gt=0)
    rerun: bool = False
    openai: HttpUrl | None = None
    model: str | None = None
    api_key: Text | None = None
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


class Config(BaseModel):
    """A whole shop."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    listen: Text = DEFAULT_LISTEN
    public_url: HttpUrl | None = None
    receiver: Text = "sandbox:"
    store: Text | None = None
    keys: Path | None = None
    free_calls: int = Field(default=1, ge=0, le=10_000)
    invoice_expires_in_s: int = Field(default=600, ge=60, le=86_400)
    most_body_bytes: int = Field(default=1024 * 1024, ge=0, le=256 * 1024 * 1024)
    most_answer_bytes: int = Field(default=16 * 1024 * 1024, ge=0, le=256 * 1024 * 1024)
    trusted_proxies: list[str] = Field(default_factory=list)
    client_header: str = "x-forwarded-for"
    route: list[RouteConfig] = Field(min_length=1)

    def with_flags(self, flags: Mapping[str, object]) -> Config:
        """The same shop with some values from the command line. Raises ConfigError."""
        return checked({**self.model_dump(exclude_unset=True), **flags}, "the command line") if flags else self

    @property
    def terms(self) -> Terms:
        """The seller's terms."""
        return Terms(
            free_calls=self.free_calls,
            invoice_expires_in=timedelta(seconds=self.invoice_expires_in_s),
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises ConfigError."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"listen is host:port, such as {DEFAULT_LISTEN}, not {self.listen}")
        return host.strip("[]"), int(port)


def read_config(path: Path) -> Config:
    """The shop that a file describes. Raises ConfigError with the line or key that is wrong."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}; `farebox init` writes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    config = checked(content, str(path))
    here = path.parent
    if config.keys is not None:
        config.keys = here / config.keys
    if config.store and config.store.startswith("sqlite:///") and not config.store.startswith("sqlite:////"):
        config.store = f"sqlite:///{(here / config.store.removeprefix('sqlite:///')).resolve()}"
    return config


def checked(content: dict[str, object], source: str) -> Config:
    """A shop from plain values. Raises ConfigError."""
    try:
        return Config.model_validate(content)
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

# The node or wallet that is paid. `sandbox:` moves no real money: it is for trying things out.
# A value that begins with $ is taken from the environment.
receiver = "sandbox:"
# receiver = "$FAREBOX_RECEIVER"     # such as phoenixd+http://:PASSWORD@127.0.0.1:9740

store = "sqlite:///farebox.db"       # the ledger; keep it, it is what you earned and what you owe
keys = "farebox.keys"                # made here if it is not there; whoever has it can forge proofs

free_calls = 1                       # per client and 24 hours; 0 for none
trusted_proxies = []                 # such as ["127.0.0.1"] when a proxy of yours sets X-Forwarded-For

# What is sold. Each route has a path, a price and something behind it.

[[route]]
path = "/api/dvm"
method = "POST"
price = "21 sat"
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

# [[route]]
# path = "/about"
# price = "free"
# upstream = "http://127.0.0.1:9000"
"""
