"""What every error of farebox is; the tree of them is in farebox.core.errors."""

from __future__ import annotations

import re
from functools import cache
from typing import ClassVar, Self

Evidence = str | int | float | bool | None


@cache
def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


class FareboxError(Exception):
    """Something went wrong in farebox."""

    money_moved: ClassVar[bool | None] = None  # None: nobody can tell, or nothing was bought
    next_step: ClassVar[str] = ""

    def __init__(self, detail: str | None = None, **evidence: Evidence) -> None:
        self.detail = detail
        self.evidence = evidence
        super().__init__(detail)
        if self.next_step:
            self.add_note(self.next_step)  # which a traceback tells below the message (PEP 678)

    @property
    def title(self) -> str:
        """The first line of the class's docstring, without its full stop."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0].rstrip(".")

    @property
    def type(self) -> str:
        """The stable name of this kind of problem, such as `request-mismatch`."""
        return _kebab(type(self).__name__)

    def as_json(self) -> dict[str, Evidence]:
        """A flat object for logs and models: type, title, detail, money_moved, next_step and the evidence."""
        told: dict[str, Evidence] = {"type": self.type, "title": self.title, "detail": self.detail}
        return told | {"money_moved": self.money_moved, "next_step": self.next_step} | self.evidence

    def with_evidence(self, **evidence: Evidence) -> Self:
        """The same error with more evidence."""
        self.evidence.update(evidence)
        return self

    def __str__(self) -> str:
        text = f"{self.title}: {self.detail}" if self.detail else self.title
        told = ", ".join(f"{name}={value}" for name, value in self.evidence.items() if value is not None)
        return f"{text} ({told})" if told else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.detail, self.evidence))


def _rebuild(kind: type[FareboxError], detail: str | None, evidence: dict[str, Evidence]) -> FareboxError:
    return kind(detail, **evidence)
