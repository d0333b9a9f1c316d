"""Celery: has each worker watched that starts in a process which imports this.

    import poolscope.integrations.celery  # beside the app

As a worker starts, its pool is watched, and findings are logged by it; with POOLSCOPE_LISTEN its metrics are served.
Nothing happens where no worker starts. Under `poolscope run -- celery ... worker` none of this is needed.
"""

from __future__ import annotations

from typing import Any

from celery.signals import worker_init

import poolscope


def _begin(**_: Any) -> None:
    poolscope.install()


worker_init.connect(_begin, weak=False, dispatch_uid="poolscope")
