"""The engine that runs jobs on a Ray cluster that the user has named."""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.errors import ExportError, RuntimeMissing, UsageError
from converter.fleet.batch import TRIES, ended
from converter.fleet.outcome import LOGS, Outcome
from converter.fleet.process import LOST, Order
from converter.fleet.transport import local_paths, pack, path_digest, unpack
from converter.fleet.worker import Returned, Sent, work
from converter.package.output_folder import Output

SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass
class _Try:
    order: Order
    tries: int = 1
    brought: dict[str, Any] = field(default_factory=dict)
    """References to archives in the cluster's object store, by path."""
    avoid: set[str] = field(default_factory=set)
    """Nodes that it is not tried on again."""


@dataclass(frozen=True)
class RayEngine:
    """Runs each job as one task of a cluster; Ray decides where."""

    address: str
    """HOST:PORT of the head, or `ray://HOST:PORT`."""
    share: str | None = None
    cpus: int = 1
    gpus: float = 0.0

    def run(self, orders: Sequence[Order], out: Path) -> Iterator[Outcome]:
        """Run every order and yield each as it ends.

        Raises:
            RuntimeMissing: Ray is not installed, or no cluster answers at the address.

        """
        with connection(self.address) as ray:
            yield from self._run(ray, orders, out)

    def _run(self, ray: Any, orders: Sequence[Order], out: Path) -> Iterator[Outcome]:
        archives: dict[str, Any] = {}
        digests: dict[str, str] = {}
        running = {self._submit(ray, t := _Try(order), digests): t for order in orders}
        try:
            while running:
                done, _ = ray.wait(list(running), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
                for ref in done:
                    one = running.pop(ref)
                    returned = _got(ray, ref, one)
                    if isinstance(returned, Returned) and returned.missing:
                        unread = _bring(ray, returned.missing, one, archives)
                        if unread is None:
                            running[self._submit(ray, one, digests)] = one
                            continue
                        returned = unread
                    outcome = returned if isinstance(returned, Outcome) else _kept(returned, one.order, out)
                    if _worth_another(outcome, one, ray, self.cpus):
                        one.tries += 1
                        running[self._submit(ray, one, digests)] = one
                    else:
                        yield ended(replace(outcome, tries=one.tries))
        finally:
            for ref in running:
                with contextlib.suppress(Exception):
                    ray.cancel(ref)

    def _submit(self, ray: Any, one: _Try, digests: dict[str, str]) -> Any:
        paths = local_paths(one.order.recipe)
        for path in paths:
            if path not in digests:
                digests[path] = _digest(path)
        sent = Sent(one.order, {p: digests[p] for p in paths}, self.share)
        node = _other_node(ray, one.avoid, self.cpus) if one.avoid else None
        options: dict[str, Any] = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "max_retries": 0,  # we try again ourselves, elsewhere, and say so
            "scheduling_strategy": _at(ray, node) if node else "SPREAD",
        }
        return ray.remote(_task).options(**options).remote(replace_threads(sent, self.cpus), one.brought)


def replace_threads(sent: Sent, cpus: int) -> Sent:
    """Return a job that uses as many threads as the CPUs that Ray counts for it."""
    return replace(sent, order=replace(sent.order, threads=cpus))


def _task(sent: Sent, brought: Mapping[str, Any]) -> tuple[str, Returned]:
    """Run on a worker; returns the node too, so that a second try goes elsewhere."""
    import ray

    context = ray.get_runtime_context()
    files = {path: ray.get(ref) for path, ref in brought.items()}
    return context.get_node_id(), work(sent, files, socket.gethostname())


def _digest(path: str) -> str:
    try:
        return path_digest(path) or ""
    except OSError:  # a worker lacks it, then, and it cannot be brought: the job fails, and no other
        return ""


def _bring(ray: Any, missing: Sequence[str], one: _Try, archives: dict[str, Any]) -> Outcome | None:
    """Put what a worker lacks into the object store, once for all jobs; an outcome where that fails."""
    for path in missing:
        try:
            archives[path] = archives[path] if path in archives else ray.put(pack(Path(path)))
        except OSError as error:
            model = str(one.order.recipe.get("model", "sample:default"))
            return Outcome(
                one.order.name,
                model,
                UsageError.exit_code,
                0.0,
                error=f"{path} cannot be brought to a worker ({error})",
            )
        one.brought[path] = archives[path]
    return None


def _got(ray: Any, ref: Any, one: _Try) -> Returned | Outcome:
    model = str(one.order.recipe.get("model", "sample:default"))
    try:
        node, returned = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause or error
        code = RuntimeMissing.exit_code if isinstance(cause, ImportError) else 1
        said = f"a worker could not run it ({type(cause).__name__}: {cause})"
        hint = "install plm-export, of this version and with the extras of its targets, on every node"
        return Outcome(one.order.name, model, code, 0.0, error=" ".join(said.split()), hint=hint)
    except ray.exceptions.RayError as error:
        said = str(error).partition("\n")[0]
        return Outcome(one.order.name, model, LOST, 0.0, error=f"its worker was lost ({said})")
    if returned.outcome is not None and returned.outcome.exit_code in {LOST, RuntimeMissing.exit_code}:
        one.avoid.add(node)
    assert isinstance(returned, Returned)
    return returned


def _worth_another(outcome: Outcome, one: _Try, ray: Any, cpus: int) -> bool:
    """Whether a job is tried once more: its worker was lost, or lacked what another node may have."""
    if one.tries >= TRIES:
        return False
    if outcome.exit_code == LOST:
        return True
    return outcome.exit_code == RuntimeMissing.exit_code and bool(_other_node(ray, one.avoid, cpus)) and bool(one.avoid)


def _kept(returned: Returned, order: Order, out: Path) -> Outcome:
    """Write what a worker has sent: its log, and its output by the same rules as an output made here."""
    assert returned.outcome is not None
    logs = out / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{order.name}.log").write_text(returned.log, encoding="utf-8")
    import tomli_w

    (logs / f"{order.name}.toml").write_text(tomli_w.dumps(dict(order.recipe)), encoding="utf-8")
    if returned.archive is None:
        return returned.outcome
    try:
        with Output(out / order.name, force="--force" in order.flags, wait=False) as output:
            unpack(returned.archive, output.folder)
            output.commit()
    except ExportError as error:
        return replace(returned.outcome, exit_code=error.exit_code, report=None, error=str(error), hint=error.hint)
    return returned.outcome


@contextlib.contextmanager
def connection(address: str) -> Iterator[Any]:
    """Connect to a cluster and yield Ray. None is ever started, and nothing is reported to Ray's makers.

    Raises:
        RuntimeMissing: Ray is not installed, or no cluster answers at the address.

    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise RuntimeMissing("Ray is not installed", where="--ray", hint="pip install 'plm-export[ray]'") from None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise RuntimeMissing(
            f"{address!r} is no address of a cluster", where="--ray", hint="HOST:PORT, as `ray start` prints it"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER):
            pass
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise RuntimeMissing(
            f"no Ray cluster answers there ({said})", where=address, hint="start one: ray start --head"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _other_node(ray: Any, avoid: set[str], cpus: int) -> str | None:
    alive = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] not in avoid]
    able = [n for n in alive if n["Resources"].get("CPU", 0) >= cpus]
    return str(able[0]["NodeID"]) if able else None


def _at(ray: Any, node: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=True)
