"""The queues of this site on all its links, and requests that no worker could take."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from chunkq.api.views import DeadLetterView, QueueView
from chunkq.compose import make_viewer
from chunkq.errors import ChunkqError
from chunkq.ports.viewing import DeadLetter, QueueState, QueueViewer
from chunkq.settings import Settings
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

_T = TypeVar("_T")

#: Digits of a key that is nobody's here: enough to tell strangers apart.
_KEY_DIGITS: Final = 16


class Queues:
    """Looks at each link anew. `alias_of`: whose key it is, None for a stranger's."""

    def __init__(
        self,
        settings: Settings,
        alias_of: Callable[[bytes], str | None],
        *,
        wall_ms: Callable[[], int] = wall_clock_ms,
        viewers: Mapping[str, QueueViewer] | None = None,
    ) -> None:
        self._settings = settings
        self._alias_of = alias_of
        self._wall_ms = wall_ms
        self._viewers = dict(viewers or {})

    async def queues(self, instances: Sequence[str], blocked: Mapping[str, str]) -> list[QueueView]:
        """Of all links at once. `instances`: of this site's processes; `blocked`: links, and why.

        A link that cannot be looked at is a row that says why.
        """
        links = sorted(self._settings.links)
        looks = [self._look(link, instances) for link in links]
        found = zip(links, await asyncio.gather(*looks), strict=True)
        return [
            self._view(link, state, blocked.get(link)) for link, states in found for state in states
        ]

    async def dead_letters(self) -> list[DeadLetterView]:
        """Counted by link, queue, sender and reason; a link without a way to them says so."""
        links = sorted(self._settings.links)
        looks = [self._letters(link) for link in links]
        found: list[DeadLetterView] = []
        for link, letters in zip(links, await asyncio.gather(*looks), strict=True):
            if isinstance(letters, str):
                found.append(
                    DeadLetterView(
                        link=link, queue="", sender="", reason="", count=0, problem=letters
                    )
                )
            else:
                found += self._counted(link, letters)
        return found

    async def requeue(self, link: str, sender: str, reason: str) -> int:
        """Those of that sender and reason go back; empty words mean all. How many."""
        return await self._viewer(link).requeue(self._wanted(sender, reason))

    async def discard(self, link: str, sender: str, reason: str) -> int:
        """Those of that sender and reason go for good; empty words mean all. How many."""
        return await self._viewer(link).discard(self._wanted(sender, reason))

    # ------------------------------------------------------------ inside

    def _viewer(self, link: str) -> QueueViewer:
        found = self._settings.link(link)
        if link not in self._viewers:
            self._viewers[link] = make_viewer(found, self._settings.site_name)
        return self._viewers[link]

    async def _look(self, link: str, instances: Sequence[str]) -> list[QueueState]:
        found = await _or_problem(lambda: self._viewer(link).queues(instances))
        return [QueueState(name="", problem=found)] if isinstance(found, str) else found

    async def _letters(self, link: str) -> list[DeadLetter] | str:
        return await _or_problem(lambda: self._viewer(link).dead_letters())

    def _view(self, link: str, state: QueueState, blocked: str | None) -> QueueView:
        oldest = state.oldest_ms
        return QueueView(
            link=link,
            queue=state.name,
            depth=state.depth,
            consumers=state.consumers,
            unacknowledged=state.unacknowledged,
            oldest_s=None if oldest is None else max(0.0, (self._wall_ms() - oldest) / 1000),
            size_bytes=state.size_bytes,
            blocked=blocked is not None,
            problem=state.problem or blocked or "",
        )

    def _counted(self, link: str, letters: Sequence[DeadLetter]) -> list[DeadLetterView]:
        groups: defaultdict[tuple[str, str, str], list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            groups[letter.queue, self._sender(letter), letter.reason].append(letter)
        return [
            DeadLetterView(
                link=link,
                queue=queue,
                sender=sender,
                reason=reason,
                count=len(group),
                oldest_ms=min(each.at_ms for each in group),
            )
            for (queue, sender, reason), group in sorted(groups.items())
        ]

    def _sender(self, letter: DeadLetter) -> str:
        """An alias where the key is a peer's; else the name on the link, or the key's beginning."""
        alias = self._alias_of(letter.key) if letter.key else None
        return alias or letter.sender or letter.key.hex()[:_KEY_DIGITS] or "unknown"

    def _wanted(self, sender: str, reason: str) -> Callable[[DeadLetter], bool]:
        return lambda letter: sender in ("", self._sender(letter)) and reason in ("", letter.reason)


async def _or_problem(look: Callable[[], Awaitable[list[_T]]]) -> list[_T] | str:
    """What was found, or a sentence that says why not."""
    try:
        return await look()
    except ChunkqError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
