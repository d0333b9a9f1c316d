"""The settings' classes, and texts that look like settings."""

from __future__ import annotations

from hypothesis import strategies as st

from poolscope import config
from poolscope.config import PoolSettings, Settings
from poolscope.model import Thresholds

STRUCTS = (
    Settings,
    config.EndpointSettings,
    config.TlsSettings,
    PoolSettings,
    Thresholds,
    config.MetricsSettings,
)


KEYS = sorted({key for struct in STRUCTS for key in struct.__struct_fields__} | {"<<", "pool", "1", "null"})
WORDS = (
    "1|0|-1|1.5|1e3|.nan|.inf|-.inf|true|null|~|x|'x'|1:30|0x1f|0o7|2030-01-02|&a 1|*a|=|<<|[|127.0.0.1:1|"
    "|'*'|!!int x|!!float .x|!!null x|!!set {a}"
)
SCALARS = st.sampled_from(WORDS.split("|"))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=3).map(
            lambda pairs: f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}"
        ),
    ),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=4).map(
    lambda pairs: "\n".join(f"{key}: {value}" for key, value in pairs)
)
