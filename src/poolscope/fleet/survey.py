"""Asks an engine for the pools of a fleet, and judges them instance by instance.

It looks before it reads: which metrics there are, how many series, which pools ever had something waiting. Of those
alone it reads the raw samples, so many at a time, and lets go of them when they are judged: memory does not grow with
what was sampled.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median
from typing import NamedTuple

from poolscope.config.mappings import Mapping as PoolMapping
from poolscope.config.mappings import Source
from poolscope.config.settings import Settings
from poolscope.errors import PoolscopeError
from poolscope.fleet import known
from poolscope.fleet.client import Engine, Refused
from poolscope.fleet.judging import LEAST_SAMPLES, Instance, Range
from poolscope.fleet.readings import RUN_TASKS, RUN_WINDOW_SECONDS, STRETCH_SCRAPES
from poolscope.fleet.samples import (
    NAMESPACE,
    Assembly,
    PoolKey,
    Samples,
    Series,
    Target,
    key_of,
)
from poolscope.fleet.verdicts import GAPS_SHARE, LEAST_DONE, Verdict
from poolscope.rules.wording import counted

#: Samples that one query may bring, and queries at a time.
SAMPLES_A_QUERY = 400_000
CONCURRENCY = 2
#: More series than this are only read after a question.
MANY_SERIES = 200_000
#: Names of instances in one query.
NAMES_A_QUERY = 400
#: Pools whose runs before that time are asked for.
MOST_HISTORIES = 200
#: How long before the time that is looked at runs may be known from (s).
HISTORY_SECONDS = 86_400.0

Progress = Callable[[str], None]


class TooMany(PoolscopeError):
    """More series than are read unasked."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count:,} series match: name fewer with --match, such as --match '{{job=\"orders\"}}', or add --yes"
        )
        self.count = count


class Pool(NamedTuple):
    """A pool that the engine has series of, and what it shows of it without its samples (None: not asked)."""

    key: PoolKey
    mapping: PoolMapping
    samples: int
    alarm: float | None
    done: float | None


class Survey(NamedTuple):
    """What came of it."""

    verdicts: list[Verdict]
    #: Mappings that were met, and how many pools each; those that carry no verdict among them.
    met: dict[str, int]
    interval: float | None
    notices: list[str]


