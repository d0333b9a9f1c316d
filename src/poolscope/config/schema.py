"""The JSON Schema of the settings, for editors: `python -m poolscope.config.schema > config/poolscope.schema.json`.

Made of the settings' classes and of what `keys` says. It cannot say everything that the reader checks: that bounds
increase, that a key needs its certificate.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from poolscope.config import mappings
from poolscope.config.keys import BUCKETS, BUCKETS_SCHEMA, EXPECTED, MAPPINGS, MAX_MAPPINGS
from poolscope.config.settings import EndpointSettings, MetricsSettings, PoolSettings, Settings, TlsSettings
from poolscope.model import Thresholds

_SECTIONS: dict[str, tuple[type[msgspec.Struct], str]] = {
    "endpoint": (EndpointSettings, "Who may read the endpoint. Beyond loopback it takes TLS with authentication."),
    "tls": (TlsSettings, "The certificate that the endpoint shows; no TLS without one."),
    "detection": (Thresholds, "When a signal becomes a finding."),
    "metrics": (MetricsSettings, "What the endpoint shows."),
}


def schema() -> dict[str, Any]:
    """Return the whole schema, as plain values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "poolscope settings",
        "description": "Every key is optional; an empty file is a valid one. poolscope check FILE says more.",
        **_section(Settings),
        "$defs": mappings.schema(),
    }


def _section(kind: type[msgspec.Struct]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {field.name: _key(kind, field) for field in fields},
    }


def _key(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    if field.name in _SECTIONS:
        section, about = _SECTIONS[field.name]
        return {"description": about, **_section(section)}
    if field.name == "pools":
        rule = _section(PoolSettings) | {"type": "object", "required": ["match"]}
        about = "Rules for single pools; the first that matches wins. Any key of detection may be overridden here."
        return {"description": about, "default": [], "type": ["array", "null"], "items": rule}
    if field.name == "mappings":
        items = {"type": "object", "$ref": "#/$defs/Mapping"}
        kind_of = {"type": ["array", "null"], "maxItems": MAX_MAPPINGS, "items": items}
        return {"description": MAPPINGS, "default": [], **kind_of}
    default = {} if field.default is msgspec.NODEFAULT else {"default": field.default}
    if field.name in BUCKETS:
        return {"description": BUCKETS[field.name], **default, **BUCKETS_SCHEMA}
    expected = EXPECTED[field.name]
    inherits = kind is PoolSettings and field.name in Thresholds.__struct_fields__
    found = {"description": expected.about, **default, **expected.schema}
    if expected.optional or inherits:
        if "type" in found:
            found["type"] = [found["type"], "null"]
        else:
            found["anyOf"] = [*found["anyOf"], {"type": "null"}]
    return found


def text() -> str:
    """Return the schema as it stands in the file."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
