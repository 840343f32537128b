"""What a site wants of one of its processes on another host: the body of a control request."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from chunkq.protocol.messages import Body
from chunkq.protocol.priority import PriorityWord
from chunkq.protocol.report import Incarnation, Word

#: Transfers that one request is about: with the longest ids they still fit into it.
MAX_TRANSFERS: Final = 900

Action = Literal["pause", "resume", "cancel", "retry", "priority", "freeze", "thaw", "drain"]
#: What is done to transfers, and to what a site knows.
_OF_TRANSFERS: Final = frozenset({"pause", "resume", "cancel", "retry", "priority"})
_PRIORITIES: Final[tuple[str, ...]] = get_args(PriorityWord)
#: What a cancelled transfer has on disk goes, too.
DROP: Final = "drop"


class Command(Body):
    """`incarnation`: of the process that is meant; another one does nothing.

    `value`: a priority, `drop` for what is cancelled, `peer:NAME` or `link:NAME` to freeze or thaw.
    `by`: who wants it, for the audit.
    """

    incarnation: Incarnation
    action: Action
    transfers: Annotated[list[Word], Field(max_length=MAX_TRANSFERS)] = Field(default_factory=list)
    value: Annotated[str, Field(max_length=255)] = ""
    by: Annotated[str, Field(min_length=1, max_length=255)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.transfers) is not (self.action in _OF_TRANSFERS):
            raise ValueError(f"{self.action} names transfers, or must not")
        allowed: tuple[str, ...] = ("",)
        if self.action == "priority":
            allowed = _PRIORITIES
        elif self.action == "cancel":
            allowed = ("", DROP)
        elif self.action in ("freeze", "thaw"):
            kind, _, name = self.value.partition(":")
            allowed = (self.value,) if kind in ("peer", "link") and name else ()
        if self.value not in allowed:
            raise ValueError(f"{self.value!a} is nothing to {self.action}")
        return self

    @property
    def subject(self) -> tuple[str, str]:
        """What is frozen or thawed: `peer` or `link`, and its name."""
        kind, _, name = self.value.partition(":")
        return kind, name
