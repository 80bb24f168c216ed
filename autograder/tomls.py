"""TOML that authors write, read into records: what is wrong with a file is one sentence, with the key and the nearest that exists."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from .errors import LessonError, nearest

Record = TypeVar("Record", bound=BaseModel)


def toml_of(path: Path) -> dict[str, Any]:
    """What is in a file.

    Raises:
        LessonError: there is none, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise LessonError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LessonError(f"{path} is not valid TOML: {error}") from None


def record_of(path: Path, model: type[Record], data: dict[str, Any], hint: str = "") -> Record:
    """The record that a file's data make.

    Args:
        path, hint: for the message: the file, and where its keys are explained.

    Raises:
        LessonError: a key is unknown, missing or has a value of the wrong kind.
    """
    try:
        return model(**data)
    except ValidationError as error:
        unknown_first = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        problems = "; ".join(_problem(each, model) for each in unknown_first)
        raise LessonError(
            f"{path}: {problems}{f' ({hint})' if hint else ''}"
        ) from None  # what to mend, and no list of pydantic's before it


def _problem(error, model):
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(error['loc'][-1]), _keys(model, error['loc'][:-1]))}"
    return f"the key {key!r} is missing" if error["type"] == "missing" else f"{key}: {error['msg']}"


def _keys(model, steps):
    """The keys of the table at a place in a record."""
    for step in steps:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def _model_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
