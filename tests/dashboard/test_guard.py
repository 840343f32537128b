"""Who is let in, and who is not: hosts, origins, sessions, form tokens, sizes, log-ins."""

from __future__ import annotations

import pytest

from chunkq.dashboard.guard import HEADERS, MAX_BODY_BYTES
from tests.api.operating import Operated
from tests.dashboard.application import COOKIE, ORIGIN, Clock, Visitor, visited

HTML = {"Accept": "text/html"}
PAGES = ("/transfers", "/peers", "/workers", "/refused", "/events?view=peers", "/transfers/x", "/")


@pytest.mark.parametrize("path", PAGES)
async def test_a_stranger_sees_nothing(visitor: Visitor, path: str) -> None:
    """A person is sent to the log-in, a program is told; nothing of the site is in either."""
    person = await visitor.client.get(path, headers=HTML)
    program = await visitor.client.get(path)

    assert 303 == person.status_code
    assert person.headers["location"].startswith("/login?to=%2F")
    assert (401, "Log in first.\n") == (program.status_code, program.text)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:80", "127.0.0.1:8137.evil.example", "", "localhost"]
)
async def test_other_hosts_are_refused(visitor: Visitor, host: str) -> None:
    """A name that was bent to this address (DNS rebinding) gets nothing, logged in or not."""
    visitor.log_in()
    answer = await visitor.client.get("/transfers", headers={"Host": host})

    assert 421 == answer.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://127.0.0.1:8137"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
    ],
)
async def test_forms_of_other_sites_are_refused(
    operated: Operated, visitor: Visitor, headers: dict[str, str]
) -> None:
    """Even with the cookie and the right token; the job is as it was."""
    job = operated.job()
    visitor.log_in()
    answer = await visitor.client.post(
        "/act", data={"token": visitor.token, "do": f"pause {job}"}, headers=headers
    )

    assert 403 == answer.status_code
    operated.refresh()
    assert "queued" == operated.told(job)[0]


@pytest.mark.parametrize("token", ["", "0" * 64, "é"])
async def test_forms_without_the_token_are_refused(visitor: Visitor, token: str) -> None:
    """Right host, right origin, right cookie: still not a form that this page made."""
    visitor.log_in()

    assert 403 == (await visitor.form("/act", token=token, do="pause x")).status_code
    assert 403 == (await visitor.form("/logout", token=token)).status_code


async def test_another_sessions_token_is_refused(visitor: Visitor) -> None:
    """A token that leaked from one log-in opens no other."""
    visitor.log_in("fred")
    leaked = visitor.token
    visitor.log_in("erin")

    assert 403 == (await visitor.form("/act", token=leaked, do="pause x")).status_code


@pytest.mark.parametrize("path", [*PAGES[:4], "/login", "/nowhere", "/assets/x/style.css"])
async def test_every_answer_carries_the_rules(visitor: Visitor, path: str) -> None:
    """The policy, no sniffing, no frame, no referrer; and what is not an asset is not kept."""
    visitor.log_in()
    answer = await visitor.client.get(path, headers=HTML)

    assert HEADERS == {name: answer.headers[name] for name in HEADERS}
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "no-store" == answer.headers["cache-control"]


async def test_assets_are_kept_for_ever(visitor: Visitor) -> None:
    """Their address names their content; another name has nothing."""
    version = visitor.shared.assets.version
    answer = await visitor.client.get(f"/assets/{version}/style.css")

    assert "public, max-age=31536000, immutable" == answer.headers["cache-control"]
    assert 404 == (await visitor.client.get(f"/assets/{version}/app.py")).status_code
    assert 404 == (await visitor.client.get(f"/assets/{version}/..%2Fapp.py")).status_code


