"""Where a site keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import platformdirs

from chunkq.errors import ConfigError


def expand_home(path: Path) -> Path:
    """`~` and `~user` in front become that home. Raises `ConfigError` if nobody is called so."""
    try:
        return path.expanduser()
    except (RuntimeError, ValueError):  # a name with a NUL in it
        raise ConfigError(
            f"{str(path)!a} begins with the home of a user whom this machine does not know",
            hint="write the whole path, or ./~... if it is a name",
        ) from None


@dataclass(frozen=True, slots=True)
class Directories:
    """A site's two directories. `config`: what people decide. `state`: what chunkq remembers."""

    config: Path
    state: Path

    @classmethod
    def standard(cls) -> Directories:
        """The XDG directories of this user."""
        return cls(
            config=platformdirs.user_config_path("chunkq"),
            state=platformdirs.user_state_path("chunkq"),
        )

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def keys_file(self) -> Path:
        return self.config / "site.keys"

    @property
    def peers(self) -> Path:
        """One TOML file a peer."""
        return self.config / "peers"

    @property
    def shares(self) -> Path:
        """One TOML file a share, with its grants."""
        return self.config / "shares"

    @property
    def spool(self) -> Path:
        """The queues of the default link, until another is configured."""
        return self.state / "spool"

    @property
    def manifests(self) -> Path:
        return self.state / "manifests"

    @property
    def replays(self) -> Path:
        return self.state / "replays"

    @property
    def usage(self) -> Path:
        """How much each peer was sent of late, one small file each."""
        return self.state / "usage"

    @property
    def jobs(self) -> Path:
        """Transfers that `get --queue` left for a worker."""
        return self.state / "jobs"
