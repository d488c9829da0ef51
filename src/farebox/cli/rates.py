"""`[rates]` of farebox.toml: who says what a bitcoin costs, for prices in fiat."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from farebox.catalog.rates import RatesInForce
from farebox.cli.environment import Text
from farebox.core.errors import ConfigError
from farebox.core.fiat import CURRENCIES
from farebox.http.rates import Rates

_FILE: Final = "file:"


def _several(value: object) -> object:
    return [str(value)] if isinstance(value, str) or type(value) is int else value


Sources = TypeAdapter(Annotated[list[Text], BeforeValidator(_several), Field(min_length=1)])


class RatesConfig(BaseModel):
    """How rates are looked at, and for each currency by its code a source, or several."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    refresh_s: int = Field(default=60, ge=1, le=3600)
    stale_after_s: int = Field(default=600, ge=1, le=86_400)
    most_jump_percent: int = Field(default=25, ge=1, le=1000)

    @model_validator(mode="after")
    def _sensible(self) -> RatesConfig:
        if self.stale_after_s < 2 * self.refresh_s:
            raise ValueError(
                "`stale_after_s` is at least twice `refresh_s`, or each rate is void before the next is seen"
            )
        known = [*RatesConfig.model_fields, *sorted(CURRENCIES)]
        for name, value in (self.model_extra or {}).items():
            if name not in CURRENCIES:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "currencies are written like USD or EUR"
                raise ValueError(f"`{name}` is not known; {hint}")
            try:
                self._extra[name] = Sources.validate_python(value)
            except ValidationError as error:
                raise ValueError(f"`{name}`: {_told(error)}") from None
        try:
            self.open()
        except ConfigError as error:
            raise ValueError(error.detail or str(error)) from None
        return self

    @property
    def _extra(self) -> dict[str, Any]:
        return self.model_extra if self.model_extra is not None else {}

    @property
    def sources(self) -> Mapping[str, list[str]]:
        """Who says the rate of each currency."""
        return self._extra

    def in_folder(self, folder: Path) -> None:
        """Take the paths of files as relative to this folder."""
        for name, several in self.sources.items():
            self._extra[name] = [
                f"{_FILE}{folder.resolve() / each.removeprefix(_FILE)}" if each.startswith(_FILE) else each
                for each in several
            ]

    def open(self) -> Rates:
        """The rates that are described. Raises ConfigError."""
        stale_after = timedelta(seconds=self.stale_after_s)
        return Rates(
            self.sources,
            refresh_every=timedelta(seconds=self.refresh_s),
            in_force=RatesInForce(stale_after=stale_after, most_jump_percent=self.most_jump_percent),
        )


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return (
        first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else "a text in quotes, or several"
    )
