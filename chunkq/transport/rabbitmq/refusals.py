"""What the broker's errors mean to us: the one place where pika's and the socket's are translated.

A refusal is what trying again does not mend. Everything else is a lost link, and is tried again.
"""

from __future__ import annotations

import os
import re
from typing import Final

from pika import exceptions

from chunkq.errors import BrokerRefused, BrokerUnreachable, ChunkqError, MailboxAway
from chunkq.transport.rabbitmq.options import Endpoint
from chunkq.transport.rabbitmq.tls import tls_refusal

#: AMQP reply codes: ACCESS_REFUSED, RESOURCE_LOCKED, PRECONDITION_FAILED, NOT_ALLOWED,
#: NOT_IMPLEMENTED. 404 is not among them: what was deleted is declared again.
REFUSING_CODES: Final = frozenset({403, 405, 406, 530, 540})
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406
INTERNAL_ERROR: Final = 541
#: What a cluster says of a queue on a node that is down, or whose process there is.
_AWAY: Final = re.compile(
    r"queue '([^']+)' in vhost .*?(?:is down|process is stopped|has crashed)", re.DOTALL
)
#: Whom the broker takes us for: with EXTERNAL the certificate says it.
_USER: Final = re.compile(r"refused for user '([^']+)'")
_TOO_LARGE: Final = re.compile(r"message size (\d+).*?max(?:imum)?(?: allowed)? size (\d+)")
#: Refusals in form only: they end by themselves (old connections die, a vhost starts).
_PASSING: Final = ("limit", "is down", "not running")

Closed = exceptions.ConnectionClosed | exceptions.ChannelClosed


def connect_failure(error: BaseException, where: Endpoint) -> ChunkqError:
    """Why a connection did not come about."""
    if (refused := tls_refusal(error, where)) is not None:
        return refused
    if isinstance(error, TimeoutError):
        return BrokerUnreachable(f"the broker {where} did not answer in time")
    if isinstance(error, OSError):
        return BrokerUnreachable(f"no connection to the broker {where}: {_reason(error)}")
    if isinstance(error, exceptions.ProtocolSyntaxError | exceptions.IncompatibleProtocolError):
        return BrokerRefused(
            f"what answers at {where} is not an AMQP 0-9-1 broker",
            hint="check host and port; a TLS port needs amqps://",
        )
    if isinstance(error, exceptions.AuthenticationError):
        return BrokerRefused(
            f"the broker {where} does not offer the login {error.args[0]}",
            hint="for EXTERNAL: rabbitmq-plugins enable rabbitmq_auth_mechanism_ssl",
        )
    if isinstance(error, exceptions.ConnectionClosed):
        return refusal(error, where) or BrokerUnreachable(
            f"the broker {where} closed the connection: {error.reply_text}"
        )
    return BrokerUnreachable(f"the connection to the broker {where} was lost: {error}")


def _reason(error: OSError) -> str:
    """asyncio puts the address in place of the system's own words."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def refusal(error: BaseException, where: Endpoint) -> BrokerRefused | None:
    """The refusal that `error` is, or None if it is a lost link."""
    if not isinstance(error, Closed) or error.reply_code not in REFUSING_CODES:
        return None
    text = error.reply_text
    if any(word in text for word in _PASSING):
        return None
    if isinstance(error, exceptions.ConnectionClosed):
        return _login_refusal(error, where)
    if (sizes := too_large(error)) is not None:
        size, most = sizes
        return BrokerRefused(
            f"the broker {where} takes messages of at most {most} bytes, this one has {size}",
            hint=f"set max_message to {most} and choose smaller chunks, or raise "
            "max_message_size in rabbitmq.conf",
        )
    named = _USER.search(text)
    if error.reply_code == ACCESS_REFUSED and named is not None and named[1] != where.user:
        return BrokerRefused(
            f"the broker {where} takes this site, {where.user!r}, for another: {text}",
            hint=f"the certificate is {named[1]}'s: set `cert` and `key` of the link to those "
            f"of {where.user}",
        )
    if error.reply_code == ACCESS_REFUSED:
        return BrokerRefused(
            f"the broker {where} does not permit this to the user {where.user!r}: {text}",
            hint=_grant_hint(where),
        )
    if error.reply_code == PRECONDITION_FAILED and "inequivalent" in text:
        return BrokerRefused(
            f"on the broker {where} it exists already with other arguments: {text}",
            hint="restore the setting, or delete it once it is empty: "
            f"rabbitmqctl -p {where.vhost} delete_queue NAME",
        )
    return BrokerRefused(f"the broker {where} refused (user {where.user!r}): {text}")


def queue_away(error: BaseException) -> str | None:
    """The queue of which the broker says that the node which holds it is down."""
    if not isinstance(error, Closed) or error.reply_code != NOT_FOUND:
        return None
    found = _AWAY.search(error.reply_text)
    return found[1] if found else None


def broke_within(error: BaseException) -> bool:
    """Whether the broker ran into a fault of its own, and closed the connection over it."""
    return isinstance(error, Closed) and error.reply_code == INTERNAL_ERROR


def set_up_failure(error: BaseException, where: Endpoint) -> ChunkqError:
    """Why what was to be made on an open connection did not come about."""
    if (refused := refusal(error, where)) is not None:
        return refused
    if (queue := queue_away(error)) is not None:
        return MailboxAway(
            f"the node that holds the queue {queue} is down, says the broker {where}",
            hint="start that node again: `rabbitmqctl cluster_status` tells which is missing",
        )
    if isinstance(error, TimeoutError):
        return BrokerUnreachable(
            f"the broker {where} is connected and does not answer",
            hint="if it is a cluster: are most of its nodes up?",
        )
    if isinstance(error, exceptions.ChannelClosed):
        return BrokerUnreachable(f"the broker {where} did not do it: {error.reply_text}")
    return connect_failure(error, where)


def too_large(error: BaseException) -> tuple[int, int] | None:
    """(size, most) if the broker closed the channel because a message was too large."""
    if not isinstance(error, Closed) or error.reply_code != PRECONDITION_FAILED:
        return None
    found = _TOO_LARGE.search(error.reply_text)
    return (int(found[1]), int(found[2])) if found else None


def _login_refusal(error: exceptions.ConnectionClosed, where: Endpoint) -> BrokerRefused:
    if error.reply_code == ACCESS_REFUSED and "EXTERNAL" in error.reply_text:
        return BrokerRefused(
            f"the broker {where} refused the login of the user {where.user!r} by its certificate",
            hint="the certificate holds, and the common name in it is no user of the broker: "
            f"an administrator can add it with deploy/rabbitmq/add-site {where.user}",
        )
    if error.reply_code == ACCESS_REFUSED:
        return BrokerRefused(
            f"the broker {where} refused the login of the user {where.user!r}",
            hint="check user and password; an administrator can set them: "
            f"rabbitmqctl change_password {where.user} PASSWORD",
        )
    return BrokerRefused(
        f"the broker {where} refused the user {where.user!r} the virtual host {where.vhost!r}: "
        f"{error.reply_text}",
        hint=f"rabbitmqctl add_vhost {where.vhost}; {_grant_hint(where)}",
    )


def _grant_hint(where: Endpoint) -> str:
    """What an administrator runs; the same as in the deployment notes."""
    own = rf"cq\.req\.{where.user}|cq\.rep\.{where.user}\..*"
    return (
        f"rabbitmqctl set_permissions -p {where.vhost} {where.user} '^({own})$' "
        rf"'^(cq\.req|cq\.rep|cq\.dlx|{own})$' '^(cq\.req|cq\.rep|{own})$'"
    )
