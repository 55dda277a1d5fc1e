"""The API's port: AWS JSON 1.1 for ECR, the query protocol for STS. Who calls, what they may, and what goes wrong."""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol

from tests.support.ecr import limits, sts
from tests.support.ecr.desk import Operation
from tests.support.ecr.errors import AwsError
from tests.support.ecr.faults import Call
from tests.support.ecr.layers import LAYERS
from tests.support.ecr.manifests import IMAGES
from tests.support.ecr.principals import Credentials, Principals
from tests.support.ecr.repositories import REPOSITORIES, public_authorization_token
from tests.support.ecr.scans import SCANS
from tests.support.ecr.server import Answer, Request
from tests.support.ecr.sigv4 import BadSignature

_JSON: Final = "application/x-amz-json-1.1"
_PRIVATE: Final = "AmazonEC2ContainerRegistry_V20150921"
_PUBLIC: Final = "SpencerFrontendService"
_SIGNED_AS: Final = {_PRIVATE: "ecr", _PUBLIC: "ecr-public", "": "sts"}
_PUBLIC_REGION: Final = "us-east-1"  # ECR Public answers nowhere else
_OPERATIONS: Final[dict[str, Operation]] = {**REPOSITORIES, **LAYERS, **IMAGES, **SCANS}


class Cloud(Protocol):
    """What the front needs of the cloud."""

    principals: Principals
    role_seconds: float | None

    def strike(self, call: Call) -> None: ...
    def violate(self, what: str) -> None: ...
    def carry_out(self, call: Call, operation: Operation, parameters: dict[str, Any]) -> dict[str, Any]: ...
    def record(self, call: Call, work: Callable[[], Answer], refuse: Callable[[AwsError], Answer]) -> Answer | None: ...


def answer(cloud: Cloud, request: Request) -> Answer | None:
    """Answer one request; None: the connection breaks."""
    if request.headers.get("content-type", "").startswith(sts.FORM):
        form = sts.parameters_of(request)
        parameters = {name: form[name] for name in form if name not in {"Action", "Version", "WebIdentityToken"}}
        call = Call(form.get("Action", ""), parameters=parameters)
        return cloud.record(call, lambda: _sts(cloud, request, call, form), sts.refusal)
    service, _, operation = request.headers.get("x-amz-target", "").partition(".")
    call = Call(operation)
    return cloud.record(call, lambda: _json(cloud, request, call, service), refusal)


def refusal(error: AwsError) -> Answer:
    """An error as AWS JSON 1.1 has it."""
    document = {"__type": error.code, "message": error.message, **error.fields}
    if error.code == "ThrottlingException":
        document["__type"] = f"com.amazon.coral.availability#{error.code}"
    if error.code == "AccessDeniedException":
        document["Message"] = document.pop("message")  # this one comes from another layer of AWS
    return _answered(error.status, document)


def _sts(cloud: Cloud, request: Request, call: Call, form: dict[str, str]) -> Answer:
    caller = None if call.operation in sts.UNSIGNED else _identify(cloud, request, call, "")
    cloud.strike(call)
    return sts.carry_out(form, caller, cloud.principals, cloud.role_seconds)


def _json(cloud: Cloud, request: Request, call: Call, service: str) -> Answer:
    if service not in {_PRIVATE, _PUBLIC} or request.method != "POST" or request.target != "/":
        cloud.violate(f"{request.method} {request.target} with the target {service}.{call.operation}")
        raise AwsError("UnknownOperationException", "", 404)
    if request.headers.get("content-type") != _JSON:
        raise AwsError("SerializationException", "this is no AWS JSON 1.1")
    try:
        parameters = json.loads(request.body)
    except ValueError:
        raise AwsError("SerializationException", "this is no JSON") from None
    call.parameters = {name: value for name, value in parameters.items() if name != "layerPartBlob"}
    _identify(cloud, request, call, service)
    call.account = parameters.get("registryId", call.account)
    cloud.strike(call)
    if service == _PUBLIC:
        if call.region != _PUBLIC_REGION or call.operation != "GetAuthorizationToken":
            cloud.violate(f"ECR Public has no {call.operation} in {call.region}")
            raise AwsError("UnknownOperationException", "", 404)
        return _answered(200, cloud.carry_out(call, public_authorization_token, parameters))
    operation = _OPERATIONS.get(call.operation)
    if operation is None:
        cloud.violate(f"{call.operation} is not known to the double")
        raise AwsError("UnknownOperationException", "", 404)
    _decode_blob(parameters)
    limits.check(call.operation, parameters)
    done = cloud.carry_out(call, operation, parameters)
    limits.check_answer(call.operation, done)
    return _answered(200, done)


def _identify(cloud: Cloud, request: Request, call: Call, service: str) -> Credentials:
    """Note in `call` who has signed the request, and for where."""
    try:
        caller, scope = cloud.principals.authenticate(request)
    except BadSignature as error:
        cloud.violate(f"{call.operation}: {error}")
        raise
    call.account, call.region, call.principal, call.caller = caller.account, scope.region, caller.arn, caller.caller
    if scope.service != _SIGNED_AS[service]:
        cloud.violate(f"{call.operation} was signed for {scope.service}")
        raise AwsError("InvalidSignatureException", f"Credential should be scoped to {_SIGNED_AS[service]}", 403)
    if caller.expires is not None and time.time() >= caller.expires:
        raise AwsError("ExpiredTokenException", "The security token included in the request is expired", 403)
    return caller


def _decode_blob(parameters: dict[str, Any]) -> None:
    if "layerPartBlob" in parameters:
        try:
            parameters["layerPartBlob"] = base64.b64decode(parameters["layerPartBlob"], validate=True)
        except binascii.Error:
            raise AwsError("SerializationException", "layerPartBlob is no base64") from None


def _answered(status: int, document: dict[str, Any]) -> Answer:
    headers = {"Content-Type": _JSON, "x-amzn-RequestId": str(uuid.uuid4())}
    return Answer(status, json.dumps(document).encode(), headers)