class Surveyor:
    """One look at a fleet, over one range of time."""

    def __init__(
        self,
        engine: Engine,
        when: Range,
        settings: Settings,
        *,
        match: str | None = None,
        budget: int = SAMPLES_A_QUERY,
        concurrency: int = CONCURRENCY,
        progress: Progress = lambda _: None,
    ) -> None:
        """`match` are matchers such as `job="orders"`; `budget` is how many samples a query may bring."""
        self._engine, self._when, self._settings = engine, when, settings
        self._match = match
        self._histories = 0
        self._budget, self._concurrency, self._progress = budget, concurrency, progress
        self._known = known.together(settings.mappings, known.shipped())
        self._by_name = {mapping.name: mapping for mapping in self._known}

    def run(self, most_series: int | None = MANY_SERIES) -> Survey:
        """Judge all of it. Raises EngineError; TooMany beyond `most_series` (None: however many there are)."""
        begin, end = self._when.begin, self._when.end
        there = known.present(self._known, self._engine.names(begin, end, self._selector("")))
        self._count(there, most_series)
        pools = list(self._pools(there))
        met: dict[str, int] = defaultdict(int)
        for pool in pools:
            met[pool.mapping.name] += 1
        usual = _usual(pools)
        candidates, verdicts = [], []
        for pool in pools:
            if pool.mapping.tier == "none":
                continue
            verdict = self._without_samples(pool, usual[pool.key.target.job])
            if verdict is None:
                candidates.append(pool)
            else:
                verdicts.append(verdict)
        verdicts += self._judged(candidates, there)
        return Survey(verdicts, dict(met), self._interval(usual), self._notices(pools))

    @property
    def mappings(self) -> dict[str, PoolMapping]:
        """Return all mappings by name."""
        return self._by_name

    def _notices(self, pools: Sequence[Pool]) -> list[str]:
        found = []
        if not pools:
            known_runtimes = sorted({mapping.runtime for mapping in self._known if mapping.runtime != "any"})
            found.append(f"no metric of a pool that is known: {', '.join(known_runtimes)}; docs/fleet.md names them")
        if self._histories > MOST_HISTORIES:
            found.append(f"how long runs took in the day before was asked for {MOST_HISTORIES} pools only")
        return found

    def _selector(self, name: str, more: Sequence[str] = ()) -> str:
        """Return a selector of a metric, or of metrics that an expression names, within what was asked for."""
        matchers = [f'__name__=~"{name}"'] if name else []
        matchers += [self._match] if self._match else []
        matchers += more
        return "{" + ",".join(matchers) + "}" if matchers else '{__name__!=""}'

    def _count(self, there: Sequence[tuple[PoolMapping, str]], most: int | None) -> None:
        if most is None or not there:
            return
        names = {prefix + metric for mapping, prefix in there for metric in mapping.anchor.metrics}
        # What there is at both ends: a fleet that came and went in between is not counted, and not large by that.
        query = f"count({self._selector(_any(names))})"
        count = max(
            (round(value) for at in (self._when.begin, self._when.end) for _, value in self._engine.instant(query, at)),
            default=0,
        )
        if count > most:
            raise TooMany(count)

    def _pools(self, there: Sequence[tuple[PoolMapping, str]]) -> Iterator[Pool]:
        """Look at the pools of each mapping without reading them: samples, the most that waited, and what was done."""
        span = f"[{round(self._when.end - self._when.begin)}s]"
        for mapping, prefix in there:
            if mapping.kind == "process":
                continue
            self._progress(f"looking for {mapping.title}")
            counts = self._by_key(mapping, prefix, mapping.anchor, f"count_over_time({{}}{span})", max)
            alarms = self._alarms(mapping, prefix, span)
            done = mapping.roles.sources().get("done")
            dones = (
                self._by_key(mapping, prefix, done, f"increase({{}}{span})", sum)
                if alarms is not None and done is not None
                else {}
            )
            for key, count in counts.items():
                alarm = None if alarms is None else alarms.get(key)
                yield Pool(key, mapping, round(count), alarm, dones.get(key))

    def _alarms(self, mapping: PoolMapping, prefix: str, span: str) -> dict[PoolKey, float] | None:
        """Return the most that ever waited, or of pools without a queue 1 for those that were full, and 0; None where a
        mapping has no metric that alone says that."""
        sources = mapping.roles.sources()
        queued = sources.get("queued")
        if mapping.tier == "none" or mapping.kind == "loop":
            return None
        if queued is not None:
            if queued.plus or queued.minus:
                return None
            return self._by_key(mapping, prefix, queued, f"max_over_time({{}}{span})", max)
        active, limit = sources.get("active"), sources.get("limit")
        if mapping.tier != "C" or active is None or limit is None or active.plus or active.minus or limit.plus:
            return None
        most = self._by_key(mapping, prefix, active, f"max_over_time({{}}{span})", sum)
        least = self._by_key(mapping, prefix, limit, f"min_over_time({{}}{span})", sum)
        # Below 0 it is not there.
        return {key: float(most[key] >= least[key] or least[key] < 0) for key in most.keys() & least.keys()}

    def _by_key(
        self,
        mapping: PoolMapping,
        prefix: str,
        source: Source,
        query: str,
        together: Callable[[Iterable[float]], float],
    ) -> dict[PoolKey, float]:
        """Return what a query gives for each pool of a mapping."""
        where = [f'{label}="{_quoted(value)}"' for label, value in source.where.items()]
        selector = self._selector(_any(prefix + each for each in (source.metric, *source.also)), where)
        found: dict[PoolKey, list[float]] = defaultdict(list)
        for labels, value in self._engine.instant(query.replace("{}", selector), self._when.end):
            found[key_of(mapping, prefix, labels)].append(value)
        return {key: together(values) for key, values in found.items()}

    def _interval(self, usual: Mapping[str, int]) -> float | None:
        """Return about the time between two scrapes of the job that is scraped least often."""
        counts = [count for count in usual.values() if count >= LEAST_SAMPLES]
        return (self._when.end - self._when.begin) / min(counts) if counts else None

    def _without_samples(self, pool: Pool, usual: int) -> Verdict | None:
        """Return the verdict on a pool in which nothing ever waited; None: its samples are needed. `usual` is how many
        there are of other pools of its job."""
        if pool.alarm is None or pool.alarm >= 1 or pool.samples < (1 - GAPS_SHARE) * usual:
            return None
        if pool.samples < LEAST_SAMPLES:
            return _unread(pool, counted(pool.samples, "sample"))
        if pool.done is not None and pool.done < LEAST_DONE:
            return _unread(pool, f"{counted(round(pool.done), 'task')} done")
        return _unread(pool)

    def _judged(self, pools: Sequence[Pool], there: Sequence[tuple[PoolMapping, str]]) -> Iterator[Verdict]:
        """Read and judge, instance by instance."""
        shards = list(self._shards(pools, there))
        total, done = sum(map(len, shards)), 0
        wanted = {pool.key for pool in pools}
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="poolscope-fleet") as workers:

            def read(shard: tuple[Target, ...]) -> list[Series]:
                return self._read(shard, there)

            for shard, series in _in_turn(workers, read, shards, self._concurrency):
                yield from (verdict for verdict in self._judge(series, there) if verdict.key in wanted)
                done += len(shard)
                self._progress(f"{done:,} of {total:,} instances read")

    def _shards(self, pools: Sequence[Pool], there: Sequence[tuple[PoolMapping, str]]) -> Iterator[tuple[Target, ...]]:
        """Instances of one job that one query may bring."""
        roles = max((len(mapping.roles.sources()) for mapping, _ in there), default=1)
        by_target: dict[Target, int] = defaultdict(int)
        for pool in pools:
            by_target[pool.key.target] += pool.samples * roles
        for _, targets in itertools.groupby(sorted(by_target, key=_job), key=_job):
            shard: list[Target] = []
            samples = 0
            for target in targets:
                if shard and (samples + by_target[target] > self._budget or len(shard) >= NAMES_A_QUERY):
                    yield tuple(shard)
                    shard, samples = [], 0
                shard.append(target)
                samples += by_target[target]
            if shard:
                yield tuple(shard)

    def _read(self, shard: tuple[Target, ...], there: Sequence[tuple[PoolMapping, str]]) -> list[Series]:
        """Read all that is known of some instances; what is too much for the engine in two halves."""
        names = _any(Assembly(there).metrics)
        try:
            return list(self._engine.raw(self._selector(names, _of(shard)), self._when.begin, self._when.end))
        except Refused:
            if len(shard) < 2:
                raise
            middle = len(shard) // 2
            return self._read(shard[:middle], there) + self._read(shard[middle:], there)

    def _judge(self, series: Iterable[Series], there: Sequence[tuple[PoolMapping, str]]) -> Iterator[Verdict]:
        assembly = Assembly(there)
        for each in series:
            assembly.add(each)
        by_target: dict[Target, list[tuple[PoolKey, Samples]]] = defaultdict(list)
        for key, samples in assembly.pools():
            by_target[key.target].append((key, samples))
        for found in by_target.values():
            instance = Instance(found, self._by_name)
            alone = {}
            for key in instance.needs_history():
                run = self._history(key) if self._histories < MOST_HISTORIES else None
                self._histories += 1
                if run is not None:
                    alone[key] = run
            yield from instance.judge(self._when, self._settings, alone)

    def _history(self, key: PoolKey) -> float | None:
        """Return how long a run took alone in the day before: means over windows in which hardly anything ran."""
        mapping = self._by_name[key.mapping]
        sources = mapping.roles.sources()
        if not {"active", "done", "limit"} <= sources.keys() or len(mapping.identity) > 1:
            return None
        window = f"{RUN_WINDOW_SECONDS:g}s"
        found = []
        for role, query in (
            ("active", f"sum(avg_over_time({{}}[{window}]))"),
            ("limit", f"sum(avg_over_time({{}}[{window}]))"),
            ("done", f"sum(increase({{}}[{window}]))"),
        ):
            source = sources[role]
            if source.plus or source.minus:
                return None
            names = _any(key.prefix + each for each in (source.metric, *source.also))
            where = _of((key.target,)) + [f'{label}="{_quoted(key.name)}"' for label in mapping.identity]
            where += [f'{label}="{_quoted(value)}"' for label, value in source.where.items()]
            selector = self._selector(names, where)
            begin, end = self._when.begin - HISTORY_SECONDS, self._when.begin
            series = list(self._engine.stepped(query.replace("{}", selector), begin, end, RUN_WINDOW_SECONDS))
            found.append(dict(zip(series[0].at, series[0].values, strict=True)) if series else {})
        active, limit, done = found
        runs = [
            active[at] * RUN_WINDOW_SECONDS / done[at]
            for at in active.keys() & limit.keys() & done.keys()
            if done[at] >= RUN_TASKS and 0 < active[at] <= max(1.0, limit[at] / 4)
        ]
        return median(runs) if len(runs) >= STRETCH_SCRAPES else None


