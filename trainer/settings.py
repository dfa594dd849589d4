"""TOML tables become frozen dataclasses: merging, checking, and errors with a suggestion."""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class Bare(str):
    """A value of `--set` that is no TOML: a string, or `none`, which unsets an optional setting."""

    __slots__ = ()


class UserError(Exception):
    """An error whose message says what to change; it is shown without a traceback."""


class ConfigError(UserError):
    """Every fault of a configuration at once, one a line in `faults`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(tuple(faults))  # pickled as its arguments, on the way to other ranks
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(self.faults)


def also_named(name: str) -> Any:
    """A field of a config that files may spell `name` too."""
    return dataclasses.field(metadata={"also_named": name})


def load_toml(kind: type[T], path: Path) -> T:
    """One TOML file as the frozen dataclass `kind`; ConfigError names every fault."""
    return resolve(kind, [(str(path), read_toml(path))])[0]


def resolve(
    kind: type[T], layers: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[T, dict[str, str]]:
    """Merge layers of (origin, values), build `kind`, and say which layer gave each setting.

    Tables merge key by key; any other value replaces. ConfigError names every fault of every layer.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, given in layers:
        layer = _spelled(kind, given)
        found = list(_faults(kind, layer, ""))
        faults += [f"{origin}: {fault}" for fault in found]
        if not found:
            _merge(values, layer)
            origins |= {key: origin for key, _ in _flatten(layer)}
    if not faults:
        faults = [f"no file sets {key}" for key in _missing(kind, values, "")]
    if faults:
        raise ConfigError(faults)
    return _build(kind, values), origins


def dump(config: object) -> dict[str, Any]:
    """A config as plain tables, lists and numbers."""
    return dataclasses.asdict(typing.cast(Any, config))


def settings(config: object) -> dict[str, Any]:
    """Every setting under its dotted name."""
    return dict(_flatten(dump(config)))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's tables; ConfigError says why it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from None


def parse_override(text: str) -> dict[str, Any]:
    """`section.key=value` as tables; the value is read as TOML, else it is a string.

    ConfigError where a value is missing: `key=` would be an empty path.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(name.strip() for name in key.split(".")):
        raise ConfigError([f"--set {text}: expected section.key=value"])
    if not value.strip():
        raise ConfigError([f"--set {text}: a value is missing; none unsets an optional setting"])
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = Bare(value)
    for name in reversed(key.strip().split(".")):
        parsed = {name: parsed}
    return typing.cast(dict[str, Any], parsed)


def _spelled(kind: Any, values: Any) -> Any:
    """A layer under its fields' own names; one that stands under both names stays as it is.

    `none` of the command line becomes None where a setting may be unset, else it is a string.
    """
    if isinstance(values, Bare):
        return None if values.strip() == "none" and _fits(kind, None) else str(values)
    if not (dataclasses.is_dataclass(kind) and isinstance(values, dict)):
        return values
    hints, fields = _fields(typing.cast(type, kind)), dataclasses.fields(kind)
    own = {f.metadata["also_named"]: f.name for f in fields if "also_named" in f.metadata}
    layer, renamed = typing.cast(dict[str, Any], values), {}
    for key, inner in layer.items():
        name = key if own.get(key) in layer else own.get(key, key)
        renamed[name] = _spelled(hints.get(name), inner)
    return renamed


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Tables without the keys that are None, since TOML knows none and JSON does."""
    kept = {key: value for key, value in values.items() if value is not None}
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in kept.items()
    }


def _fields(kind: type) -> dict[str, Any]:
    return {key: hint for key, hint in typing.get_type_hints(kind).items() if key != "return"}


def _faults(kind: Any, value: Any, name: str) -> Iterator[str]:
    """Faults of one layer's value, whose type is `kind`; keys may be missing."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            yield f"{name} = {value!r}; expected a table"
            return
        fields = _fields(typing.cast(type, kind))
        for key, inner in value.items():
            full = f"{name}.{key}" if name else key
            if key in fields:
                yield from _faults(fields[key], inner, full)
            else:
                yield f"no setting {full}{_suggest(key, fields, name)}"
    elif typing.get_origin(kind) is Mapping or getattr(kind, "__origin__", None) is Mapping:
        yield from _mapping_faults(kind, value, name)
    elif not _fits(kind, value):
        yield f"{name} = {value!r}; expected {_describe(kind)}"


def _mapping_faults(kind: Any, value: Any, name: str) -> Iterator[str]:
    key_kind, value_kind = typing.get_args(kind)
    if not isinstance(value, dict):
        yield f"{name} = {value!r}; expected a table"
        return
    for key, inner in value.items():
        if _fits(key_kind, key):
            yield from _faults(value_kind, inner, f"{name}.{key}")
        else:
            yield f"no setting {name}.{key}{_suggest(key, typing.get_args(key_kind), name)}"


def _suggest(key: str, known: Sequence[str] | Mapping[str, Any], table: str) -> str:
    near = difflib.get_close_matches(key, list(known), 1)
    if near:
        return f"; did you mean {table}.{near[0]}?" if table else f"; did you mean {near[0]}?"
    return f"; {table or 'the file'} has: {', '.join(known)}"


def _fits(kind: Any, value: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(option, value) for option in inner)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(inner[0], item) for item in value)
        return len(value) == len(inner) and all(map(_fits, inner, value))
    if origin is Mapping:
        return isinstance(value, dict) and all(
            _fits(inner[0], key) and _fits(inner[1], item) for key, item in value.items()
        )
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _describe(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in inner if option is not types.NoneType)
    if origin is Literal:
        choices = [repr(option) for option in inner]
        return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"a list of {_describe(inner[0])}"
        return f"[{', '.join(map(_describe, inner))}]"
    return "a table" if origin is Mapping else str(kind.__name__)


def _missing(kind: Any, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    hints = _fields(kind)
    for field in dataclasses.fields(kind):
        hint, full = hints[field.name], f"{prefix}{field.name}"
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if dataclasses.is_dataclass(hint) and not (optional and field.name not in values):
            yield from _missing(hint, values.get(field.name, {}), f"{full}.")
        elif field.name not in values and not optional:
            yield full


def _build(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = _fields(typing.cast(type, kind))
        return typing.cast(Any, kind)(
            **{key: _build(hints[key], item) for key, item in value.items()}
        )
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _build(next(option for option in inner if _fits(option, value)), value)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(map(_build, kinds, value))
    if isinstance(value, dict):
        return {key: _build(inner[1], item) for key, item in value.items()}
    return float(value) if kind is float else value
