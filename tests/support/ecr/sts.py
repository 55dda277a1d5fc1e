"""STS: the query protocol in, XML out."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from tests.support.ecr.errors import AwsError
from tests.support.ecr.principals import Credentials, Principals
from tests.support.ecr.server import Answer, Request

FORM: Final = "application/x-www-form-urlencoded"
UNSIGNED: Final = frozenset({"AssumeRoleWithWebIdentity"})
"""Actions that need no signature: the token in the request is the credential."""

_NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
_MIN_SECONDS: Final = 900
_MAX_SECONDS: Final = 43_200
_DEFAULT_SECONDS: Final = "3600"
# The query protocol has names of its own for the same refusals.
_CODES: Final = {
    "AccessDeniedException": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "IncompleteSignatureException": "IncompleteSignature",
    "MissingAuthenticationTokenException": "MissingAuthenticationToken",
    "ThrottlingException": "Throttling",
}


def parameters_of(request: Request) -> dict[str, str]:
    """The form's fields, `Action` among them."""
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True))


def carry_out(
    form: dict[str, str], caller: Credentials | None, principals: Principals, role_seconds: float | None
) -> Answer:
    """Answer one action. `caller` is None for those of UNSIGNED; `role_seconds` is granted, whatever was asked for.

    Raises:
        AwsError
    """
    action = form.get("Action", "")
    if action == "GetCallerIdentity" and caller:
        body = f"<Arn>{escape(caller.caller)}</Arn><UserId>{caller.access_key}</UserId>"
        return _xml(200, action, f"<{action}Result>{body}<Account>{caller.account}</Account></{action}Result>")
    if action not in {"AssumeRole", "AssumeRoleWithWebIdentity"}:
        raise AwsError("InvalidAction", f"Could not find operation {action} for version 2011-06-15")
    for name in ("RoleArn", "RoleSessionName"):
        if not form.get(name):
            raise AwsError("ValidationError", f"Value null at '{name}' failed to satisfy constraint")
    if action in UNSIGNED and not form.get("WebIdentityToken"):
        raise AwsError("InvalidIdentityToken", "there is no token")
    seconds = int(form.get("DurationSeconds", _DEFAULT_SECONDS))
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise AwsError("ValidationError", f"DurationSeconds is {seconds}")
    made = principals.assume(
        form["RoleArn"], form["RoleSessionName"], seconds if role_seconds is None else role_seconds
    )
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made.expires))
    body = (
        f"<AssumedRoleUser><Arn>{escape(made.caller)}</Arn>"
        f"<AssumedRoleId>AROATEST:{escape(form['RoleSessionName'])}</AssumedRoleId></AssumedRoleUser>"
        f"<Credentials><AccessKeyId>{made.access_key}</AccessKeyId><SecretAccessKey>{made.secret_key}</SecretAccessKey>"
        f"<SessionToken>{made.token}</SessionToken><Expiration>{expires}</Expiration></Credentials>"
    )
    return _xml(200, action, f"<{action}Result>{body}</{action}Result>")


def refusal(error: AwsError) -> Answer:
    """An error as this protocol writes it."""
    code = _CODES.get(error.code, error.code)
    status = 403 if code in _CODES.values() and error.status == 400 and code != "Throttling" else error.status
    kind = "Receiver" if status >= 500 else "Sender"
    text = f"<Error><Type>{kind}</Type><Code>{code}</Code><Message>{escape(error.message)}</Message></Error>"
    body = f'<ErrorResponse xmlns="{_NAMESPACE}">{text}<RequestId>00000000</RequestId></ErrorResponse>'
    return Answer(status, body.encode(), {"Content-Type": "text/xml"})


def _xml(status: int, action: str, result: str) -> Answer:
    metadata = "<ResponseMetadata><RequestId>00000000</RequestId></ResponseMetadata>"
    body = f'<{action}Response xmlns="{_NAMESPACE}">{result}{metadata}</{action}Response>'
    return Answer(status, body.encode(), {"Content-Type": "text/xml"})
