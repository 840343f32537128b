"""Settings: precedence, sources, and messages that a person can act on."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chunkq.errors import ConfigError, NotFound, UsageError
from chunkq.protocol.identity import SiteKeys, decode_card, encode_card
from chunkq.settings import (
    Directories,
    Grant,
    Link,
    Loaded,
    Peer,
    Registry,
    Settings,
    load,
    make_share,
    mask_url,
    show,
    spool_url,
    supervisor,
)
from chunkq.settings.quantity import (
    parse_duration,
    parse_rate,
    parse_size,
    show_duration,
    show_rate,
    show_size,
)
from chunkq.settings.template import render_config
from chunkq.transport.rabbitmq.options import RabbitMQOptions, endpoints


@pytest.fixture
def home(tmp_path: Path) -> Directories:
    """An empty site."""
    return Directories(config=tmp_path / "config", state=tmp_path / "state")


def configure(home: Directories, text: str) -> None:
    home.config.mkdir(parents=True, exist_ok=True)
    home.config_file.write_text(text)


def read(home: Directories, environ: dict[str, str] | None = None, **flags: object) -> Loaded:
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return load(config_dir=home.config, state_dir=home.state, flags=given, environ=environ or {})


def make_peer(alias: str, seed: int, name: str | None = None) -> Peer:
    """A peer whose keys follow from `seed`."""
    keys = SiteKeys.generate(lambda size: bytes([seed]) * size)
    line = encode_card(keys, name or alias)
    return Peer(
        alias=alias,
        card=decode_card(line),
        card_line=line,
        link="default",
        address=name or alias,
        added_at=datetime(2025, 1, 2, tzinfo=UTC),
    )


# ---------------------------------------------------------------- precedence


def test_defaults_need_no_file(home: Directories) -> None:
    """Without any file or variable there is one link, the spool in the state directory."""
    loaded = read(home)

    assert spool_url(home.spool) == loaded.settings.links["default"].url
    assert home.spool == loaded.settings.links["default"].spool_path
    assert loaded.settings.name is None
    assert loaded.source("links.default.url").kind == "default"


def test_flag_beats_environment_beats_file_beats_default(home: Directories) -> None:
    """Each layer wins over the ones below, and the source of what won is kept."""
    configure(home, '[log]\nlevel = "error"\nformat = "json"\npaths = true\n')
    environ = {"CHUNKQ_LOG_LEVEL": "warning", "CHUNKQ_LOG_FORMAT": "console"}

    loaded = read(home, environ, log__level="debug")

    assert (loaded.settings.log.level, str(loaded.source("log.level"))) == ("debug", "flag")
    assert loaded.settings.log.format == "console"
    assert str(loaded.source("log.format")) == "environment CHUNKQ_LOG_FORMAT"
    assert loaded.settings.log.paths is True
    assert str(loaded.source("log.paths")) == f"file {home.config_file}:4"
    assert str(loaded.source("requester.patience")) == "default"


def test_directories_from_flag_environment_and_xdg(tmp_path: Path, home: Directories) -> None:
    """--config-dir wins over CHUNKQ_CONFIG_DIR, which wins over XDG."""
    environ = {"CHUNKQ_CONFIG_DIR": str(tmp_path / "env"), "CHUNKQ_STATE_DIR": str(tmp_path / "s")}

    loaded = load(config_dir=home.config, environ=environ)

    assert home.config == loaded.settings.directories.config
    assert tmp_path / "s" == loaded.settings.directories.state
    assert tmp_path / "env" == load(environ=environ).settings.directories.config
    assert Directories.standard().state == load(environ={}).settings.directories.state


def test_the_documented_variables_work(home: Directories) -> None:
    """Those that the README names set what they say."""
    environ = {
        "CHUNKQ_NAME": "alpha",
        "CHUNKQ_LINK_URL": "amqp://alpha:secret@broker/",
        "CHUNKQ_PROGRESS_INTERVAL": "5",
        "CHUNKQ_REQUESTER_PATIENCE": "10m",
    }

    settings = read(home, environ).settings

    assert settings.site_name == "alpha"
    assert settings.links["default"].url == "amqp://alpha:secret@broker/"
    assert settings.progress.interval_s == 5.0
    assert settings.requester.patience_s == 600.0


def test_an_empty_variable_sets_nothing(home: Directories) -> None:
    """CHUNKQ_NAME= is how shells unset."""
    assert read(home, {"CHUNKQ_NAME": ""}).settings.name is None


def test_variables_of_the_test_suite_are_left_alone(home: Directories) -> None:
    """CHUNKQ_TEST_* is not ours to judge."""
    assert read(home, {"CHUNKQ_TEST_AMQP_URL": "x"}).settings.name is None


def test_a_full_link(home: Directories) -> None:
    """All keys of a link are read; certificates are relative to the configuration."""
    configure(
        home,
        """
        [links.broker]
        url = "amqps://alpha@broker:5671/v"
        largest_chunk = "64KiB"
        max_message = "1MiB"
        request_lifetime = "30d"
        send_rate = "10Mbit/s"
        receive_rate = "2 MiB"
        burst = "64KiB"
        ca = "ca.pem"
        cert = "/etc/cert.pem"
        key = "k.pem"
        external = true
        """,
    )

    link = read(home).settings.links["broker"]

    assert link.transport == "rabbitmq"
    assert (link.largest_chunk_bytes, link.max_message_bytes) == (65536, 1 << 20)
    assert link.request_lifetime_s == 30 * 86400
    assert (link.send_rate_bytes_per_s, link.receive_rate_bytes_per_s) == (1_250_000, 2 << 20)
    assert (link.burst_bytes, link.slowest_rate_bytes_per_s) == (65536, 1_250_000)
    assert (link.ca, link.cert) == (home.config / "ca.pem", Path("/etc/cert.pem"))
    assert link.external


def test_settings_without_any_file() -> None:
    """Whoever embeds chunkq builds the settings directly, with attribute names."""
    settings = Settings(
        name="alpha",
        directories=Directories(Path("/c"), Path("/s")),
        links={"default": Link(url="spool:///q", largest_chunk_bytes=4096)},
    )

    assert settings.links["default"].spool_path == Path("/q")
    assert settings.links["default"].largest_chunk_bytes == 4096


def test_a_site_without_a_name_says_how_to_get_one(home: Directories) -> None:
    """`site_name` names the command to run."""
    with pytest.raises(ConfigError) as caught:
        str(read(home).settings.site_name)

    assert "chunkq init" in (caught.value.hint or "")


def test_the_template_is_valid_and_its_comments_are_the_defaults(home: Directories) -> None:
    """Uncommenting every default line of a new config.toml changes nothing."""
    configure(home, render_config("alpha", None))
    plain = read(home).settings
    text = home.config_file.read_text()
    examples = ("url", "ca =", "cert =", "key =", "request_life", "send_", "receive_", "burst")
    examples += ('"bob:docs"', "listen")
    lines = [
        line.removeprefix("# ")
        for line in text.splitlines()
        if not line.removeprefix("# ").startswith(examples)
    ]
    uncommented = [line for line in lines if line.startswith("[") or " = " in line]
    configure(home, "\n".join(uncommented))

    assert len(uncommented) > 15
    assert plain == read(home).settings
    assert plain.name == "alpha"


def test_the_template_carries_any_url(home: Directories) -> None:
    """A URL with quotes and backslashes comes back as it was."""
    url = 'amqp://a:p"\\w@host/'
    configure(home, render_config("alpha", url))

    assert url == read(home).settings.links["default"].url


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('nam = "x"', ":1: unknown key nam", "did you mean name?"),
        ("[requester]\n\nconcurency = 3", ":3: unknown key requester.concurency", "concurrency"),
        ('[links.home]\nurl = "spool:///x"\nlargest_chnk = 1', ":3: unknown key", "largest_chunk"),
        ("[reqester]", ":1: unknown key reqester", "requester"),
        ("[log.level]", ":1: log.level: ", None),
        ("[request]\nx = 1", ":2: unknown key request.x", "known keys: "),
        ('name = "Not A Label"', ":1: name: ", None),
        ("[requester]\nconcurrency = 0", ":2: requester.concurrency: ", None),
        ('[links.b]\nlargest_chunk = "4KiB"', "links.b.url: Field required", None),
        ('[links.b]\nurl = "spool:///x"\nmax_message = "64 MB/s"', ":3: links.b.max_message", None),
        ('[links.b]\nurl = "spool:///x"\nlargest_chunk = "5KiB"', "not a power of two", None),
        ('[links.b]\nurl = "spool:///x"\nmax_message = "1MiB"', "do not fit", None),
        ('[links.b]\nurl = "spool:///x"\nsend_rate = "0"', ":3: links.b.send_rate", None),
        ('[links.b]\nurl = "spool:///x"\nreceive_rate = "1 mile"', "links.b.receive_rate", None),
        ('[links.b]\nurl = "spool:///x"\nburst = "1MiB"', "without send_rate or", None),
        ('[links.b]\nurl = "spool://x"', "three slashes", None),
        ('[links.b]\nurl = "http://x"', "begins with spool:///, amqp:// or amqps://", None),
        ('[links.b]\nurl = "amqp://x:1,y:port"', "url amqp://y:port does not parse", None),
        ('[links.b]\nurl = "amqp://x,"', "url amqp:// names no host", None),
        ('[links.b]\nurl = "amqp://x"\nca = "c"', "ca is for amqps:// links", None),
        ('[links.b]\nurl = "spool:///x"\nby_policy = true', "by_policy is for amqp:// links", None),
        ('[links.b]\nurl = "amqps://x"\ncert = "c"', "cert and key go together", None),
        ('[links.b]\nurl = "amqps://x"\nexternal = true', "give cert and key", None),
        ('[links.B]\nurl = "spool:///x"', ":2: links.B: ", None),
        ('[links.b]\nurl = "spool:///x"\ncompression = "best"', ":3: links.b.compression", None),
        ("links = 3", ":1: unknown key links", None),
        ('[log]\nlevel = "loud"', ":2: log.level: ", None),
    ],
)
def test_a_typo_names_file_line_key_and_the_nearest_right_one(
    home: Directories, text: str, message: str, hint: str | None
) -> None:
    """Whatever does not hold in config.toml is refused with its place."""
    configure(home, text)

    with pytest.raises(ConfigError) as caught:
        read(home)

    assert str(home.config_file) in caught.value.message
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_mirrors_of_a_share(home: Directories) -> None:
    """Where else the same files are; shown with their line, and none by default."""
    assert {} == dict(read(home).settings.mirrors)
    configure(home, '[mirrors]\n"bob:docs" = ["eve:docs", "dan:copies"]\n')
    loaded = read(home)

    assert {"bob:docs": ("eve:docs", "dan:copies")} == dict(loaded.settings.mirrors)
    shown = {key: (value, str(source)) for key, value, source in show(loaded)}
    place = f"file {home.config_file}:2"
    assert (["eve:docs", "dan:copies"], place) == shown["mirrors.bob:docs"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"bob:docs" = ["eve"]', ["'eve'", "PEER:SHARE"]),
        ('"bob:docs" = ["eve:docs/a"]', ["'eve:docs/a'", "PEER:SHARE"]),
        ('"bob" = ["eve:docs"]', ["'bob'", "PEER:SHARE"]),
        ('"bob:docs" = "eve:docs"', ["mirrors.bob:docs"]),
        ('"bob:docs" = ["eve:docs", "eve:copies"]', ["bob:docs", "eve is named twice"]),
        ('"bob:docs" = ["bob:copies"]', ["bob is named twice"]),
        (f'"bob:docs" = {[f"p{number}:docs" for number in range(16)]}', ["17 peers"]),
    ],
)
def test_mirrors_that_cannot_be_are_named_with_their_line(
    home: Directories, line: str, words: list[str]
) -> None:
    """What is no share of a peer, and a peer that would be asked twice for the same."""
    configure(home, f"[mirrors]\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        read(home)

    assert f"{home.config_file}:2: " in raised.value.message
    assert [word for word in words if word not in raised.value.message] == []


def test_bad_toml_names_line_and_column(home: Directories) -> None:
    """The place is written as compilers write it, so that editors can jump there."""
    configure(home, 'name = "x"\n[log\n')

    with pytest.raises(ConfigError) as caught:
        read(home)

    assert caught.value.message.startswith(f"{home.config_file}:2:5: not valid TOML: ")


def test_a_file_that_is_not_text_names_the_line(home: Directories) -> None:
    """Bytes that are no UTF-8 are refused without a traceback."""
    home.config.mkdir(parents=True)
    home.config_file.write_bytes(b'name = "x"\n\xff\n')

    with pytest.raises(ConfigError, match=":2: not UTF-8"):
        read(home)


@pytest.mark.parametrize(
    ("environ", "message", "hint"),
    [
        ({"CHUNKQ_LOGLEVEL": "x"}, "CHUNKQ_LOGLEVEL", "CHUNKQ_LOG_LEVEL"),
        ({"CHUNKQ_XYZZY": ""}, "CHUNKQ_XYZZY", "known ones: "),
        ({"CHUNKQ_ORIGIN_CONCURRENCY": "many"}, "CHUNKQ_ORIGIN_CONCURRENCY: ", None),
    ],
)
def test_a_wrong_variable_is_named(
    home: Directories, environ: dict[str, str], message: str, hint: str | None
) -> None:
    """Unknown CHUNKQ_* variables and bad values are refused, the nearest name is given."""
    with pytest.raises(ConfigError) as caught:
        read(home, environ)

    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


# ---------------------------------------------------------------- passwords


def test_the_home_of_nobody_is_named_with_its_place(home: Directories) -> None:
    """A misspelt `~user` is no internal error, and no directory of that name."""
    said = "begins with the home of a user whom this machine does not know"
    for variable, place in (("CONFIG_DIR", ""), ("STATE_DIR", ""), ("LINK_CA", "links.default.ca")):
        with pytest.raises(ConfigError, match=said) as caught:
            load(environ={f"CHUNKQ_{variable}": "~nobody-at-all/x"})
        assert place in caught.value.message
    home.config.mkdir(parents=True, exist_ok=True)
    for user in ("nobody-at-all", "nobody\\u0000"):
        home.config_file.write_text(f'[links.default]\n\nkey = "~{user}/x"\n')
        with pytest.raises(ConfigError, match=f"config.toml:3: links.default.key: .*{said}"):
            load(config_dir=home.config)


def test_no_password_is_ever_shown(home: Directories) -> None:
    """Not by show, not by repr, not in the message about a URL that does not hold."""
    url = "amqp://alpha:s3cret@broker:5672/v"
    loaded = read(home, {"CHUNKQ_LINK_URL": url})

    shown = {key: value for key, value, _ in show(loaded)}
    with pytest.raises(ConfigError) as caught:
        read(home, {"CHUNKQ_LINK_URL": "amqp://alpha:s3cret@broker:port/v"})

    assert shown["links.default.url"] == "amqp://alpha:***@broker:5672/v"
    assert "s3cret" not in repr(loaded)
    assert "s3cret" not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize("password", ["s3cret/", "12/s3cret", "s3cret?x", "a,b/s3cret", "s3cret℀"])
def test_no_part_of_a_password_is_told(home: Directories, password: str) -> None:
    """Not by settings, not by the transport: made-up passwords have such characters in them."""
    url = f"amqp://alpha:{password}@broker/v"
    with pytest.raises(ConfigError) as read_so:
        read(home, {"CHUNKQ_LINK_URL": url})
    with pytest.raises(ConfigError) as used_so:
        endpoints(RabbitMQOptions(url=url, site="alpha"))
    for told in (read_so, used_so):
        assert "s3" not in str(told.value)
        assert "is written %2F" in str(told.value)


def test_masking_survives_odd_passwords() -> None:
    """A password with @ and : in it is masked whole; a URL without one is left alone."""
    assert mask_url("amqp://u:a@b:c@host/v") == "amqp://u:***@host/v"
    assert mask_url("spool:///a:b@c") == "spool:///a:b@c"
    assert mask_url("amqp://host:5672/") == "amqp://host:5672/"


def test_show_covers_every_key_with_its_source(home: Directories) -> None:
    """What `show` prints can be put into config.toml as it is."""
    configure(home, 'name = "alpha"\n')

    lines = {key: (value, str(source)) for key, value, source in show(read(home))}

    assert lines["name"] == ("alpha", f"file {home.config_file}:1")
    assert lines["links.default.largest_chunk"] == ("4MiB", "default")
    assert lines["requester.patience"] == ("2m", "default")
    assert lines["links.default.send_rate"] == (None, "default")
    assert lines["config_dir"] == (str(home.config), "flag --config-dir")


# ---------------------------------------------------------------- quantities


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (4096, 4096), ("256KiB", 262144), ("1.5 MiB", 1572864), ("2 gb", 2 * 10**9)],
)
def test_sizes(text: object, size: int) -> None:
    """Sizes are read in the units that people write, and shown so that they read back."""
    assert size == parse_size(text)
    assert size == parse_size(show_size(size))


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        (4096, 4096, "4KiB/s"),
        ("10MiB/s", 10 << 20, "10MiB/s"),
        ("10 MiB", 10 << 20, "10MiB/s"),
        ("10Mbit/s", 1_250_000, "10Mbit/s"),
        ("1.5 gbit / sec", 187_500_000, "1500Mbit/s"),
        ("56 kbit/s", 7000, "56kbit/s"),
        ("1001 B/s", 1001, "1001B/s"),
    ],
)
def test_rates(text: object, rate: int, shown: str) -> None:
    """Rates are read in bytes or in bits a second, and shown so that they read back."""
    assert rate == parse_rate(text)
    assert shown == show_rate(rate)
    assert rate == parse_rate(shown)


@pytest.mark.parametrize("text", ["", "x", "-1", "1 KiBs", True, None, [1], -1, "1e3"])
def test_what_is_no_size(text: object) -> None:
    """Anything else is a ValueError, which pydantic turns into a message."""
    with pytest.raises(ValueError, match=r"is not a|has no unit"):
        parse_size(text)

    with pytest.raises(ValueError, match=r"is not a|has no unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90.0),
        ("250ms", 0.25),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1.5h", 5400.0),
        ("30d", 2.592e6),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    """Durations likewise."""
    assert seconds == parse_duration(text)
    assert seconds == parse_duration(show_duration(seconds))


# ---------------------------------------------------------------- the registry


def test_a_pinned_peer_comes_back(home: Directories) -> None:
    """What is written is what is read, in a file that only the owner can read."""
    peer = make_peer("beta", 1)

    assert Registry(home).add_peer(peer) is True
    assert peer == Registry(home).peer("beta")
    assert peer == Registry(home).peer_by_key(peer.card.verify_key)
    assert (home.peers / "beta.toml").stat().st_mode & 0o777 == 0o600


def test_pinning_the_same_again_changes_nothing(home: Directories) -> None:
    """`peer add` may be run twice."""
    registry = Registry(home)

    assert [registry.add_peer(make_peer("beta", 1)), registry.add_peer(make_peer("beta", 1))] == [
        True,
        False,
    ]


def test_another_card_under_the_same_alias_needs_replace(home: Directories) -> None:
    """A changed key is never taken over silently; the grants stay when it is taken."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    with pytest.raises(UsageError, match="another card is already pinned as beta"):
        registry.add_peer(make_peer("beta", 2))

    assert registry.add_peer(make_peer("beta", 2), replace_card=True) is True
    assert registry.peer_by_key(make_peer("beta", 1).card.verify_key) is None


