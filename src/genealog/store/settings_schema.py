"""The JSON Schema of `genealog.toml`, for editors and for whoever generates the file.

Made from the records that read it, so that it cannot say anything else. (msgspec's own generator does not take defaults
of custom types.) What needs two fields at once, such as a minimum that is longer than its maximum, is only found when
the file is read.
"""

from __future__ import annotations

from typing import Any, cast

from msgspec import inspect

from genealog.store.config import Config
from genealog.store.units import DURATION, SIZE, Bytes, Seconds

ID = "urn:genealog:schema:genealog.toml:v1"
_UNITS = {Seconds: (DURATION, "a time with its unit: 90s, 10m, 1h, 30d"), Bytes: (SIZE, "a size with its unit: 64KiB")}


def settings_schema() -> dict[str, Any]:
    """Return the schema, as JSON values. Source: json-schema.org/draft/2020-12."""
    defined: dict[str, Any] = {}
    settings = _object(cast("inspect.StructType", inspect.type_info(Config)), defined)
    identities = settings["properties"]["identities"]
    identities["properties"] = {"signer": settings["properties"].pop("signer")}  # in the file it stands in that table
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": ID, "title": "genealog.toml"}
    return head | settings | {"$defs": dict(sorted(defined.items()))}


def _schema(kind: inspect.Type, defined: dict[str, Any]) -> dict[str, Any]:
    match kind:
        case inspect.Metadata():
            return _schema(kind.type, defined)
        case inspect.StructType():
            name = kind.cls.__name__
            if name not in defined:
                defined[name] = _object(kind, defined)
            return {"$ref": f"#/$defs/{name}"}
        case inspect.CustomType():
            pattern, description = _UNITS[kind.cls]
            return {"type": "string", "pattern": f"^{pattern}$", "description": description}
        case inspect.StrType():
            return {"type": "string"} | ({"pattern": kind.pattern.replace(r"\Z", "$")} if kind.pattern else {})
        case inspect.IntType():
            bounds = {"minimum": kind.ge, "maximum": kind.le}
            return {"type": "integer"} | {name: bound for name, bound in bounds.items() if bound is not None}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType():
            return {"enum": list(kind.values)}
        case inspect.VarTupleType():
            return {"type": "array", "items": _schema(kind.item_type, defined)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _schema(kind.value_type, defined)}
        case inspect.UnionType():
            (only,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))  # TOML has no null
            return _schema(only, defined)
        case _:
            raise TypeError(f"no setting is a {kind}")


def _object(kind: inspect.StructType, defined: dict[str, Any]) -> dict[str, Any]:
    words = (kind.cls.__doc__ or "").partition("\n\n")[0].split()
    properties = {field.encode_name: _schema(field.type, defined) for field in kind.fields}
    required = [field.encode_name for field in kind.fields if field.required]
    found: dict[str, Any] = {"type": "object", "description": " ".join(words), "properties": properties}
    return found | ({"required": required} if required else {}) | {"additionalProperties": False}
