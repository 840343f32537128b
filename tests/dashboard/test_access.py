"""Log-ins, sessions, form tokens, passwords and how often one may try."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkq.dashboard.access import LOGIN_LIFETIME_MS, SESSION_LIFETIME_MS, Access
from chunkq.dashboard.attempts import Attempts
from chunkq.dashboard.passwords import load_passwords, right
from chunkq.dashboard.secret import load_secret
from chunkq.errors import ConfigError, IdentityError

SECRET = bytes(32)


class Clock:
    """Milliseconds that stand until they are moved."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


def test_a_log_in_is_good_once() -> None:
    """The second time the same token lets nobody in."""
    access = Access(SECRET, Clock())
    token = access.login_token("erin")

    assert (access.redeem(token), access.redeem(token)) == ("erin", None)


def test_a_log_in_expires() -> None:
    """After an hour it is paper."""
    clock = Clock()
    access = Access(SECRET, clock)
    token = access.login_token("erin")
    clock.ms += LOGIN_LIFETIME_MS

    assert access.redeem(token) is None


def test_a_log_in_from_before_the_start_is_refused() -> None:
    """What was used before a restart cannot be used again after it."""
    clock = Clock()
    token = Access(SECRET, clock).login_token("erin")
    clock.ms += 1

    assert Access(SECRET, clock).redeem(token) is None


def test_a_session_outlives_a_restart_and_ends() -> None:
    """The cookie holds with the same secret, for a week, and with no other."""
    clock = Clock()
    cookie = Access(SECRET, clock).cookie("erin")
    later = Access(SECRET, clock)
    session = later.session(cookie)

    assert session is not None
    assert session.user == "erin"
    assert Access(b"\1" * 32, clock).session(cookie) is None
    clock.ms += SESSION_LIFETIME_MS
    assert later.session(cookie) is None


def test_one_kind_is_no_other() -> None:
    """A log-in is no session, a session no log-in, and no changed letter passes."""
    access = Access(SECRET, Clock())
    token, cookie = access.login_token("erin"), access.cookie("erin")

    assert access.session(token) is None
    assert access.redeem(cookie) is None
    for index in range(len(cookie)):
        letter = "0" if cookie[index] != "0" else "1"
        assert access.session(cookie[:index] + letter + cookie[index + 1 :]) is None
    for junk in ("", ".", "...", "a.b.c.d", "é" * 10, "x" * 10_000):
        assert access.session(junk) is None


def test_a_form_token_is_of_one_session() -> None:
    """What another log-in's forms carry does not hold."""
    access = Access(SECRET, Clock())
    mine, other = (access.session(access.cookie("erin")) for _ in range(2))
    assert mine is not None
    assert other is not None

    assert access.holds(mine, access.form_token(mine))
    assert not access.holds(mine, access.form_token(other))
    assert not access.holds(mine, "")


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    """The same after a restart; readable by nobody else."""
    first = load_secret(tmp_path / "state")
    path = tmp_path / "state" / "dashboard.key"

    assert first == load_secret(tmp_path / "state")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["dashboard.key"]


@pytest.mark.parametrize(
    ("content", "mode"), [(b"00" * 32, 0o640), (b"short", 0o600), (b"\xff" * 64, 0o600)]
)
def test_a_secret_that_cannot_be_one_is_refused(tmp_path: Path, content: bytes, mode: int) -> None:
    """Readable by others or damaged: said, and not replaced behind anybody's back."""
    path = tmp_path / "dashboard.key"
    path.write_bytes(content)
    path.chmod(mode)

    with pytest.raises(IdentityError):
        load_secret(tmp_path)
    assert content == path.read_bytes()


def test_passwords_belong_to_users(tmp_path: Path) -> None:
    """The right one, and neither another's nor none."""
    path = tmp_path / "users"
    path.write_text("# who may look\nerin:correct horse:battery\nfred:quite another one\n")
    path.chmod(0o600)
    known = load_passwords(path)

    assert right(known, "erin", "correct horse:battery")
    assert not right(known, "erin", "quite another one")
    assert not right(known, "nobody", "")
    assert not right({}, "", "")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("erin:correct horse", 0o644, "others can read"),
        ("erin", 0o600, "line 1"),
        ("\nerin:short", 0o600, "line 2"),
        ("a b:correct horse", 0o600, "line 1"),
        ("# none\n", 0o600, "names no user"),
    ],
)
def test_a_password_file_that_does_not_hold(
    tmp_path: Path, text: str, mode: int, said: str
) -> None:
    """The message names the line."""
    path = tmp_path / "users"
    path.write_text(text)
    path.chmod(mode)

    with pytest.raises(ConfigError, match=said):
        load_passwords(path)


def test_guesses_are_few() -> None:
    """Five at once from one address, then one in twelve seconds; another address may try."""
    attempts = Attempts()
    for _ in range(5):
        assert attempts.allowed("10.0.0.1", 0.0)
        attempts.failed("10.0.0.1", 0.0)

    assert not attempts.allowed("10.0.0.1", 0.0)
    assert attempts.allowed("10.0.0.2", 0.0)
    assert 13 == attempts.wait_s("10.0.0.1")
    assert attempts.allowed("10.0.0.1", 12.0)


def test_guesses_of_all_are_bounded() -> None:
    """However many addresses somebody has."""
    attempts = Attempts()
    for number in range(30):
        attempts.failed(f"10.0.0.{number}", 0.0)

    assert not attempts.allowed("10.0.1.1", 0.0)
    assert attempts.allowed("10.0.1.1", 3.0)