def test_one_card_under_two_aliases_is_refused(home: Directories) -> None:
    """A request could not be told to be from one or the other."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))

    with pytest.raises(UsageError, match="already pinned as beta"):
        registry.add_peer(make_peer("gamma", 1, name="beta"))

    assert list(registry.peers) == ["beta"]


def test_removing_a_peer_revokes_at_once_in_a_running_registry(home: Directories) -> None:
    """Another process's `peer rm` is seen by the next refresh; its grants are gone, too."""
    running, command = Registry(home), Registry(home)
    peer = make_peer("beta", 1)
    command.add_peer(peer)
    command.add_share(make_share("docs", home.state, grants=(Grant("beta", "a"),)))
    running.refresh()
    assert running.allows("beta", "docs", "a/b")

    dropped = command.remove_peer("beta")

    assert dropped == (("docs", Grant("beta", "a")),)
    assert running.refresh() is True
    assert running.peer_by_key(peer.card.verify_key) is None
    command.add_peer(make_peer("beta", 2))
    running.refresh()
    assert not running.allows("beta", "docs", "a/b")


def test_refresh_is_false_when_nothing_changed(home: Directories) -> None:
    """A worker asks before each decision, so an idle refresh must not parse."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    before = registry.peers["beta"]

    assert registry.refresh() is False
    assert registry.peers["beta"] is before


def test_refresh_sees_an_edit_in_place(home: Directories) -> None:
    """A file changed with an editor counts as soon as its stamp changes."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    path = home.peers / "beta.toml"
    path.write_text(path.read_text().replace('address = "beta"', 'address = "elsewhere"'))

    assert registry.refresh() is True
    assert registry.peer("beta").address == "elsewhere"