async def test_requests_are_bounded(visitor: Visitor) -> None:
    """Bodies, with their length or without, addresses, numbers of fields, methods."""
    visitor.log_in()
    headers = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    headers["Accept"] = "application/json"
    large = b"a" * (MAX_BODY_BYTES + 1)

    async def chunked() -> object:
        for _ in range(2):
            yield large[: MAX_BODY_BYTES // 2 + 1]

    post = visitor.client.post
    assert 413 == (await post("/act", content=large, headers=headers)).status_code
    assert "too large" in (await post("/act", content=chunked(), headers=headers)).text
    assert "too many fields" in (await post("/act", content=b"a&" * 1000, headers=headers)).text
    assert 414 == (await visitor.client.get("/transfers?q=" + "a" * 9000)).status_code
    assert 405 == (await visitor.client.delete("/transfers")).status_code


async def test_a_printed_address_logs_in_once(visitor: Visitor) -> None:
    """It gives a cookie that no script reads and no other site sends, and leads to the page."""
    token = visitor.access.login_token("erin")
    first = await visitor.client.get(f"/login?once={token}", headers=HTML)
    visitor.client.cookies.clear()
    again = await visitor.client.get(f"/login?once={token}", headers=HTML)

    assert (303, "/") == (first.status_code, first.headers["location"])
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert 403 == again.status_code
    assert "set-cookie" not in again.headers
    assert ["127.0.0.1"] == visitor.refused


async def test_passwords_log_in(operated: Operated) -> None:
    """By the form, to where one wanted to go; the cookie crosses only TLS."""
    words = {"erin": "correct horse battery"}
    headers = {"Origin": ORIGIN}
    async with visited(operated.operations, passwords=words, secure=True) as visitor:
        post = visitor.client.post
        right = {"user": "erin", "word": words["erin"], "to": "/peers"}
        good = await post("/login", data=right, headers=headers)
        bad = await post("/login", data={**right, "word": "x"}, headers=headers)
        away = await post("/login", data={**right, "to": "//evil.example"}, headers=headers)
        cross = await post("/login", data=right, headers={"Origin": "http://evil.example"})

    assert (303, "/peers") == (good.status_code, good.headers["location"])
    assert "Secure" in good.headers["set-cookie"].split("; ")
    assert (403, None) == (bad.status_code, bad.headers.get("set-cookie"))
    assert "/" == away.headers["location"]
    assert 403 == cross.status_code


async def test_guessing_is_slowed_and_noted(visitor: Visitor) -> None:
    """The sixth guess is not even looked at, right or wrong; five were noted."""
    for _ in range(5):
        assert 403 == (await visitor.client.get("/login?once=guess")).status_code
    token = visitor.access.login_token("erin")
    answer = await visitor.client.get(f"/login?once={token}")

    assert 429 == answer.status_code
    assert 0 < int(answer.headers["retry-after"]) <= 13
    assert 5 == len(visitor.refused)


async def test_a_session_in_use_is_made_anew(operated: Operated) -> None:
    """A page that is looked at every day is not logged out after a week."""
    clock = Clock()
    operated.refresh()
    async with visited(operated.operations, clock) as visitor:
        visitor.log_in()
        fresh = await visitor.client.get("/transfers")
        clock.ms += 4 * 24 * 3600 * 1000
        old = await visitor.client.get("/transfers")

    assert "set-cookie" not in fresh.headers
    assert old.headers["set-cookie"].startswith(f"{COOKIE}=")


async def test_logging_out_takes_the_cookie(visitor: Visitor) -> None:
    """And leads to the log-in."""
    visitor.log_in()
    answer = await visitor.form("/logout")

    assert (303, "/login") == (answer.status_code, answer.headers["location"])
    assert f'{COOKIE}="";' in answer.headers["set-cookie"]


async def test_what_is_not_there(visitor: Visitor) -> None:
    """An unknown transfer is a page that says so; an unknown stream a plain 404."""
    visitor.log_in()
    answer = await visitor.client.get("/transfers/%3Cscript%3E", headers=HTML)

    assert 404 == answer.status_code
    assert "<script>" not in answer.text.partition("<main")[2]
    assert 404 == (await visitor.client.get("/events?view=nothing")).status_code
