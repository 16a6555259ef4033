"""Image order as a function of a seed, so that a resumed run repeats it."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """Yield one process's share of the ``(index, seed)`` batches of iterations `start` to `end`.

    The stream of images is endless, reshuffled every epoch, and a function of `seed` alone, so a
    resumed run continues where it stopped. With aspect grouping, a batch holds only wide or only
    tall images, as ``DATALOADER.ASPECT_RATIO_GROUPING`` asks.

    Args:
        wide: for every image, whether it is wider than tall.
        batch_size: images per batch of this process.
        parts: number of parts that each batch is yielded in; divides `batch_size`.
        start, end: `start` may be set until iteration begins; with `end` None the stream is
            endless.
        group: aspect grouping.
    """

    def __init__(
        self,
        wide: Sequence[bool],
        batch_size: int,
        *,
        parts: int,
        seed: int,
        start: int,
        end: int | None,
        group: bool,
        rank: int,
        world_size: int,
    ) -> None:
        self.wide = wide
        self.batch_size = batch_size
        self.parts = parts
        self.seed = seed
        self.start = start
        self.end = end
        self.group = group
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        if self.end is None:
            raise TypeError("batches without an end have no number")
        # length of the whole training: Lightning adds the iterations before a resume
        return self.end * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // self.parts
        for batch in itertools.islice(self._batches(), self.start, self.end):
            for first in range(0, self.batch_size, size):
                yield batch[first : first + size]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        buckets: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for key in itertools.islice(self._stream(), self.rank, None, self.world_size):
            bucket = buckets[self.group and self.wide[key[0]]]
            bucket.append(key)
            if len(bucket) == self.batch_size:
                yield list(bucket)
                bucket.clear()

    def _stream(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed)
        position = 0
        while True:
            for index in torch.randperm(len(self.wide), generator=generator).tolist():
                yield index, (self.seed << 32) + position
                position += 1
