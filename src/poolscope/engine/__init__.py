"""Messages of many processes in; findings, snapshots and sessions out.

`ingest` takes the messages in, `engine` advances time and judges, `notifications` reports what began and ended,
`views` makes what a scrape and a report show, and `self_health` keeps the failures of poolscope itself.
"""

from poolscope.engine.engine import Engine

__all__ = ["Engine"]
