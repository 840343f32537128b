"""Seeds that found something: each stays, with what it found."""

from __future__ import annotations

import pytest

from tests.simulation.world import run_seed

FOUND = [
    (24, "bits of the version before, while another one's data was written over theirs"),
    (53, "an epoch floor of all ones left no request id, for any peer"),
    (200, "a content digest that was a lie was kept, and every later run failed with it"),
    (407, "a disk error while the right to hash was taken: the file was 'preparing' for ever"),
    (413, "a clock offset that was learnt, and a clock that was set right: silence for ever"),
    (440, "a damaged replay record that could not be replaced: its lock held up all workers"),
    (505, "published, the manifest lost with the power: an error for a complete file"),
    (20057, "stopped while staging was opened: the transfer busy with its own process for ever"),
    (21069, "deliveries that a disk error had left undone kept all later ones out for ever"),
    (5075, "a copy of a chunk acknowledged before the chunk was durable"),
    (200205, "an error, for a run that was stopped while its file was published"),
    (203357, "a chunk written as a sync failed was held to be there, and committed"),
]


@pytest.mark.parametrize(("seed", "what"), FOUND)
def test_a_seed_that_found_something_holds_now(seed: int, what: str) -> None:
    """And keeps holding, as long as the world draws from it what it drew then."""
    assert "" == run_seed(seed).finding, what
