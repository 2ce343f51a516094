"""From a ready-made GGUF file to something that answers: nothing is converted, the file is mapped where it lies.

Its own tokenizer and chat template are used; what it says is checked before llama.cpp opens it. Knows nothing about
HTTP.
"""

from contextlib import ExitStack

from backend.engines.choice import has_instructions
from backend.engines.folder import check_ready
from backend.engines.generator import Generator, Readiness
from backend.engines.llamacpp_server.completions import Completions
from backend.engines.llamacpp_server.copies import copies_for
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.llamacpp_server.own_tokenizer import OwnTokenizer
from backend.engines.llamacpp_server.serving import Door, Server, check_numbers, read_ahead, remark, start_server
from backend.engines.llamacpp_server.sizes import Room, cache_per_token, fit_room
from backend.errors import EngineError, MachineError, WeightsError
from backend.ram import ram
from backend.text import Message
from backend.weights.gguf_ready import ReadyGguf, dimensions_in, quantisation, stated_context


def load_ready(readiness: Readiness) -> Generator:
    """Load the file in the folder that ``readiness`` names, reporting bytes there.

    Raises:
        UsageError: options that such a file cannot follow.
        WeightsError: it is damaged, or no model that chats.
        MachineError: it does not fit into memory, or the processor is too old.
        EngineError: llama.cpp refused it.
    """
    if not has_instructions():
        raise MachineError("ggufready.processor")
    options = readiness.options
    ready = check_ready(readiness.folder, options)
    size = dimensions_in(ready.values, ready.bytes)
    if size is None:
        raise WeightsError("ggufready.bad_head", file=ready.path.name, what="embedding_length, block_count")
    whole = stated_context(ready.values)
    wanted, free = options.context or whole, ram().free or 0
    per_token = cache_per_token(size)
    room = fit_room(ready.bytes, per_token, free, wanted=wanted, asked=bool(options.context))
    read_ahead([head.path for head in ready.heads], readiness)
    with ExitStack() as failing:
        door = Door()
        failing.callback(door.close)
        server = _start(ready, room, door)
        tokenizer = OwnTokenizer(ready.heads[0], door)
        check_numbers(server, tokenizer.first)
        return LlamaGenerator(
            tokenizer,
            Completions(server, slots=room.slots, copies=copies_for(door, room, per_token)),
            stops=(),
            context=room.context,
            slots=room.slots,
            placement=Message("gguf.placement", {"kind": quantisation(ready.values) or "GGUF"}),
            note=remark(room, wanted, wanted, template=bool(tokenizer.chat_template)),
            drops_space=tokenizer.drops_space,
            closing=failing.pop_all().close,
        )


def _start(ready: ReadyGguf, room: Room, door: Door) -> Server:
    try:
        return start_server(ready.path, room, door=door, weights=ready.bytes)
    except EngineError as error:
        raise EngineError("ggufready.refused", file=ready.path.name, what=str(error.params.get("what"))) from error
