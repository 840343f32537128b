"""What the log says of links that are lost."""

from __future__ import annotations

from chunkq.protocol.condition import Reason
from chunkq.protocol.report import LinkReport
from chunkq.runtime.linklog import LinkLog

WELL = LinkReport(link="north", transport="rabbitmq")
LOST = LinkReport(
    link="north", transport="rabbitmq", reason=Reason.BROKER_UNREACHABLE, detail="refused"
)
OTHER = LinkReport(link="south", transport="spool", reason=Reason.SPOOL_UNAVAILABLE)


def told(*looks: list[LinkReport]) -> list[tuple[str, object]]:
    """The events and links that are logged when the links look so at one report after another."""
    found: list[tuple[str, object]] = []
    log = LinkLog(lambda event, **fields: found.append((event, fields["link"])))
    for links in looks:
        log.see(links)
    return found


def test_a_lost_link_is_told_of_once_and_when_it_is_back() -> None:
    """However long it lasts, and again when it is lost again."""
    once = [("link_lost", "north"), ("link_back", "north")]
    assert once == told([WELL], [LOST], [LOST], [LOST], [WELL], [WELL])
    assert once * 2 == told([LOST], [LOST], [WELL], [LOST], [LOST], [WELL])


def test_a_moment_is_no_news() -> None:
    """A connection that is being opened, or is made anew between two reports."""
    assert [] == told([LOST], [WELL], [LOST], [WELL])


def test_links_are_told_apart() -> None:
    """And one that is not used any more is not back."""
    assert [("link_lost", "south")] == told([LOST, OTHER], [WELL, OTHER], [WELL])


def test_the_reason_is_said() -> None:
    """With what the broker said."""
    said: list[tuple[str, dict[str, object]]] = []
    log = LinkLog(lambda event, *, level="info", **fields: said.append((level, fields)))
    log.see([LOST])
    log.see([LOST])
    assert [
        ("warning", {"link": "north", "reason": "broker_unreachable", "detail": "refused"})
    ] == said
