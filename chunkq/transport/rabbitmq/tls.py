"""What TLS errors mean to us: whose certificate it is about, and what to do.

Trying again mends none of them, so they are refusals.
"""

from __future__ import annotations

import ssl
from typing import Final

from chunkq.errors import BrokerRefused
from chunkq.transport.rabbitmq.options import Endpoint

#: OpenSSL's X509_V_ERR_*: not yet valid, expired; another host's name or address.
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_OTHER_HOST: Final = frozenset({62, 64})

_ASK_FOR_ONE: Final = (
    "its administrator makes one (deploy/rabbitmq/make-certificates); "
    "set `cert` and `key` of the link to it"
)
#: How the name of an alert ends, and what it says of this site's certificate. With TLS 1.3 it comes
#: when the connection seems open already, so it is met in two places.
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": ("wants a certificate, and this site gave none", _ASK_FOR_ONE),
    "CERTIFICATE_EXPIRED": ("says that this site's certificate has expired", _ASK_FOR_ONE),
    "CERTIFICATE_REVOKED": ("says that this site's certificate was revoked", _ASK_FOR_ONE),
    "UNKNOWN_CA": ("does not know the authority of this site's certificate", _ASK_FOR_ONE),
    "BAD_CERTIFICATE": ("does not accept this site's certificate", _ASK_FOR_ONE),
    "CERTIFICATE_UNKNOWN": ("does not accept this site's certificate", _ASK_FOR_ONE),
    "UNSUPPORTED_CERTIFICATE": ("does not accept this site's certificate", _ASK_FOR_ONE),
    "DECRYPT_ERROR": ("does not accept this site's certificate", _ASK_FOR_ONE),
    "ACCESS_DENIED": ("does not accept this site's certificate", _ASK_FOR_ONE),
    "HANDSHAKE_FAILURE": (
        "and this site could not agree on how to speak TLS",
        "is `cert` a site's certificate, and not a server's? " + _ASK_FOR_ONE,
    ),
    "PROTOCOL_VERSION": (
        "and this site could not agree on a version of TLS",
        "this site speaks 1.2 and 1.3: look at ssl_options.versions in rabbitmq.conf",
    ),
}


def tls_refusal(error: BaseException, where: Endpoint) -> BrokerRefused | None:
    """The refusal that `error`, or what caused it, is; None if it is no matter of certificates."""
    if isinstance(error.__cause__, ssl.SSLError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return _broker_certificate(error, where)
    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or ""
    if "WRONG_VERSION" in reason:
        return BrokerRefused(
            f"the broker {where} does not speak TLS on this port",
            hint="amqps:// usually goes to port 5671, amqp:// to 5672",
        )
    alert = next((name for name in _ALERTS if reason.endswith(f"ALERT_{name}")), None)
    if alert is None:
        return None
    said, hint = _ALERTS[alert]
    return BrokerRefused(f"the broker {where} {said}", hint=hint)


def _broker_certificate(error: ssl.SSLCertVerificationError, where: Endpoint) -> BrokerRefused:
    if error.verify_code in (_EXPIRED, _NOT_YET):
        hint = "is this machine's clock right? else the broker's administrator must renew it"
    elif error.verify_code in _OTHER_HOST:
        hint = (
            "write the host into the URL as the certificate names it, "
            f"or have one made that names {where.host}, too"
        )
    else:
        hint = "set `ca` of the link to the authority that signed it; ask its administrator for it"
    return BrokerRefused(
        f"the certificate of the broker {where} does not hold: {error.verify_message}", hint=hint
    )
