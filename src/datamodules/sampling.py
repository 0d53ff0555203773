"""Samplers and loaders that can stop anywhere and go on with the same samples."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index): a permutation keyed by (seed, epoch), shared out over the processes.

    Shuffled (training), every process gets the same count and up to `processes - 1` samples wait for another epoch.
    In order (validation, test, prediction), nothing is padded or dropped: process r takes r, r + processes, ..., so
    that the numbers do not depend on how many processes there are.
    """

    def __init__(self, size: int, seed: int, shuffle: bool, rank: int = 0, processes: int = 1) -> None:
        self.size, self.seed, self.shuffle, self.rank, self.processes = size, seed, shuffle, rank, processes
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        if self.shuffle:
            self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.size // self.processes
        return len(range(self.rank, self.size, self.processes))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.size))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator).tolist()
        mine = order[self.rank :: self.processes][: len(self)]
        yield from ((self.epoch, index) for index in mine[self.start :])


class ResumableLoader(DataLoader):
    """A DataLoader over an EpochSampler that counts the batches it handed out and can start behind them.

    Lightning stores `state_dict` in the checkpoint; `callbacks.Reproducible` gives it back. Skipped samples are never
    loaded.
    """

    def __init__(self, dataset: Any, sampler: EpochSampler, batch_size: int, **options: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, worker_init_fn=_ignore_interrupts, **options)
        self._handed_out = 0
        self._skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._handed_out, self._skip = self._skip, 0
        assert isinstance(self.sampler, EpochSampler)
        assert self.batch_size is not None
        self.sampler.start = self._handed_out * self.batch_size
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next epoch to be read starts behind these batches."""
        self._skip = state["batches"]


def _ignore_interrupts(worker: int) -> None:
    """A Ctrl-C reaches every process of the terminal; the main one decides when the workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
