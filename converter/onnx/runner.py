"""An ONNX package opened in ONNX Runtime: int64 in, float32 out, on the providers that the target is for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.bounds.watch import STOPPED_AT_LIMITS
from converter.errors import PackageDamaged, StageFailed
from converter.target import GraphInfo, Runner, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"


class OnnxRunner(Runner):
    """Runs any batch and any length up to the model's maximum."""

    def __init__(
        self,
        files: Mapping[str, Path],
        threads: int = 1,
        providers: Sequence[str] = (CPU,),
        *,
        sessions: Mapping[str, Any] | None = None,
        arena: bool = True,
    ) -> None:
        """Open `files`, by graph; `sessions`: those opened already.

        `arena`: keep what the largest batch took, as sessions do where nothing is said. Logits of a large vocabulary
        for a batch of texts are hundreds of megabytes.
        """
        import onnxruntime as ort

        if sessions is None:
            sessions = {name: _opened(path, threads, providers, arena=arena) for name, path in files.items()}
        self.sessions = sessions
        self.side_by_side = all(s.get_providers() == [CPU] for s in sessions.values())
        self._running = ort.RunOptions()
        STOPPED_AT_LIMITS.add(self)
        self.runtime = f"onnxruntime {ort.__version__} {next(iter(sessions.values())).get_providers()[0]}"
        self.graphs = {
            name: GraphInfo(tuple(map(_info, s.get_inputs())), tuple(map(_info, s.get_outputs())))
            for name, s in sessions.items()
        }
        self._names = {
            name: ([i.name for i in info.inputs], [o.name for o in info.outputs]) for name, info in self.graphs.items()
        }

    def run(self, graph: str, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        takes, gives = self._names[graph]
        made = self.sessions[graph].run(gives, {name: feed[name] for name in takes}, self._running)
        return dict(zip(gives, made, strict=True))

    def stop(self) -> None:
        """Let a call that is running come back with an error: a graph may hold a loop without end."""
        self._running.terminate = True


def _opened(path: Path, threads: int, providers: Sequence[str], *, arena: bool) -> Any:
    try:
        return open_session(path, threads, providers, arena=arena)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's classes are not exported by name
        raise PackageDamaged(f"ONNX Runtime cannot open it ({_first_line(error)})", where=str(path)) from None


def open_session(
    path: Path,
    threads: int = 1,
    providers: Sequence[str] = (CPU,),
    *,
    profile: Path | None = None,
    arena: bool = True,
) -> Any:
    """Return an inference session that logs nothing but fatal errors; `profile`: how its profile is called."""
    import onnxruntime as ort

    options = _options(threads)
    options.enable_cpu_mem_arena = arena
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return ort.InferenceSession(str(path), options, providers=list(providers))


def open_lean_session(path: Path, *, packed: bool = False) -> Any:
    """Return a session on a file of this tool that leaves the weights in the file: slower to run, light on memory.

    `packed`: as fast as any other, the weights of products packed in memory; only loading them takes less.

    Raises:
        StageFailed: the file has an operator, or a number format of one, that ONNX Runtime has no kernel for.

    """
    from converter.onnx.read import write_view

    return open_view(write_view(path), path.name, packed=packed)


def open_view(view: Path, name: str, *, packed: bool = False) -> Any:
    """Return a session on a graph whose weights lie in other files, and remove it; see `open_lean_session`.

    `name` of the file that it shows.

    Raises:
        StageFailed: ONNX Runtime has no kernel for some of it.

    """
    import onnxruntime as ort

    options = _options(1)
    if not packed:
        # Packed weights would be a second copy of all of them.
        options.add_session_config_entry("session.disable_prepacking", "1")
        # An arena keeps what the longest text took, rounded up to powers of two.
        options.enable_cpu_mem_arena = False
    try:
        return ort.InferenceSession(str(view), options, providers=[CPU])
    except Exception as error:
        raise StageFailed(
            f"ONNX Runtime cannot open what was exported ({_first_line(error)})",
            where=name,
            hint="the model computes something that ONNX Runtime cannot: another target may take it",
        ) from error
    finally:
        view.unlink()


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Memory patterns are for one shape; texts have many.
    options.enable_mem_pattern = False
    return options


def _info(value: Any) -> TensorInfo:
    kind = {"tensor(int64)": "int64", "tensor(float)": "float32"}.get(value.type, value.type)
    return TensorInfo(value.name, kind, tuple(d if isinstance(d, int) else None for d in value.shape))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
