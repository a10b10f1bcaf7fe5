"""The processes of one launch (`torchrun`, `accelerate launch`): orders of the first, and how each ended.

Orders and endings go through the launch's key-value store, which is asked and never waited for: pruning and exporting
may take hours, and collectives time out. Models go by broadcast, as files of the stage cache's form.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, Provenance, TorchModel
from converter.errors import ResourceLimit, UsageError
from converter.stage import Context, Stage, options_of
from converter.stage_cache.artifacts import read_artifact, write_artifact
from converter.stage_cache.identity import artifact_key, code_version, field_digest, text_digest

if TYPE_CHECKING:
    import torch

BETWEEN_LOOKS = 0.2
SECONDS_TO_BEGIN = 1800.0
"""What a process may take longer than another to load the model and read the text."""
SECONDS_TO_END = 10.0
BLOCK = 1 << 26
"""Bytes that are sent at once."""
LOST = "a process of this launch was lost: most often for want of memory"
NOTHING_TO_TRAIN = {"trains": "nothing"}
"""What a process says that has no stage which trains."""
IDENTITY = {"code": "another version of this tool", "model": "another model", "text": "other text"}


def launched() -> bool:
    """Tell whether this is one of several processes, by what launchers leave in the environment."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


@dataclass(frozen=True)
class Ending:
    """How a process has ended."""

    rank: int
    code: int
    message: str = ""
    hint: str = ""


class Ranks:
    """The processes of this launch, seen from one of them."""

    def __init__(self, store: Any, rank: int, size: int, device: "torch.device") -> None:
        """`store` keeps bytes by key for all of them."""
        self._store, self.rank, self.size, self._device = store, rank, size, device
        self._orders = 0
        self._met = False

    @classmethod
    def join(cls) -> "Ranks":
        """Meet the other processes; returns when all are there."""
        import torch
        from accelerate import PartialState
        from torch.distributed import PrefixStore, distributed_c10d  # type: ignore[attr-defined]

        if not torch.cuda.is_available():
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # torchrun does not say it, and alone each would train
        state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true")
        store = PrefixStore("plm-export", distributed_c10d._get_default_store())  # noqa: SLF001 - no public way
        return cls(store, state.process_index, state.num_processes, state.device)

    def told(self, key: str) -> Any:
        """Return what was told under `key`; None where nothing was yet.

        Raises:
            ResourceLimit: the store is gone, and with it the process that kept it.

        """
        try:
            return json.loads(self._store.get(key)) if self._store.check([key]) else None
        except RuntimeError:
            raise ResourceLimit(LOST, hint="see the log of the launcher") from None

    def tell(self, key: str, value: Any) -> None:
        """Tell all processes something, for good."""
        self._store.set(key, json.dumps(value))

    def ended(self) -> Ending | None:
        """Return how another process has ended; None where all are at work."""
        for rank in range(self.size):
            found = None if rank == self.rank else self.told(f"ended/{rank}")
            if found is not None:
                return Ending(rank, **found)
        return None

    def end(self, code: int, message: str = "", hint: str = "") -> None:
        """Say how this process has ended, and give the others the time to hear it: the store may go with this one."""
        with contextlib.suppress(RuntimeError):
            self.tell(f"ended/{self.rank}", {"code": code, "message": message, "hint": hint})
            until = time.monotonic() + SECONDS_TO_END
            while self.rank == 0 and time.monotonic() < until:
                if all(self._store.check([f"ended/{r}"]) for r in range(1, self.size)):
                    return
                time.sleep(BETWEEN_LOOKS)

    # What the first does

    def summon(self, stage: Stage[Any, Any], given: Artifact, ctx: Context) -> None:
        """Have the others run `stage` on `given` too, from now on.

        Raises:
            UsageError: one of them has another model, other text or other stages.

        """
        assert isinstance(given, TorchModel)
        assert ctx.teacher is not None
        if not self._met:
            self._compare(identity_of(ctx))
            self._met = True
        with TemporaryDirectory(prefix="sent-", dir=ctx.work) as name:
            folder = Path(name)
            table = write_artifact(given, ctx.teacher, folder)
            files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
            order = {"stage": stage.name, "options": options_of(stage), "artifact": table, "files": files}
            self.tell(f"order/{self._orders}", order | {"digest": given.digest})
            self._orders += 1
            for path in files:
                _send(folder / path, self._device)

    def _compare(self, own: Mapping[str, str]) -> None:
        for rank in range(1, self.size):
            found = self.wait(lambda rank=rank: self.told(f"identity/{rank}"))  # type: ignore[misc]
            unlike = [f"{what} than process 0" for name, what in IDENTITY.items() if found.get(name) != own[name]]
            if unlike:
                raise UsageError(
                    f"process {rank} has {'nothing to train' if found == NOTHING_TO_TRAIN else unlike[0]}",
                    where="several processes",
                    hint="start all of them with the same arguments, files and version of plm-export",
                )

    # What the others do

    def introduce(self, identity: Mapping[str, str]) -> None:
        """Tell the first what this process would train."""
        self.tell(f"identity/{self.rank}", dict(identity))

    def next_order(self) -> dict[str, Any] | None:
        """Return the next order of the first; None where it has ended."""

        def look() -> dict[str, Any]:
            order = self.told(f"order/{self._orders}")
            return {"order": order} if order is not None or self.told("ended/0") is not None else {}

        found: dict[str, Any] | None = self.wait(look, seconds=None)["order"]
        self._orders += 1
        return found

    def receive(self, order: Mapping[str, Any], source: TorchModel, folder: Path) -> TorchModel:
        """Return the model of an order, which all processes receive at the same time.

        Raises:
            UsageError: it is not what the first has sent: this process has another source.

        """
        for path, size in order["files"].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _take(folder / path, size, self._device)
        given = read_artifact(order["artifact"], source, folder)
        if not isinstance(given, TorchModel) or given.digest != order["digest"]:
            raise UsageError("this process has another model than process 0", where="several processes")
        return given

    def wait(self, look: Callable[[], Any], seconds: float | None = SECONDS_TO_BEGIN) -> Any:
        """Look until something is there."""
        until = None if seconds is None else time.monotonic() + seconds
        while not (found := look()):
            if until is not None and time.monotonic() > until:
                raise ResourceLimit(f"another process was not ready after {seconds:.0f} s")
            time.sleep(BETWEEN_LOOKS)
        return found


def identity_of(ctx: Context) -> dict[str, str]:
    """Return what must be the same in all processes; the name of the model's folder may differ."""
    assert ctx.teacher is not None
    nameless = replace(ctx.teacher, provenance=Provenance(""))
    return {
        "code": code_version(),
        "model": artifact_key(nameless),
        "text": text_digest([field_digest(ctx, n) for n in ("calibration", "calibration_is_builtin", "seed")]),
    }


def _send(path: Path, device: "torch.device") -> None:
    import torch
    import torch.distributed as dist

    with path.open("rb") as opened:
        while block := opened.read(BLOCK):
            dist.broadcast(torch.frombuffer(bytearray(block), dtype=torch.uint8).to(device), src=0)


def _take(path: Path, size: int, device: "torch.device") -> None:
    import torch
    import torch.distributed as dist

    with path.open("wb") as written:
        while (left := size - written.tell()) > 0:
            block = torch.empty(min(BLOCK, left), dtype=torch.uint8, device=device)
            dist.broadcast(block, src=0)
            written.write(block.cpu().numpy().tobytes())
