"""Messages of many processes in; findings, snapshots and sessions out.

`records` takes the messages in, `judge` lets time go on and judges, `news` tells what began and ended, `readout` says
what a scrape and a report show, and `troubles` keeps what poolscope itself could not do.
"""

from poolscope.judge.judge import Judge

__all__ = ["Judge"]
