"""Figures in Prometheus' text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).

A few lines instead of a library: there is no registry here, only numbers that others keep. Knows nothing about what
the figures mean; what each of them is comes from the catalogue.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backend.engines.tally import WAITS_S, Histogram
from backend.text import say

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "cria_"
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One metric: its name without the prefix, ``gauge`` or ``counter``, and a value per set of labels."""

    name: str
    kind: str
    values: tuple[tuple[Labels, float], ...]

    @staticmethod
    def of(name: str, value: float, kind: str = "gauge") -> "Family":
        """Return a metric of one value without labels."""
        return Family(name, kind, (({}, value),))


def exposition(families: Iterable[Family], histograms: Mapping[str, Histogram]) -> str:
    """Return everything as text."""
    lines: list[str] = []
    for family in families:
        lines += _head(family.name, family.kind)
        lines += [f"{PREFIX}{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.values]
    for name, histogram in histograms.items():
        lines += _head(name, "histogram")
        below = 0
        for bound, count in zip((*map(_number, WAITS_S), "+Inf"), histogram.counts, strict=True):
            below += count
            lines.append(f"{PREFIX}{name}_bucket{_labels({'le': bound})} {below}")
        lines += [f"{PREFIX}{name}_sum {_number(histogram.total)}", f"{PREFIX}{name}_count {below}"]
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str) -> list[str]:
    told = say("en", f"metrics.{name}").replace("\\", r"\\").replace("\n", r"\n")
    return [f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}"]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    sendable = value.encode("utf-8", "replace").decode()  # a folder's name may hold bytes that are no text
    return sendable.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