def _in_turn(
    workers: ThreadPoolExecutor,
    read: Callable[[tuple[Target, ...]], list[Series]],
    shards: Iterable[tuple[Target, ...]],
    ahead: int,
) -> Iterator[tuple[tuple[Target, ...], list[Series]]]:
    """Return each shard with what was read of it, in order; no more than `ahead` are read before they are taken."""
    under_way: deque[tuple[tuple[Target, ...], Future[list[Series]]]] = deque()
    try:
        for shard in shards:
            under_way.append((shard, workers.submit(read, shard)))
            if len(under_way) > ahead:
                taken, future = under_way.popleft()
                yield taken, future.result()
        while under_way:
            taken, future = under_way.popleft()
            yield taken, future.result()
    finally:
        for _, future in under_way:
            future.cancel()


def _usual(pools: Iterable[Pool]) -> dict[str, int]:
    """How many samples the pools of each job have that were there all along: jobs have intervals of their own."""
    found: dict[str, int] = {}
    for pool in pools:
        job = pool.key.target.job
        found[job] = max(pool.samples, found.get(job, 0))
    return found


def _unread(pool: Pool, why: str = "") -> Verdict:
    """Return the verdict on a pool in which nothing ever waited, with what there is too little of."""
    return Verdict(
        key=pool.key,
        title=pool.mapping.title,
        tier=pool.mapping.tier,
        state="insufficient" if why else "healthy",
        why=why,
    )


def _job(target: Target) -> tuple[str, ...]:
    return target.namespace, target.job, target.job_label, target.instance_label


def _any(names: Iterable[str]) -> str:
    return "|".join(sorted(names))


def _of(targets: Sequence[Target]) -> list[str]:
    """Return matchers of some instances of one job."""
    first = targets[0]
    found = [f'{NAMESPACE}="{_quoted(first.namespace)}"'] if first.namespace else []
    found += [f'{first.job_label}="{_quoted(first.job)}"'] if first.job else []
    names = "|".join(re.escape(target.instance) for target in targets)
    return [*found, f'{first.instance_label}=~"{_quoted(names)}"'] if names else found


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
