"""Write docs/metrics.md: `python docs/generate.py`; with `--check`, exit 1 if the committed page is not current.

What is said of each metric of clockd's own stands in `clockd.metrics`. The rest of the page stands here.
"""

import sys
from pathlib import Path
from textwrap import fill

from twisted.internet.task import Clock

from clockd.metrics import LABELLED_FEEDS, METRICS, Entry, Moment, TallyCollector, unit_of
from clockd.values import Tally

PAGE = Path(__file__).parent / "metrics.md"

FRAME = """\
# Metrics

`/metrics` has them in the text format of Prometheus, and in OpenMetrics where that is asked for. This page is made by
`docs/generate.py` from what the code says of them. [operations.md](operations.md#metrics) has what Prometheus needs to
scrape them, [runbook.md](runbook.md) the alerts that are made of them.

No label names an account, an address or a connection. Every value of these labels is there from the start, with 0. The
first {labelled} feeds, `time` and then those of the configuration in its order, have labels of their own; all others
share `other`. So a server without feeds of its own has {series} series, one with {labelled} feeds or more {most},
whatever its clients do, and one more with TLS; the client library adds some fifteen.

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
{metrics}

## Labels

| label | of | value | meaning |
|---|---|---|---|
{labels}

## Histograms

Lateness is measured for pushes that a timer caused. So the first push of a session and those that make up for
skipped ones, after a late answer or a full buffer, are not in the histogram.

The upper bounds of the histograms, in seconds:

{bounds}

## What clocks tell

The kernel's word on this host's clock is that of whatever keeps the clock right. `chronyd` and `ntpd` tell it how wrong
they may be. `systemd-timesyncd` tells it 0 whenever it has asked its server, so the bound is too small there. A clock
that nothing has kept right for long is not synchronized: its maximum error grows by half a millisecond a second, and
16 s are the most. In a container the kernel mostly does not answer: `+Inf` and 0 then mean that nothing is known.

An offset that is told is measured against the middle between the ask and its answer, so it may be off by half the time
in `clockd_push_acknowledgement_seconds`. More than a year counts as a year.

## Of the process

These come from Prometheus's own client library:

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
{library}
"""

LIBRARY = (
    ("process_cpu_seconds_total", "counter", (), "CPU time used; clockd cannot use more than one core"),
    ("process_resident_memory_bytes", "gauge", (), "memory in use"),
    ("process_virtual_memory_bytes", "gauge", (), "address space in use"),
    ("process_start_time_seconds", "gauge", (), "when the process was started, Unix time"),
    ("process_open_fds", "gauge", (), "open file descriptors, one for each connection and about a dozen more"),
    ("process_max_fds", "gauge", (), "how many there may be; new connections are closed at once when they run out"),
    ("python_info", "gauge", ("implementation", "major", "minor", "patchlevel", "version"), "always 1"),
    ("python_gc_collections_total", "counter", ("generation",), "runs of Python's garbage collector"),
    ("python_gc_objects_collected_total", "counter", ("generation",), "objects that it has collected"),
    ("python_gc_objects_uncollectable_total", "counter", ("generation",), "objects that it could not collect"),
)
"""What the client library tells of the process and of Python."""


def words(names):
    """Return names as they stand in a cell."""
    return ", ".join(f"`{name}`" for name in names)


def row(*cells):
    """Return a row of a table."""
    return "|".join(["", *(f" {cell} " if cell else " " for cell in cells), ""])


def labels_of(entry: Entry):
    """Return the names of a metric's labels."""
    return ("le",) if entry.kind == "histogram" else tuple(entry.labels)


def meanings():
    """Yield a row for each value of each label, once for all metrics of which it means the same."""
    of = {}
    for entry in METRICS:
        for label, values in entry.labels.items():
            for value, meaning in values.items():
                of.setdefault((label, value, meaning), []).append(entry.name)
    for (label, value, meaning), names in of.items():
        yield row(f"`{label}`", words(names), f"`{value}`", meaning)


def series(feeds):
    """Return how many series there are with so many feeds, `time` among them."""
    tally = Tally()
    for number in range(feeds):
        tally.feed(f"feed-{number}" if number else "time").updated = 1.0
    return sum(len(family.samples) for family in TallyCollector(tally, Clock()).collect())


def bounds():
    """Yield an item for each histogram."""
    tally = Tally()
    for entry in METRICS:
        if entry.kind == "histogram":
            histogram = entry.read(Moment(tally, {}, {}))
            listed = f"- `{entry.name}`: {', '.join(str(bound) for bound in histogram.bounds)}."
            yield fill(listed, 120, subsequent_indent="  ")


def page():
    """Return the page."""
    return FRAME.format(
        labelled=LABELLED_FEEDS,
        series=series(1),
        most=series(LABELLED_FEEDS + 1),
        metrics="\n".join(row(f"`{e.name}`", e.kind, unit_of(e.name), words(labels_of(e)), e.text) for e in METRICS),
        labels="\n".join(meanings()),
        bounds="\n".join(bounds()),
        library="\n".join(
            row(f"`{name}`", kind, unit_of(name), words(labels), text) for name, kind, labels, text in LIBRARY
        ),
    )


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/metrics.md is not current: run python docs/generate.py")
