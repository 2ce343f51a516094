"""Which load options can work together on which machine. Pure functions; knows nothing about processes or models."""

from backend.engines import AUTO, USUAL, find_engine, require_packages
from backend.engines.adapters import check_loras, choose_alone
from backend.engines.base import EngineOptions, Sampling
from backend.engines.relay.address import check_url
from backend.errors import UsageError
from backend.hardware import Gpu, Hardware

MIN_CONTEXT = 64
MAX_CONTEXT = 1 << 20


def check_options(options: EngineOptions, hardware: Hardware) -> None:
    """Make sure that options can work together, and on this machine.

    Raises:
        UsageError: they cannot; the message names the option and the way out.
    """
    kind = find_engine(USUAL if options.engine == AUTO else options.engine)  # automatic asks no more than that
    _check_numbers(options)
    check_loras(options)
    if options.loras and not kind.attaches:
        raise UsageError("attach.engine", engine=options.engine)
    if not kind.mixes:
        choose_alone(options.loras, Sampling())
    if kind.is_remote:
        check_url(options.url)
    if kind.programs and options.device in ("cpu", "mps"):
        raise UsageError("remote.vllm_device", engine=options.engine, device=options.device)
    if not kind.computes:
        _check_idle_engine(options)
        return
    if kind.cpu_only:
        _check_cpu_engine(options)
    if options.device in ("cpu", "mps") and (options.num_gpus or options.gpus or options.max_gpu_memory):
        raise UsageError("engine.gpu_options_without_gpu", device=options.device)
    if options.device == "mps" and not hardware.mps:
        raise UsageError("engine.no_mps", system=hardware.system)
    if options.bits != 16:
        if options.device == "mps":
            raise UsageError("engine.bits_on_mps", bits=options.bits)
        require_packages(*kind.quantisers)
    _check_gpus(options, hardware)


def _check_numbers(options: EngineOptions) -> None:
    if options.bits not in (16, 8, 4):
        raise UsageError("engine.bits", bits=options.bits)
    if options.keep_quantised and options.bits == 16:
        raise UsageError("quantised.keep_nothing")
    for name in ("num_gpus", "max_gpu_memory", "idle_minutes"):
        if getattr(options, name) < 0:
            raise UsageError("engine.negative", name=name, value=getattr(options, name))
    if options.context and not MIN_CONTEXT <= options.context <= MAX_CONTEXT:
        raise UsageError("engine.context_range", value=options.context, low=MIN_CONTEXT)
    if len(set(options.gpus)) != len(options.gpus):
        raise UsageError("engine.gpu_twice", gpus=_listed(options.gpus))
    if options.gpus and options.num_gpus not in (0, len(options.gpus)):
        raise UsageError("engine.gpu_count", count=options.num_gpus, gpus=_listed(options.gpus))


def _check_idle_engine(options: EngineOptions) -> None:
    """An engine without weights has nothing to quantise and nothing to put on a GPU: saying so beats ignoring it."""
    if options.bits != 16:
        raise UsageError("engine.idle_bits", engine=options.engine, bits=options.bits)
    if options.num_gpus or options.gpus or options.max_gpu_memory or options.device in ("cuda", "mps"):
        raise UsageError("engine.idle_gpus", engine=options.engine)


def _check_cpu_engine(options: EngineOptions) -> None:
    """An engine that computes on the CPU and keeps 16-bit weights in float16."""
    if options.device in ("cuda", "mps"):
        raise UsageError("gguf.device", device=options.device)
    if options.num_gpus or options.gpus or options.max_gpu_memory:
        raise UsageError("engine.gpu_options_without_gpu", device="cpu")
    if options.dtype not in ("auto", "float16"):
        raise UsageError("gguf.dtype", dtype=options.dtype)


def _check_gpus(options: EngineOptions, hardware: Hardware) -> None:
    wanted = len(options.gpus) or options.num_gpus
    if not (wanted or options.device == "cuda" or options.max_gpu_memory):
        return
    if not hardware.gpus:
        raise UsageError("engine.no_cuda", why=hardware.gpu_problem or "-")
    if hardware.torch_cuda == "cpu":
        raise UsageError("engine.torch_without_cuda", version=hardware.versions.get("torch"))
    known = [gpu.index for gpu in hardware.gpus]
    for index in options.gpus:
        if index not in known:
            raise UsageError("engine.no_such_gpu", index=index, known=_listed(known))
    if wanted > len(known):
        raise UsageError("engine.too_few_gpus", wanted=wanted, found=len(known))


def choose_gpus(options: EngineOptions, hardware: Hardware) -> tuple[int, ...] | None:
    """Return the driver indices of the GPUs an engine may see: those named, or the ``num_gpus`` with most free memory.

    None means that nothing was asked for: the engine sees what it would see anyway. Empty means: hide them all.
    """
    if options.device in ("cpu", "mps"):
        return ()
    if options.gpus:
        return options.gpus
    if not options.num_gpus:
        return None
    ranked: list[Gpu] = sorted(hardware.gpus, key=lambda gpu: (-(gpu.free_bytes or 0), gpu.index))
    return tuple(gpu.index for gpu in ranked[: options.num_gpus])


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, numbers)) or "-"
