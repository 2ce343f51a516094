"""The terminal's ``bench`` command: load a model, measure it, hold it against what memory allows. Draws a table.

Knows nothing about how engines work.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backend.cli.chat import model_folder, wait_until_ready
from backend.cli.draw import width
from backend.cli.loras import with_loras
from backend.cli.parser import engine_options, model_elsewhere
from backend.engines import ENGINES
from backend.engines.base import EngineStatus
from backend.engines.bench import PARALLEL, Burst, measure
from backend.engines.fitting import dimensions_of
from backend.engines.supervisor import Supervisor
from backend.library import read_model
from backend.services import Services
from backend.text import say, tell
from backend.weights.gguf_ready import holds_ready


@dataclass(frozen=True)
class Report:
    """Everything that was measured. The bound is bandwidth over the bytes of weights that one token reads."""

    model: str
    engine: str
    bits: int
    context: int
    load_s: float
    memory_bytes: int
    gpu_memory_bytes: int
    bursts: tuple[Burst, ...]
    bandwidth: float | None = None  # bytes a second, measured now
    bytes_per_token: float | None = None

    @property
    def bound(self) -> float | None:
        """Tokens a second of one request, at most."""
        return self.bandwidth / self.bytes_per_token if self.bandwidth and self.bytes_per_token else None


def bench(args: argparse.Namespace, services: Services) -> int:
    """Measure a model; a table on stdout, or with ``--json`` one line of JSON. Returns 0.

    Raises:
        UsageError: no such model, or options that cannot work here.
        EngineError, MachineError: it cannot be loaded or died.
    """
    settings, language = services.settings, services.settings.language
    options = model_elsewhere(engine_options(args), args.name)
    options = with_loras(options, args.attach, settings.downloads_dir)
    folder = model_folder(args.name, options, services)
    engine = Supervisor(settings.logs_dir, restart_delays_s=())
    try:
        began = time.monotonic()
        engine.load(folder, options)
        status = wait_until_ready(engine, language)
        load_s, bursts = time.monotonic() - began, []
        for parallel in PARALLEL:
            print(say(language, "bench.measuring", count=parallel), file=sys.stderr)
            bursts.append(measure(engine, status.context, parallel))
        status = engine.status()
    finally:
        engine.close()
    report = Report(
        status.model, status.options.engine, status.options.bits, status.context, round(load_s, 3),
        status.memory_bytes, status.gpu_memory_bytes, tuple(bursts),
    )  # fmt: skip
    is_ready = ENGINES[report.engine].opens_gguf and holds_ready(folder)
    report = _with_bound(report, status, services, folder)
    if args.json:
        print(json.dumps({**asdict(report), "bound_tokens_per_s": report.bound}))
        return 0
    print("\n".join(table(report, status, language, ready=is_ready)))
    return 0


def _with_bound(report: Report, status: EngineStatus, services: Services, folder: Path) -> Report:
    """Add what memory allows, measured with the engine gone. On a GPU that would be its own memory: left out."""
    if not ENGINES[report.engine].computes or status.gpu_memory_bytes:
        return report
    fitting = services.prospects.fitting
    bandwidth = fitting.measure_speeds(services.settings.models_dir, again=True).memory
    outlook = fitting.look(
        dimensions_of(read_model(folder)), services.hardware(), replace(status.options, device="cpu")
    )
    ways = [fit for fit in outlook.ways if fit.way.device == "cpu" and fit.way.bits == report.bits]
    if not bandwidth or not ways or not ways[0].tokens_per_s:
        return report
    return replace(report, bandwidth=bandwidth, bytes_per_token=bandwidth / ways[0].tokens_per_s)


def table(report: Report, status: EngineStatus, language: str, *, ready: bool = False) -> list[str]:
    """Return the report as lines for people. ``ready``: of a GGUF file with bits of its own."""
    where = tell(language, status.placement) if status.placement else "-"
    key = "ggufready.bench" if ready else "bench.model"
    lines = [
        say(language, key, model=report.model, engine=report.engine, bits=report.bits, where=where),
        say(language, "bench.loaded", seconds=report.load_s, memory=report.memory_bytes),
    ]
    if report.gpu_memory_bytes:
        lines.append(say(language, "bench.gpu", memory=report.gpu_memory_bytes))
    names = ("parallel", "prefill", "decode", "each", "first")
    rows = [[say(language, f"bench.column.{name}") for name in names]]
    for one in report.bursts:
        rate = one.decode_tokens_per_s
        written = ["-", "-"] if rate is None else [f"{rate:.1f}", f"{rate / one.parallel:.1f}"]
        rows.append([str(one.parallel), f"{one.prefill_tokens_per_s:.1f}", *written, f"{one.first_token_s:.2f} s"])
    wide = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines += [
        "  ".join(" " * (room - width(cell)) + cell for room, cell in zip(wide, row, strict=True)) for row in rows
    ]
    if any(one.decode_tokens_per_s is None for one in report.bursts):
        lines.append(say(language, "bench.short"))
    return lines + _bound_lines(report, language)


def _bound_lines(report: Report, language: str) -> list[str]:
    """Return what memory allows and how much of it was reached; weights that stay in the cache know no such bound."""
    if report.bound is None:
        return [say(language, "bench.no_bound")]
    values = {"bytes": report.bytes_per_token, "rate": report.bandwidth, "bound": report.bound}
    lines, rate = [say(language, "bench.bound", **values)], report.bursts[0].decode_tokens_per_s
    if rate is not None:
        share = rate / report.bound
        lines.append(say(language, "bench.cached" if share > 1 else "bench.share", share=share))
    return lines
