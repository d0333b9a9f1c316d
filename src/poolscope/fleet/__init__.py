"""Pools of any runtime, judged from the metrics that they have already (docs/fleet.md).

`mappings/` says as data what the metrics of a runtime mean, and `known` reads it. `samples` puts series together to
pools, `readings` and `sampled` make numbers of them, `causes` are the reasons as metrics show them, `judging` asks the
rules, and `grouping` puts equal findings together: all of these are pure. `client` speaks to an engine, `survey` asks
it for a fleet, and `report` and `layout` are what comes out.
"""