def test_a_peer_file_that_does_not_hold_counts_as_absent(home: Directories) -> None:
    """Nobody is trusted on a broken file, the others go on, and the problem can be asked for."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    registry.add_peer(make_peer("gamma", 2))
    path = home.peers / "beta.toml"
    path.write_text(path.read_text().replace("link =", "lnk ="))

    registry.refresh()

    assert list(registry.peers) == ["gamma"]
    assert registry.peer_by_key(make_peer("beta", 1).card.verify_key) is None
    (problem,) = registry.problems
    assert f"{path}:2: unknown key 'lnk'" in problem.message
    assert problem.hint == "did you mean link?"
    with pytest.raises(ConfigError):
        registry.peer("beta")


def test_a_card_with_a_wrong_signature_is_not_pinned_from_a_file(home: Directories) -> None:
    """The signature is checked each time a card is read, not only when it is added."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    path = home.peers / "beta.toml"
    path.write_text(path.read_text().replace(":1:beta:", ":1:betb:"))

    registry.refresh()

    assert dict(registry.peers) == {}
    assert "signature" in registry.problems[0].message


def test_a_grant_covers_its_prefix_and_nothing_beside_it(home: Directories) -> None:
    """Prefixes end at slashes: a grant for `a/b` says nothing about `a/bc`."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    registry.add_peer(make_peer("gamma", 2))
    registry.add_share(make_share("docs", home.state, grants=(Grant("beta", "a/b"),)))
    registry.grant("docs", Grant("gamma"))

    asked = ["a/b", "a/b/c", "a/bc", "a", ""]

    assert [registry.allows("beta", "docs", path) for path in asked] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert all(registry.allows("gamma", "docs", path) for path in asked)
    assert not registry.allows("gamma", "nothing", "a")


def test_granting_and_revoking_twice(home: Directories) -> None:
    """Both say whether anything changed, and adding a share again keeps its grants."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))
    registry.add_share(make_share("docs", home.state))

    assert [registry.grant("docs", Grant("beta")) for _ in range(2)] == [True, False]
    assert registry.add_share(make_share("docs", home.state)) is False
    assert [registry.revoke("docs", Grant("beta")) for _ in range(2)] == [True, False]


