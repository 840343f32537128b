"""What the page writes down of who did what: once, with the name of who was logged in."""

from __future__ import annotations

from tests.api.operating import Operated
from tests.dashboard.application import Visitor


async def test_each_deed_stands_once_in_the_audit(operated: Operated, visitor: Visitor) -> None:
    """Jobs, peers and links: one line each, by the person at the page."""
    job = operated.job()
    operated.refresh()
    visitor.log_in("erin")
    for do in (
        f"pause {job}",
        f"resume {job}",
        f"urgent {job}",
        f"cancel {job}",
        f"retry {job}",
        "freeze-peer bob",
        "thaw-peer bob",
        "freeze-link default",
        "thaw-link default",
    ):
        assert 303 == (await visitor.form("/act", do=do)).status_code
    operated.operations.record()
    told = [
        (moment.what, moment.transfer or moment.subject)
        for moment in reversed(operated.operations.audit(1, 100).rows)
        if moment.by == "page:erin@here"
    ]

    assert sorted(
        [
            ("paused", job),
            ("resumed", job),
            ("priority", job),
            ("cancelled", job),
            ("retried", job),
            ("peer_frozen", "bob"),
            ("peer_thawed", "bob"),
            ("link_frozen", "default"),
            ("link_thawed", "default"),
        ]
    ) == sorted(told)
