"""What is known of libraries that run their users' functions."""

from __future__ import annotations

#: Module of a library -> its name as a package, and what is looked through there.
AROUND = {
    "apscheduler.executors.base": ("APScheduler", ["run_job"]),
    "celery.concurrency.base": ("celery", ["apply_target"]),
    "dask.local": ("dask", ["batch_execute_tasks"]),
    "grpc._server": ("grpcio", ["_unary_response_in_pool", "_stream_response_in_pool"]),
    "gunicorn.workers.gthread": ("gunicorn", ["ThreadWorker.handle"]),
    "joblib._utils": ("joblib", ["_TracebackCapturingWrapper"]),
    "joblib.parallel": ("joblib", ["BatchedCalls"]),
}