def test_a_share_name_is_not_given_to_another_directory(home: Directories) -> None:
    """Peers with grants would suddenly see something else."""
    registry = Registry(home)
    registry.add_share(make_share("docs", Path("/srv/a")))

    with pytest.raises(UsageError, match="already /srv/a"):
        registry.add_share(make_share("docs", Path("/srv/b")))

    assert registry.share("docs").path == Path("/srv/a")


def test_unknown_names_come_with_the_nearest(home: Directories) -> None:
    """Unknown peer and share: a hint with the right one, or with all, or how to make one."""
    registry = Registry(home)
    with pytest.raises(NotFound) as none_yet:
        registry.share("docs")
    registry.add_peer(make_peer("beta", 1))
    with pytest.raises(NotFound) as near:
        registry.peer("betta")
    with pytest.raises(NotFound) as far:
        registry.peer("zulu")

    assert "chunkq share add" in (none_yet.value.hint or "")
    assert near.value.hint == "did you mean beta?"
    assert far.value.hint == "known: beta"


def test_a_failed_write_leaves_the_old_file(
    home: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files appear whole or not at all, and no temporary stays behind."""
    registry = Registry(home)
    registry.add_peer(make_peer("beta", 1))

    def refuse(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Exception, match="No space left on device"):
        registry.add_peer(make_peer("beta", 2), replace_card=True)

    assert make_peer("beta", 1) == Registry(home).peer("beta")
    assert [path.name for path in home.peers.iterdir()] == ["beta.toml"]


# ---------------------------------------------------------------- the process


def test_supervisor_reads_what_systemd_passes() -> None:
    """The watchdog is fed at half its period, and only by the process that it is meant for."""
    socket = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000"}

    assert supervisor(socket).watchdog_interval_s == 15.0
    assert supervisor(socket).notify_socket == "/run/n"
    assert supervisor({**socket, "WATCHDOG_PID": "1"}).watchdog_interval_s is None
    assert supervisor({}).notify_socket is None
