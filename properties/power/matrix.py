"""The kill matrix: all claims on all suspects, in several processes, each of which a suspect may take down."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from ..claims import Claim
from ..collecting import claims_in
from ..subjects import load
from .kills import Kill, judged_by, kills_of
from .suspects import Suspect, placebos_in, wrong_in

SILENCE = 90.0              # seconds in one judgement after which a suspect counts as hanging
DTYPES = ("float64", "float32", "float16", "bfloat16")
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Places:
    """Where the claims, the right implementation of everything else, the wrong ones and the placebos are."""

    spec: Path
    base: Path
    wrong: tuple[Path, ...] = ()
    placebo: tuple[Path, ...] = ()

    def claims(self) -> list[Claim]:
        return claims_in(self.spec)

    def suspects(self) -> tuple[list[Suspect], list[str]]:
        """All suspects, and what is wrong with their files."""
        (base, *_), problems = load(self.base, name=self.base.stem)
        found = []
        for read, folders in ((wrong_in, self.wrong), (placebos_in, self.placebo)):
            for folder in folders:
                more, wrong = read(folder, base)
                found, problems = found + more, problems + wrong
        twice = [name for name, count in Counter(s.name for s in found).items() if count > 1]
        return found, [*map(str, problems), *(f"two suspects are named {name}" for name in twice)]


@dataclass(frozen=True)
class ByClaim:
    """A claim as a judge of suspects; `once`: one that it kills in a dtype is never judged in the others.

    Any other judge that `run` is given has these three as well.
    """

    claim: Claim
    once: bool = False

    @property
    def name(self) -> str:
        return f"{self.claim.file}::{self.claim.name}"

    def judges(self, suspect: Suspect) -> bool:
        return judged_by(self.claim, suspect)

    def kills_of(self, suspects: list[Suspect], *, once: bool, excluded, **options) -> list[Kill]:
        once = once or self.once
        gone = {suspect for suspect, _ in excluded} if once else set()
        left = [s for s in suspects if s.name not in gone]
        return kills_of(self.claim, left, once=once, excluded=excluded, **options)


def by_claims(places: Places) -> list[ByClaim]:
    """Every claim as a judge."""
    return [ByClaim(claim) for claim in places.claims()]


@dataclass
class Matrix:
    """Who killed whom, how long every claim took, and which files were wrong."""

    examples: int
    seed: int
    until_killed: bool
    kills: list[Kill] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """One judge (by its number), the suspects to judge, and pairs of suspect and dtype that killed their process."""

    judge: int
    suspects: frozenset[str]
    examples: int
    seed: int
    once: bool
    excluded: frozenset[tuple[str, str]] = frozenset()


class _Worker:
    """A process that judges one task after the other and notes, in shared memory, whom it is judging since when."""

    def __init__(self, places: Places, judges: Callable[[Places], list]):
        self.connection, there = _SPAWN.Pipe()
        self.note = _SPAWN.RawArray("d", 4)
        self.process = _SPAWN.Process(target=_work, args=(places, judges, there, self.note), daemon=True)
        self.process.start()
        self.task: _Task | None = None
        self.answers = 0
        there.close()

    def begin(self, task: _Task) -> None:
        self.task, self.note[3] = task, 0.0
        with suppress(ConnectionError):             # of a process that has ended meanwhile, as will be seen
            self.connection.send(task)

    def answer(self) -> tuple[list[Kill], float] | None:
        """The kills of its task and the seconds they took; None of a process that judges still or has ended."""
        try:
            answer = self.connection.recv() if self.connection.poll() else None
        except (EOFError, ConnectionError):         # its end closes a moment before the process counts as ended
            self.process.kill()
            self.process.join()
            return None
        self.answers += answer is not None
        return answer

    def hangs(self) -> bool:
        return self.task is not None and self.note[3] > 0 and time.time() - self.note[3] > SILENCE

    def death(self, judge: str, suspects: list[Suspect]) -> Kill | None:
        """Who ended or stopped the process; None where it was judging nobody yet: then a suspect of an earlier task
        left something behind, for which nobody is blamed. RuntimeError where there was no earlier task."""
        if not self.note[3]:
            if not self.answers:
                raise RuntimeError(f"a process of the kill matrix ended before it judged anything, in {judge}")
            return None
        how = "timed out" if self.process.is_alive() else "crashed"
        suspect, dtype, example = suspects[int(self.note[0])].name, DTYPES[int(self.note[1])], int(self.note[2])
        return Kill(judge, suspect, dtype, how, example, f"the process {how}")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(places: Places, judges: Callable[[Places], list], connection, note) -> None:
    import torch

    torch.set_num_threads(1)
    all_judges, (suspects, _) = judges(places), places.suspects()
    number = {s.name: i for i, s in enumerate(suspects)}

    def watch(suspect: str, dtype: str, example: int) -> None:
        note[:] = number[suspect], DTYPES.index(dtype), example, time.time()

    while (task := connection.recv()) is not None:
        start = time.perf_counter()
        kills = all_judges[task.judge].kills_of(
            [s for s in suspects if s.name in task.suspects], examples=task.examples, seed=task.seed, once=task.once,
            excluded=task.excluded, watch=watch)
        connection.send((kills, time.perf_counter() - start))


def run(places: Places, *, examples: int, seed: int, until_killed: bool = False, jobs: int = 2,
        progress: Callable[[int, int], None] = lambda done, of: None,
        judges: Callable[[Places], list] = by_claims) -> Matrix:
    """The kill matrix; with `until_killed`, a suspect that any claim has killed is judged no further.

    `judges(places)`, a function that can be pickled, makes the judges, in this process and in those that judge.
    """
    all_judges, (suspects, problems) = judges(places), places.suspects()
    names = [judge.name for judge in all_judges]
    matrix = Matrix(examples, seed, until_killed, problems=problems)
    dead: set[str] = set()
    todo = deque(_Task(i, frozenset(s.name for s in suspects if judge.judges(s)), examples, seed, until_killed)
                 for i, judge in enumerate(all_judges))
    todo = deque(task for task in todo if task.suspects)
    total = len(todo)
    workers = [_Worker(places, judges) for _ in range(jobs)]
    while todo or any(w.task for w in workers):
        for worker in workers:
            while todo and worker.task is None:
                task = _without(todo.popleft(), dead)
                if task.suspects:
                    worker.begin(task)
        wait([w.connection for w in workers] + [w.process.sentinel for w in workers], timeout=5.0)
        for i, worker in enumerate(workers):
            if worker.task is None:
                continue
            name = names[worker.task.judge]
            if answer := worker.answer():
                kills, matrix.seconds[name] = answer
                worker.task = None
            elif not worker.process.is_alive() or worker.hangs():
                kill = worker.death(name, suspects)
                kills = [kill] if kill else []
                todo.append(_without(worker.task, set(), kill and (kill.suspect, kill.dtype)))
                worker.end()
                workers[i] = _Worker(places, judges)
            else:
                continue
            matrix.kills += kills
            dead |= {kill.suspect for kill in kills} if until_killed else set()
            progress(total - len(todo), total)
    for worker in workers:
        worker.end()
    return matrix


def _without(task: _Task, dead: set[str], excluded: tuple[str, str] | None = None) -> _Task:
    return _Task(task.judge, task.suspects - dead, task.examples, task.seed, task.once,
                 task.excluded | ({excluded} if excluded else set()))
