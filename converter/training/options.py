"""What every distillation may be told, and what its loss is made of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from converter.binding import among, option, span
from converter.stage import TRAINING_COPIES

if TYPE_CHECKING:
    from converter.artifact import TorchModel


@dataclass(frozen=True)
class TrainingOptions:
    """How a student is trained; the defaults suit a pruned encoder that has to find its way back."""

    copies: ClassVar[float] = TRAINING_COPIES

    epochs: int = option(4, "epochs: passes over the calibration text", low=1, effort=1)
    steps: int | None = option(
        None,
        "highest number of training steps, whatever `epochs` says",
        low=1,
        search=span(100, 1600, log=True),
        effort=10,
    )
    batch_size: int = option(32, "texts per step, over all processes together", low=1)
    accumulate: int = option(
        1,
        "parts that each process takes its texts of a step in, one after the other: the same step in less memory",
        low=1,
    )
    learning_rate: float = option(
        1.5e-4, "peak learning rate, after warm-up", low=0.0, search=span(1e-4, 6e-4, log=True)
    )
    warmup: float = option(0.1, "share of the steps used for warm-up", low=0.0, high=1.0)
    weight_decay: float = option(0.01, "AdamW weight decay (not applied to biases and normalization)", low=0.0)
    max_gradient: float = option(1.0, "gradient clipping: largest norm", low=1e-6)
    max_length: int = option(256, "longest text in tokens; longer ones are truncated", low=4)
    dropout: bool = option(False, "use the model's own dropout while training")
    freeze_embeddings: bool = option(False, "do not train the embeddings: faster on short text")
    augment: int = option(
        0,
        "variants made of each text and labelled by the teacher (spans, splices, words left out)",
        low=0,
        search=among(0, 1, 3),
    )
    layers: tuple[int, ...] = option(
        (),
        "teacher layer for each student layer, as in 1+3+5; none: follows the dropped layers, else evenly spaced",
        low=0,
    )
    relation_heads: int | None = option(
        None, "number of relation heads (MiniLMv2); none: as many as the student's layer has attention heads", low=1
    )
    cache_mb: int = option(4096, "disk space for cached teacher outputs; 0: run the teacher for every batch", low=0)
    split_teacher: bool = option(
        False, "split the teacher over all processes of a launch: each holds some heads and neurons of every layer"
    )
    checkpoint_seconds: float = option(60.0, "seconds between checkpoints (0: after every step)", low=0.0)

    def passes(self, n_texts: int, student: float = 1.0) -> float:
        """Return the passes of the whole model that training takes: a backward pass counts two, the teacher's one.

        `student`: the share of the model's work that a pass of the student is.
        """
        texts = self.epochs * n_texts * (1 + self.augment)
        return (1 + 3 * student) * (texts if self.steps is None else min(texts, self.steps * self.batch_size))

    def beside(self, model: "TorchModel") -> int:
        """Return the bytes of main memory that training takes beside the model: on a GPU, those of a copy."""
        import torch

        if torch.cuda.is_available():
            return model.size_bytes
        return int((TRAINING_COPIES - 1) * model.size_bytes) - (3 * _frozen(model) if self.freeze_embeddings else 0)


def _frozen(model: "TorchModel") -> int:
    """Return the bytes of the embeddings, which have no gradients and no moments where they are not trained."""
    import torch

    tables = (m for m in model.module.modules() if isinstance(m, torch.nn.Embedding))
    return sum({id(p): p.nbytes for table in tables for p in table.parameters()}.values())


@dataclass(frozen=True)
class LossWeights:
    """What the parts of the loss count; 0 leaves a part out."""

    soft: float
    hard: float
    hidden: float
    temperature: float
    relation: float = 0.0
    similarity: float = 0.0

    def of(self, part: str) -> float:
        """Return the weight of a part by its name."""
        return float(getattr(self, part))

    @property
    def of_teacher(self) -> float:
        """What the teacher's parts count together."""
        return self.soft + self.hidden + self.relation + self.similarity


@dataclass(frozen=True)
class TeacherOptions(TrainingOptions):
    """What a student learns of its teacher, and how much of each."""

    temperature: float = option(2.0, "softmax temperature of teacher and student", low=0.01)
    soft_weight: float = option(1.0, "loss weight of the teacher's outputs", low=0.0)
    hard_weight: float = option(0.0, "loss weight of the labels in the data, where it has any", low=0.0)
    hidden_weight: float = option(1.0, "loss weight of the hidden states, layer by layer", low=0.0)
    relation_weight: float = option(
        0.0,
        "loss weight of attention relations between tokens: queries, keys, values (MiniLMv2); of a translator, those "
        "of its answer to the text (MiniLM)",
        low=0.0,
    )
    similarity_weight: float = option(
        0.0, "loss weight of the similarities between the sentence embeddings of a batch", low=0.0
    )

    @property
    def weights(self) -> LossWeights:
        return LossWeights(
            self.soft_weight,
            self.hard_weight,
            self.hidden_weight,
            self.temperature,
            self.relation_weight,
            self.similarity_weight,
        )
