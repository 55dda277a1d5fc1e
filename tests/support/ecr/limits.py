"""The API as the model that botocore ships has it: limits of parameters, of which boto3 itself checks few, members of
answers, and errors."""

from __future__ import annotations

import functools
import re
from typing import Any

import botocore.session

from tests.support.ecr.errors import AwsError, invalid_parameter


def check(operation: str, parameters: dict[str, Any]) -> None:
    """Check what the model has: required members, lengths, ranges, patterns, enumerations.

    Raises:
        AwsError: InvalidParameterException; or the operation is none of ECR's.
    """
    model = _model()
    if operation not in model.operation_names:
        raise AwsError("UnknownOperationException", "", 404)
    _structure(model.operation_model(operation).input_shape, parameters)


def check_answer(operation: str, answer: dict[str, Any]) -> None:
    """Check that the model has every member: boto3 would drop others in silence, and a test would miss them.

    Raises:
        AssertionError: the double has invented something.
    """
    _invented(_model().operation_model(operation).output_shape, answer)


def errors_of(operation: str) -> set[str]:
    """The codes of the operation's own errors."""
    return {shape.name for shape in _model().operation_model(operation).error_shapes}


@functools.cache
def _model() -> Any:
    return botocore.session.get_session().get_service_model("ecr")


def _structure(shape: Any, value: dict[str, Any]) -> None:
    for name in shape.required_members:
        if name not in value:
            raise invalid_parameter(name, "Member must not be null")
    for name, given in value.items():
        if name not in shape.members:
            raise AwsError("SerializationException", f"there is no member {name}")
        _value(name, shape.members[name], given)


def _value(name: str, shape: Any, value: Any) -> None:
    limits = shape.metadata
    measure = value if shape.type_name in {"integer", "long"} else None
    if shape.type_name in {"string", "blob", "list"}:
        measure = len(value)
    if measure is not None and "min" in limits and measure < limits["min"]:
        raise invalid_parameter(name, f"Member must have a minimum of {limits['min']}")
    if measure is not None and "max" in limits and measure > limits["max"]:
        raise invalid_parameter(name, f"Member must have a maximum of {limits['max']}")
    if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
        raise invalid_parameter(name, f"must satisfy regular expression '{limits['pattern']}'")
    if limits.get("enum") and value not in limits["enum"]:
        raise invalid_parameter(name, f"Member must satisfy enum value set: {limits['enum']}")
    if shape.type_name == "list":
        for entry in value:
            _value(name, shape.member, entry)
    elif shape.type_name == "structure":
        _structure(shape, value)


def _invented(shape: Any, value: Any) -> None:
    if shape.type_name == "list":
        for entry in value:
            _invented(shape.member, entry)
    elif shape.type_name == "structure":
        assert set(value) <= set(shape.members), f"{shape.name} has no {set(value) - set(shape.members)}"
        for name, given in value.items():
            _invented(shape.members[name], given)
