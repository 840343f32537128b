"""What RabbitMQ 4 demands of a client, asserted on everything that connections sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pika import frame, spec

#: RabbitMQ 4 refuses to negotiate less, and takes messages of at most so much.
MIN_FRAME_MAX, MAX_BODY_BYTES = 8192, 16 << 20
#: Queue arguments that it no longer knows, or that make a queue of a kind that it no longer has.
RETIRED = {"x-queue-mode", "x-ha-policy", "x-queue-master-locator", "x-max-in-memory-length"}

#: Mailboxes that go with their last consumer: of the status, and of commands to an origin worker.
FLEETING = re.compile(r"\.(status|origin-[a-z0-9]+)$")


def frames_of(stream: bytes) -> Iterator[Any]:
    """The frames in what one connection sent, by pika's own decoder."""
    view = memoryview(stream)
    while view:
        head = bytes(view[:7])
        size = 8 if head[:4] == b"AMQP" else 7 + int.from_bytes(head[3:7], "big") + 1
        consumed, value = frame.decode_frame(bytes(view[:size]))
        assert consumed == size, "the stream ends in mid-frame"
        view = view[size:]
        yield value


class Recorded:
    """All that some connections sent; made, it holds what RabbitMQ 4 demands."""

    def __init__(self, streams: Iterable[bytes | bytearray]) -> None:
        frames = [value for stream in streams for value in frames_of(bytes(stream))]
        self.methods = [each.method for each in frames if isinstance(each, frame.Method)]
        self.bodies = [each.body_size for each in frames if isinstance(each, frame.Header)]
        self._fragments = [len(each.fragment) for each in frames if isinstance(each, frame.Body)]
        self._check_connections()
        self._check_declarations()

    def sent(self, kind: type) -> list[Any]:
        return [method for method in self.methods if isinstance(method, kind)]

    @property
    def queues(self) -> set[str]:
        """Those declared, not only looked for."""
        return {each.queue for each in self.sent(spec.Queue.Declare) if not each.passive}

    def _check_connections(self) -> None:
        tuned = [each.frame_max for each in self.sent(spec.Connection.TuneOk)]
        assert tuned
        assert min(tuned) >= MIN_FRAME_MAX
        assert max(self._fragments, default=0) <= max(tuned) - 8
        assert max(self.bodies, default=0) < MAX_BODY_BYTES
        assert not any(each.global_qos for each in self.sent(spec.Basic.Qos))
        assert all(each.prefetch_size == 0 for each in self.sent(spec.Basic.Qos))
        assert len(self.sent(spec.Basic.Qos)) == len(self.sent(spec.Basic.Consume))
        assert all(each.exchange for each in self.sent(spec.Basic.Publish))
        assert all(each.mandatory for each in self.sent(spec.Basic.Publish))

    def _check_declarations(self) -> None:
        for each in self.sent(spec.Queue.Declare):
            if each.passive:
                continue
            assert each.queue, "a name that the broker makes up"
            assert each.durable or each.exclusive, each.queue
            assert not each.auto_delete or FLEETING.search(each.queue), each.queue
            assert RETIRED.isdisjoint(each.arguments), each.queue
            assert each.arguments["x-queue-type"] in ("classic", "quorum"), each.queue
        for each in self.sent(spec.Exchange.Declare):
            assert each.passive or (each.durable and not each.auto_delete), each.exchange
            assert not each.internal
