"""A broker with `deploy/rabbitmq/tls.conf` and the certificates of `make-certificates`, as an
operator has them: sites log in by certificate, and each that does not hold is refused in words.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chunkq.errors import BrokerRefused, ExitCode
from tests.cli.site import Site
from tests.support.broker import Broker, Ports
from tests.support.pair import Pair
from tests.support.quick import Done
from tests.support.rabbitmq import Sites

pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("tls")]

DEPLOY = Path(__file__).parents[2] / "deploy" / "rabbitmq"
#: The link's settings, as the README of deploy/rabbitmq has them.
LINK_TLS = 'ca = "tls/ca.pem"\ncert = "tls/cert.pem"\nkey = "tls/key.pem"\nexternal = true\n'


def make(directory: Path, *arguments: str) -> str:
    """Run the script; returns what it printed."""
    command = ["sh", str(DEPLOY / "make-certificates"), "-d", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Secured:
    """The broker, and where the certificates are."""

    broker: Broker
    certificates: Path

    @property
    def url(self) -> str:
        return self.broker.tls_url("chunkq")

    def of(self, site: str) -> Path:
        return self.certificates / "sites" / site


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The file as it is in the project; only ports and paths are this machine's."""
    root = tmp_path_factory.mktemp("tls")
    certificates = root / "certificates"
    make(certificates, "-b", "localhost", "-b", "127.0.0.1", "alice", "bob", "carol")

    def listeners(ports: Ports) -> str:
        text = (DEPLOY / "tls.conf").read_text()
        for ours, theirs in (
            ("127.0.0.1:5672", f"127.0.0.1:{ports.amqp}"),
            ("0.0.0.0:5671", f"127.0.0.1:{ports.tls}"),
            ("/etc/rabbitmq/tls", str(certificates / "broker")),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        return text

    broker = Broker.start(root / "node", listeners)
    broker.run("sh", str(DEPLOY / "add-site"), "-b", "localhost", "alice", "bob")
    yield Secured(broker, certificates)
    broker.stop()


def give(config: Path, certificate: Path, link: str = LINK_TLS) -> None:
    """What the site's owner does with what he got."""
    shutil.copytree(certificate, config / "tls", dirs_exist_ok=True)
    with (config / "config.toml").open("a") as file:
        file.write(link)


@pytest.fixture
def alice(tmp_path: Path, secured: Secured) -> Site:
    """A site with a certificate that holds."""
    site = Site(tmp_path / "alice")
    assert 0 == site.run("init", "--name", "alice", "--link", secured.url).code
    give(site.config, secured.of("alice"))
    return site


def look(site: Site) -> Done:
    """`ls` of what the site itself offers: nobody serves, so who gets so far is let in."""
    card = site.run("id").out.strip()
    site.run("peer", "add", card, "--as", "self")
    return site.run("ls", "self:docs/")


def refused(site: Site) -> str:
    """The command ends with exit code 5 at once. What it says, in one line."""
    result = look(site)

    assert ExitCode.UNREACHABLE == result.code, result.err
    assert "SSL" not in result.err
    return " ".join(result.err.split())


def reissued(secured: Secured, certificate: Path, target: Path, end_days: float) -> None:
    """The same certificate, of the same authority, with another end."""
    authority = secured.certificates / "authority"
    signer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((certificate / "cert.pem").read_bytes())
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=end_days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(signer.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=100))
        .not_valid_after(end)
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = builder.sign(key, hashes.SHA256())
    target.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def test_a_file_gets_across(secured: Secured, tmp_path: Path) -> None:
    """Both sites by their certificates, no password anywhere; `doctor` finds the link well."""
    pair = Pair(tmp_path, secured.url)
    try:
        for actor in (pair.alice, pair.bob):
            give(actor.config, secured.of(actor.name))
        content = os.urandom(3 << 20)
        pair.offer("report", content)
        pair.serve()
        done = pair.get("bob:docs/report", str(pair.inbox))

        assert 0 == done.code, done.err
        assert content == (pair.inbox / "report").read_bytes()
        assert "carries packets" in pair.alice.quick("doctor")
    finally:
        pair.close()


def test_a_site_without_a_certificate(secured: Secured, alice: Site) -> None:
    """Nobody comes in without, whatever the password; what is half set says what is missing."""
    text = alice.config_file.read_text()
    alice.config_file.write_text(text.replace(LINK_TLS, 'ca = "tls/ca.pem"\n'))
    said = refused(alice)
    assert "wants a certificate, and this site gave none" in said
    assert "make-certificates" in said

    alice.config_file.write_text(text.replace('cert = "tls/cert.pem"\n', ""))
    half = look(alice)
    assert ExitCode.USAGE == half.code
    assert "cert and key go together" in half.err


def test_a_certificate_that_has_expired(secured: Secured, alice: Site) -> None:
    """Of the site, as the broker says."""
    reissued(secured, secured.of("alice"), alice.config / "tls" / "cert.pem", -1)

    said = refused(alice)
    assert "says that this site's certificate has expired" in said
    assert "make-certificates" in said


