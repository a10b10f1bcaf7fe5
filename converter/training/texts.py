"""Texts as token ids, and the order in which they are learned: a function of seed and epoch, nothing to store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.examples import Encoding, Example
from converter.reference import feed_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress

Text = tuple[Example, Encoding]

LENGTH_JITTER = 0.1
"""Lengths are blurred by this ratio before sorting: batches differ every epoch, and a tenth of them is padding."""


def encode_texts(
    model: "TorchModel", examples: Sequence[Example], max_length: int, progress: "Progress"
) -> tuple[Text, ...]:
    """Encode as the task does, cut to `max_length` tokens or to what the model takes."""
    made = []
    with progress.task("Reading the training text", total=len(examples)) as ticker:
        for example in examples:
            made.append((example, model.task.learned(model.tokenizer, example, min(max_length, model.max_length))))
            ticker.advance()
    return tuple(made)


def batches_of_epoch(lengths: "NDArray[np.int64]", batch_size: int, seed: int, epoch: int) -> list["NDArray[np.int64]"]:
    """Return indices of texts: each text once, texts of about one length together, batches in random order.

    Sizes differ by one at most, so no epoch ends with a batch of one text that counts as much as a full one.
    """
    rng = np.random.default_rng([seed, epoch])
    blurred = lengths * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(lengths))
    # Equal lengths keep no order of the file: the blur is continuous.
    batches = np.array_split(np.argsort(blurred, kind="stable"), batches_an_epoch(len(lengths), batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]


def batches_an_epoch(n_texts: int, batch_size: int) -> int:
    return -(-n_texts // batch_size)


def share_of_process(batch: "NDArray[np.int64]", rank: int, n_processes: int) -> tuple["NDArray[np.int64]", float]:
    """Return the texts that process `rank` takes, and the factor that makes the mean over processes the batch's mean.

    A process that has none left takes the first text at factor 0: all processes must make every step together.
    """
    mine = batch[rank::n_processes]
    if len(mine) == 0:
        return batch[:1], 0.0
    return mine, len(mine) * n_processes / len(batch)


def feed_batch(
    model: "TorchModel", texts: Sequence[Text], batch: "Sequence[int] | NDArray[np.int64]", device: "torch.device"
) -> dict[str, "torch.Tensor"]:
    """Return the texts of `batch` as the model's inputs, padded to the longest of them."""
    import torch

    padded = feed_of(model, [texts[i][1] for i in batch])
    taken = padded if model.cache is not None else model.input_names
    return {n: torch.from_numpy(rows).to(device) for n, rows in padded.items() if n in taken}


def shortest_feeds(
    student: "TorchModel", teacher: "TorchModel", texts: Sequence[Text]
) -> tuple[dict[str, "torch.Tensor"], dict[str, "torch.Tensor"]]:
    """Return the shortest text as each of the two reads it."""
    import torch

    shortest = min(range(len(texts)), key=lambda i: texts[i][1].length)
    own, known = (feed_batch(model, texts, [shortest], torch.device("cpu")) for model in (student, teacher))
    return own, known
