"""Settings: YAML in, one frozen `Settings` out, or a line for each thing that is wrong.

`settings` holds the values, `keys` says what each key may hold, `reading` checks a file against that, over the plain
values that `yamltree` finds in it, and `schema` says the same to editors.
"""

from poolscope.config.keys import listen_address
from poolscope.config.reading import environment_settings, from_mapping, load, parse
from poolscope.config.settings import (
    DEFAULT_LISTEN,
    EndpointSettings,
    MetricsSettings,
    PoolSettings,
    Settings,
    TlsSettings,
)

__all__ = [
    "DEFAULT_LISTEN",
    "EndpointSettings",
    "MetricsSettings",
    "PoolSettings",
    "Settings",
    "TlsSettings",
    "environment_settings",
    "from_mapping",
    "listen_address",
    "load",
    "parse",
]