def test_a_certificate_of_another_authority(alice: Site, tmp_path: Path) -> None:
    """Of the site, as the broker says; and of the broker, as the site says."""
    make(tmp_path / "other", "alice")
    shutil.copytree(tmp_path / "other/sites/alice", alice.config / "other")
    text = alice.config_file.read_text()
    ours = text.replace("tls/cert", "other/cert").replace("tls/key", "other/key")
    alice.config_file.write_text(ours)
    said = refused(alice)
    assert "does not know the authority of this site's certificate" in said
    assert "make-certificates" in said

    alice.config_file.write_text(text.replace("tls/ca", "other/ca"))
    said = refused(alice)
    assert "does not hold: self-signed certificate in certificate chain" in said
    assert "set `ca`" in said

    alice.config_file.write_text(text.replace('ca = "tls/ca.pem"\n', ""))
    said = refused(alice)
    assert "does not hold: self-signed certificate in certificate chain" in said
    assert "set `ca`" in said


def test_a_broker_under_another_name(secured: Secured, alice: Site) -> None:
    """127.1 is the same machine, and stands in no certificate."""
    text = alice.config_file.read_text().replace("@localhost:", "@127.1:")
    alice.config_file.write_text(text.replace("//localhost:", "//127.1:"))

    said = refused(alice)
    assert "mismatch, certificate is not valid for '127.1'" in said
    assert "that names 127.1" in said


def test_a_broker_whose_certificate_is_renewed(secured: Secured, alice: Site) -> None:
    """What has expired is refused; what was put in its place counts without a restart."""
    place = secured.certificates / "broker" / "cert.pem"
    kept = place.read_bytes()
    try:
        reissued(secured, place.parent, place, -1)
        secured.broker.eval("ssl:clear_pem_cache().")
        said = refused(alice)
        assert "does not hold: certificate has expired" in said
        assert "must renew it" in said
    finally:
        place.write_bytes(kept)
        secured.broker.eval("ssl:clear_pem_cache().")
    assert ExitCode.OK == alice.run("doctor").code


def test_another_sites_certificate(secured: Secured, alice: Site) -> None:
    """It lets in as that site, who may not speak for this one."""
    give(alice.config, secured.of("bob"), link="")

    said = refused(alice)
    assert "takes this site, 'alice', for another" in said
    assert "the certificate is bob's" in said


def test_a_certificate_of_nobody(secured: Secured, alice: Site) -> None:
    """The authority signed it, and the broker has no such user."""
    give(alice.config, secured.of("carol"), link="")

    said = refused(alice)
    assert "refused the login of the user 'alice' by its certificate" in said
    assert "add-site alice" in said


def test_a_servers_certificate_is_no_sites(secured: Secured, alice: Site) -> None:
    """Nor the other way round, below."""
    give(alice.config, secured.certificates / "broker", link="")

    said = refused(alice)
    assert "could not agree on how to speak TLS" in said
    assert "a site's certificate" in said


async def test_a_site_cannot_pose_as_the_broker(secured: Secured) -> None:
    """Its certificate is of the same authority, and no server's."""
    own = secured.of("bob")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own / "cert.pem", own / "key.pem")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    sites = Sites(f"amqps://localhost:{server.sockets[0].getsockname()[1]}")
    async with server:
        with pytest.raises(BrokerRefused, match="unsuitable certificate purpose"):
            await sites.open("alice", tls_ca=str(secured.of("alice") / "ca.pem"))


def test_the_script_makes_only_what_is_missing(tmp_path: Path) -> None:
    """Keys are for their owner's eyes; a site gets nothing of the authority but its certificate."""
    said = make(tmp_path, "-b", "broker.example", "-b", "192.0.2.1", "alice")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}

    assert 3 == len(said.splitlines())
    assert {0o600} == {path.stat().st_mode & 0o777 for path in before}
    assert {"ca.pem", "cert.pem", "key.pem"} == {p.name for p in tmp_path.glob("sites/alice/*")}
    assert (tmp_path / "authority/ca.pem").read_bytes() == before[tmp_path / "broker/ca.pem"]
    assert "" == make(tmp_path, "-b", "broker.example", "-b", "192.0.2.1", "alice")
    assert before == {path: path.read_bytes() for path in before}
    assert "sites/bob" in make(tmp_path, "bob", "alice")
    assert before == {path: path.read_bytes() for path in before}
    assert "broker" in make(tmp_path, "-b", "other.example")
    assert before[tmp_path / "broker/key.pem"] != (tmp_path / "broker/key.pem").read_bytes()
    assert [] == list(tmp_path.glob(".work*"))


def test_the_script_renews_what_ends_soon(tmp_path: Path) -> None:
    """A month before; and what another authority signed."""
    make(tmp_path, "-l", "29", "alice")
    assert "sites/alice" in make(tmp_path, "alice")
    assert "" == make(tmp_path, "alice")
    shutil.rmtree(tmp_path / "authority")
    assert 2 == len(make(tmp_path, "alice").splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Alice"], "'Alice' cannot name a site"),
        (["-b", "a/b"], "'a/b' is neither"),
        (["-l", "x", "alice"], "no number of days"),
        ([], "make-certificates [-d DIRECTORY]"),
    ],
)
def test_the_script_refuses_what_cannot_be_meant(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    """Before anything is made."""
    command = ["sh", str(DEPLOY / "make-certificates"), "-d", str(tmp_path / "x"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 2 == done.returncode
    assert said in done.stderr
    assert not (tmp_path / "x").exists()
