"""Where the word of peers about their keys has its effect: in their files, or in a program."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from chunkq.compose import ref_of
from chunkq.errors import StatementInvalid
from chunkq.ports import Clock, Heard, Log, News
from chunkq.protocol.identity import fingerprint
from chunkq.protocol.standing import Trouble, concerns, heed
from chunkq.protocol.succession import Said
from chunkq.settings import Peer, Registry, Settings
from chunkq.storage.replays import ReplayStore

#: News kept for whoever asks a site afterwards; a process rarely hears of more than one.
MAX_NEWS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNews:
    """What a peer said of its keys, proved by signatures, for a program to decide upon.

    `kind`: "succession" (the peer has the keys of `card` now; `earlier` are the cards before, the
    newest first), "grace_ended" (`earlier` lists only those that still count), "revoked", or
    "conflict" (its keys said two things that cannot both be true). `line` is the statement.
    """

    alias: str
    kind: News
    card: str
    earlier: tuple[str, ...]
    line: str
    detail: str = ""


class Trust:
    """Hears statements; `news` are the last that changed something."""

    def __init__(self, settings: Settings, clock: Clock, log: Log) -> None:
        self.news: deque[tuple[News, Peer]] = deque(maxlen=MAX_NEWS)
        self._replays = settings.directories.replays
        self._clock = clock
        self._log = log

    def _prepare(self, site_id: bytes) -> None:
        """No request by new keys was ever taken: without a record the first would be refused."""
        ReplayStore(self._replays).create(site_id)

    def _tell(self, before: Peer, after: Peer) -> Heard:
        """Log what operators look for."""
        news = news_of(before, after)
        if news:
            self.news.append((news, after))
            serious = news in ("revoked", "conflict")
            self._log(
                f"peer_{'rotated' if news == 'succession' else news}",
                level="error" if serious else "warning",
                peer=after.alias,
                fingerprint=fingerprint(after.card),
                reason=after.detail,
            )
        return Heard(ref_of(after), news)


class RegistryTrust(Trust):
    """Into the files of the peers."""

    def __init__(self, registry: Registry, settings: Settings, clock: Clock, log: Log) -> None:
        super().__init__(settings, clock, log)
        self._registry = registry

    def heed(self, statement: Said, *, by_hand: bool = False) -> Heard:
        """See `ports.Directory.heed`; `by_hand` as `Registry.heed` has it."""
        now_ms = self._clock.wall_ms()
        before, after = self._registry.heed(
            statement, now_ms, by_hand=by_hand, prepare=self._prepare
        )
        return self._tell(before, after)


class ProgramTrust(Trust):
    """To a program, which keeps its peers itself and decides."""

    def __init__(
        self,
        peers: Callable[[], Mapping[str, Peer]],
        decide: Callable[[KeyNews], bool] | None,
        settings: Settings,
        clock: Clock,
        log: Log,
    ) -> None:
        super().__init__(settings, clock, log)
        self._peers = peers
        self._decide = decide

    def heed(self, statement: Said) -> Heard:
        """See `ports.Directory.heed`."""
        about = [peer for peer in self._peers().values() if concerns(peer.standing, statement)]
        if len(about) != 1:
            raise StatementInvalid(f"the statement is about {len(about)} peers that are pinned")
        before = about[0]
        after = before.at(heed(before.standing, statement, self._clock.wall_ms()))
        if after == before:
            return Heard(ref_of(before))
        news = KeyNews(
            alias=before.alias,
            kind=news_of(before, after),
            card=after.card_line,
            earlier=tuple(each.card_line for each in after.earlier if each.until_ms),
            line=statement.line,
            detail=after.detail,
        )
        if after.card != before.card:
            self._prepare(after.card.site_id)
        if self._decide is None or not self._decide(news):
            raise StatementInvalid(f"{before.alias}: {news.kind}, and the program did not agree")
        return self._tell(before, after)


def news_of(before: Peer, after: Peer) -> News:
    """What is new about a peer."""
    if after.trouble is not before.trouble:
        return "conflict" if after.trouble is Trouble.CONFLICT else "revoked"
    if after.card != before.card:
        return "succession"
    return "" if after == before else "grace_ended"
