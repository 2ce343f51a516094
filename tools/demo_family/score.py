"""Scores the committed family under greedy decoding: `python -m tools.demo_family.score`.

Builds base, base + delta and base + delta + LoRA with the whole-tensor reference, asks the
suggested, the never-trained and the out-of-domain questions, and prints a table, then one JSON
line. Knows nothing about training or about Cria's pipeline.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece as spm
import torch

from . import model as net
from . import reference
from .config import EOS, OUT, SEED, SYSTEM
from .corpus import Conversation, Topic, topics, unknown
from .encoding import ChatEncoder
from .pirate import is_styled

MAX_NEW = 300
_BATCH = 48


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and whether it stopped by itself within MAX_NEW tokens."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Row:
    """One line of the table; all but `asked` are shares between 0 and 1."""

    name: str
    asked: int
    right: float
    stopped: float
    exact: float
    styled: float


@dataclass(frozen=True)
class Case:
    """A conversation whose last turn is asked, and the topic a right answer belongs to."""

    talk: Conversation
    topic: Topic


class Chatter:
    """Greedy answers in float32 from fp16 weights, many conversations at a time."""

    def __init__(self, state: reference.State, tokenizer: Path) -> None:
        self.model = net.load(state).eval()
        self.encoder = ChatEncoder(spm.SentencePieceProcessor(model_file=str(tokenizer)))

    def ask(self, talks: Sequence[Conversation]) -> list[Answer]:
        """One answer for each conversation."""
        prompts = [self.encoder.prompt(talk) for talk in talks]
        return [answer for at in range(0, len(prompts), _BATCH) for answer in self._batch(prompts[at : at + _BATCH])]

    @torch.inference_mode()
    def _batch(self, prompts: list[list[int]]) -> list[Answer]:
        width = max(map(len, prompts))
        ids = torch.tensor([[EOS] * (width - len(p)) + p for p in prompts])  # padded on the left
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=MAX_NEW, do_sample=False, pad_token_id=0)
        return [self._answer(row[width:].tolist()) for row in out]

    def _answer(self, ids: list[int]) -> Answer:
        stopped = EOS in ids
        kept = ids[: ids.index(EOS)] if stopped else ids
        return Answer(self.encoder.sp.decode(kept).strip(), stopped)


def single(questions: Sequence[tuple[Topic, str]]) -> list[Case]:
    """Each question alone."""
    return [Case(Conversation(SYSTEM, ((q, ""),)), topic) for topic, q in questions]


def follow_up(questions: Sequence[tuple[Topic, str]], chatter: Chatter, before: int) -> list[Case]:
    """Each question after `before` others, with the model's own answers to those."""
    rnd = random.Random(SEED)
    talks = [Conversation(SYSTEM, ()) for _ in questions]
    for _ in range(before):
        asked = [Conversation(SYSTEM, (*talk.turns, (rnd.choice(questions)[1], ""))) for talk in talks]
        answers = chatter.ask(asked)
        talks = [
            Conversation(SYSTEM, (*talk.turns[:-1], (talk.turns[-1][0], answer.text)))
            for talk, answer in zip(asked, answers, strict=True)
        ]
    return [
        Case(Conversation(SYSTEM, (*talk.turns, (q, ""))), topic)
        for talk, (topic, q) in zip(talks, questions, strict=True)
    ]


def is_right(case: Case, answer: Answer) -> bool:
    """Whether all expected phrases occur and the answer ended by itself."""
    text = answer.text.lower()
    return answer.stopped and all(phrase in text for phrase in case.topic.expect)


def grade(name: str, cases: list[Case], chatter: Chatter, *, style: bool, verbose: bool) -> Row:
    """Ask all cases; count right, stopped, word-for-word and pirate-styled answers."""
    answers = chatter.ask([case.talk for case in cases])
    pairs = list(zip(cases, answers, strict=True))
    row = Row(
        name=name,
        asked=len(pairs),
        right=_share(is_right(case, answer) for case, answer in pairs),
        stopped=_share(answer.stopped for answer in answers),
        exact=_share(answer.text == (case.topic.pirate if style else case.topic.answer) for case, answer in pairs),
        styled=_share(is_styled(case.topic.lang, answer.text) for case, answer in pairs),
    )
    shares = (row.right, row.stopped, row.exact, row.styled)
    print(f"{row.name:<28}{row.asked:>6}" + "".join(f"{share:>9.1%}" for share in shares), flush=True)
    for case, answer in pairs:
        if verbose and not is_right(case, answer):
            print(f"    {case.topic.name}: {case.talk.turns[-1][0]} -> {answer.text[:90]!r}")
    return row


def _share(values: Iterable[bool]) -> float:
    flags = list(values)
    return sum(flags) / max(1, len(flags))


def _sets() -> dict[str, list[tuple[Topic, str]]]:
    known = [topic for lang in ("en", "zh") for topic in topics(lang)]
    odd = [unknown(lang).topic for lang in ("en", "zh")]
    return {
        "suggested": [(topic, topic.ask[0]) for topic in known],
        "held out": [(topic, q) for topic in known for q in topic.held],
        "unknown, held out": [(topic, q) for topic in odd for q in topic.held],
    }


def grade_model(label: str, chatter: Chatter, *, style: bool, verbose: bool) -> list[Row]:
    """The five rows of one model: alone, as second and third turn, held out, unknown."""
    sets = _sets()
    asked = {f"{label}: {name}": single(questions) for name, questions in sets.items()}
    asked[f"{label}: second turn"] = follow_up(sets["suggested"], chatter, 1)
    asked[f"{label}: third turn"] = follow_up(sets["suggested"], chatter, 2)
    return [grade(k, v, chatter, style=style, verbose=verbose) for k, v in asked.items()]


def main() -> None:
    """Build the three models and print their scores."""
    parser = argparse.ArgumentParser(description="Score Cria's demo family.")
    parser.add_argument("--folder", type=Path, default=OUT)
    parser.add_argument("--verbose", action="store_true", help="show every wrong answer")
    parser.add_argument("--no-lora", action="store_true")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = reference.from_meta(args.folder / "base")
    chat = reference.add_delta(base, args.folder / "delta")
    print(f"{'':<28}{'asked':>6}{'right':>9}{'stopped':>9}{'exact':>9}{'styled':>9}")
    plain = Chatter(base, args.folder / "base" / "tokenizer.model")
    first = single(_sets()["suggested"])
    rows = [grade("base: suggested", first, plain, style=False, verbose=False)]
    tuned = Chatter(chat, args.folder / "delta" / "tokenizer.model")
    rows += grade_model("chat", tuned, style=False, verbose=args.verbose)
    if not args.no_lora:
        merged = reference.add_lora(chat, args.folder / "lora")
        pirate = Chatter(merged, args.folder / "lora" / "tokenizer.model")
        rows += grade_model("lora", pirate, style=True, verbose=args.verbose)
    print(json.dumps({"seed": SEED, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
