"""Who may see the page: one-time log-ins, sessions, and the tokens of forms, all made by one key.

A log-in and a session are texts `kind.user.number.until.mac`; nothing is kept for a session, so it
holds after a restart. A log-in is good once: its number is remembered until it would have expired,
and one from before this process began is refused.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

#: Time to copy an address from a terminal or a log, and to come back to it after the lunch break.
LOGIN_LIFETIME_MS: Final = 60 * 60 * 1000
#: A page on a wall need not be logged in again every day; a forgotten laptop not for ever.
SESSION_LIFETIME_MS: Final = 7 * 24 * 60 * 60 * 1000
#: A session is made anew on the next page once half of it is over.
RENEW_MS: Final = SESSION_LIFETIME_MS // 2
#: 128 bits: nobody guesses one, and no two are alike.
_NUMBER_BYTES: Final = 16
_USER: Final = re.compile(r"[A-Za-z0-9_@+-]{1,64}")
#: A cookie or token is no longer than this.
_MAX_TOKEN_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in. `number` is this log-in's, `until_ms` its end."""

    user: str
    number: str
    until_ms: int


def plain_user(name: str) -> str:
    """A name of the operating system as the audit has it; what does not fit is left out."""
    return re.sub(r"[^A-Za-z0-9_@+-]", "", name)[:64] or "operator"


class Access:
    """Makes and checks what lets people in. `now_ms`: this machine's clock."""

    def __init__(self, secret: bytes, now_ms: Callable[[], int]) -> None:
        self._secret = secret
        self._now_ms = now_ms
        self._started_ms = now_ms()
        #: Numbers of log-ins that were used, and until when they would hold.
        self._used: dict[str, int] = {}

    def login_token(self, user: str) -> str:
        """What the address that is printed carries; any process that can read the secret makes one.

        It holds the time it was made, as its end.
        """
        return self._signed("login", user, self._now_ms() + LOGIN_LIFETIME_MS)

    def redeem(self, token: str) -> str | None:
        """Whose log-in this is; None if it is none, too old, or was used before."""
        found = self._checked("login", token)
        if found is None or found.until_ms - LOGIN_LIFETIME_MS < self._started_ms:
            return None
        now = self._now_ms()
        self._used = {number: until for number, until in self._used.items() if until > now}
        if found.number in self._used:
            return None
        self._used[found.number] = found.until_ms
        return found.user

    def cookie(self, user: str) -> str:
        """A new session."""
        return self._signed("session", user, self._now_ms() + SESSION_LIFETIME_MS)

    def session(self, cookie: str) -> Session | None:
        """Whose cookie this is; None if it is none of ours, or over."""
        return self._checked("session", cookie)

    def form_token(self, session: Session) -> str:
        """What each form of this session carries, and no other site can know."""
        return self._mac("form", f"{session.user}.{session.number}")

    def holds(self, session: Session, token: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), token.encode())

    def _signed(self, kind: str, user: str, until_ms: int) -> str:
        text = f"{plain_user(user)}.{secrets.token_hex(_NUMBER_BYTES)}.{until_ms}"
        return f"{text}.{self._mac(kind, text)}"

    def _checked(self, kind: str, token: str) -> Session | None:
        text, _, mac = token.rpartition(".")
        if len(token) > _MAX_TOKEN_CHARS or not hmac.compare_digest(
            self._mac(kind, text).encode(), mac.encode()
        ):
            return None
        user, number, until = text.split(".")
        found = Session(user, number, int(until))
        return found if self._now_ms() < found.until_ms and _USER.fullmatch(user) else None

    def _mac(self, kind: str, text: str) -> str:
        keyed = blake2b(
            text.encode("utf-8", "replace"), key=self._secret, person=kind.encode(), digest_size=32
        )
        return keyed.hexdigest()
