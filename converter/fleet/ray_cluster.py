"""The engine that runs jobs on a Ray cluster that the user has named."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.errors import ExportError, ResourceLimit, RuntimeMissing
from converter.fleet.batch import TRIES, ended
from converter.fleet.outcome import LOGS, Outcome
from converter.fleet.process import LOST, Order, failed
from converter.fleet.transport import local_paths, pack, path_digest, unpack
from converter.fleet.worker import Returned, Sent, work
from converter.package.output_folder import Output
from converter.stage_cache.identity import own_version

SECONDS_TO_ANSWER = 10.0
SECONDS_TO_CONNECT = 60.0
"""Ray itself tries for ever where something answers that is no cluster, or one that hangs."""
SECONDS_FOR_ROOM = 60.0
"""So long there may be no node that is large enough for a job: one may be on its way."""
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
        begun = ray.remote(_Begun).options(num_cpus=0).remote()
        running = {self._submit(ray, t := _Try(order), digests, begun): t for order in orders}
        roomy = time.monotonic()
        try:
            while running:
                if self._nodes(ray):
                    roomy = time.monotonic()
                elif time.monotonic() - roomy > SECONDS_FOR_ROOM:
                    yield from (self._without_room(ray, one) for one in running.values())
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
                for ref in done:
                    one = running.pop(ref)
                    returned = _got(ray, ref, one, begun)
                    if isinstance(returned, Returned) and returned.missing:
                        unread = _bring(ray, returned.missing, one, archives)
                        if unread is None:
                            running[self._submit(ray, one, digests, begun)] = one
                            continue
                        returned = unread
                    outcome = returned if isinstance(returned, Outcome) else _kept(returned, one.order, out)
                    if self._worth_another(outcome, one, ray):
                        one.tries += 1
                        running[self._submit(ray, one, digests, begun)] = one
                    else:
                        yield ended(replace(outcome, tries=one.tries))
        finally:
            for ref in running:
                with contextlib.suppress(Exception):
                    ray.cancel(ref)

    def _nodes(self, ray: Any, avoid: Collection[str] = ()) -> list[str]:
        """Return the nodes that are large enough for a job, but for those to avoid."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        alive = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] not in avoid]
        return [str(n["NodeID"]) for n in alive if all(n["Resources"].get(k, 0) >= v for k, v in wanted.items())]

    def _without_room(self, ray: Any, one: _Try) -> Outcome:
        wanted = f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        found = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        most = {kind: max((n.get(kind, 0) for n in found), default=0) for kind in ("CPU", "GPU")}
        said = f"no node of the cluster has {wanted} (the most are {most['CPU']:g} and {most['GPU']:g})"
        model = str(one.order.recipe.get("model", "sample:default"))
        hint = "lower --cpus or --gpus, or add a node"
        return Outcome(one.order.name, model, ResourceLimit.exit_code, 0.0, error=said, hint=hint, tries=one.tries)

    def _worth_another(self, outcome: Outcome, one: _Try, ray: Any) -> bool:
        """Whether a job is tried once more: its worker was lost, or lacked what another node may have."""
        if one.tries >= TRIES:
            return False
        if outcome.exit_code == LOST:
            return True
        lacking = outcome.exit_code == RuntimeMissing.exit_code and bool(one.avoid)
        return lacking and bool(self._nodes(ray, one.avoid))

    def _submit(self, ray: Any, one: _Try, digests: dict[str, str], begun: Any) -> Any:
        paths = local_paths(one.order.recipe)
        for path in paths:
            if path not in digests:
                digests[path] = _digest(path)
        sent = Sent(one.order, {p: digests[p] for p in paths}, own_version(), self.share)
        others = self._nodes(ray, one.avoid) if one.avoid else []
        options: dict[str, Any] = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "max_retries": 0,  # we try again ourselves, elsewhere, and say so
            "scheduling_strategy": _at(ray, others[0]) if others else "SPREAD",
        }
        return ray.remote(_task).options(**options).remote(replace_threads(sent, self.cpus), one.brought, begun)


def replace_threads(sent: Sent, cpus: int) -> Sent:
    """Return a job that uses as many threads as the CPUs that Ray counts for it."""
    return replace(sent, order=replace(sent.order, threads=cpus))


class _Begun:
    """Where each job was begun last: what Ray says of a worker that was lost does not name its node."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}

    def tell(self, job: str, node: str) -> None:
        self._nodes[job] = node

    def of(self, job: str) -> str | None:
        return self._nodes.get(job)


def _task(sent: Sent, brought: Mapping[str, Any], begun: Any) -> tuple[str, Returned]:
    """Run on a worker; returns the node too, so that a second try goes elsewhere."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    begun.tell.remote(sent.order.name, node)
    files = {path: ray.get(ref) for path, ref in brought.items()}
    return node, work(sent, files, socket.gethostname())


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
        except (OSError, MemoryError, ray.exceptions.RayError) as error:  # it may not fit into the object store
            outcome = failed(one.order, error)
            return replace(outcome, error=f"{path} cannot be brought to a worker ({outcome.error})")
        one.brought[path] = archives[path]
    return None


def _got(ray: Any, ref: Any, one: _Try, begun: Any) -> Returned | Outcome:
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
        with contextlib.suppress(Exception):  # it may have gone with the node
            one.avoid.update(filter(None, [ray.get(begun.of.remote(one.order.name), timeout=SECONDS_TO_ANSWER)]))
        return Outcome(one.order.name, model, LOST, 0.0, error=f"its worker was lost ({said})")
    if returned.outcome is not None and returned.outcome.exit_code in {LOST, RuntimeMissing.exit_code}:
        one.avoid.add(node)
    assert isinstance(returned, Returned)
    return returned


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
    except (ExportError, OSError) as error:
        return replace(failed(order, error), seconds=returned.outcome.seconds, where=returned.outcome.where)
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
        _try_to_connect(address)
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


def _try_to_connect(address: str) -> None:
    """Connect in a process of its own, which can be ended.

    Raises:
        OSError: nothing of Ray answers in time.

    """
    connect = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        words = [sys.executable, "-c", connect, address]
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_TO_CONNECT, check=True)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not within {SECONDS_TO_CONNECT:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").split("\n")
        raise OSError(next((line for line in reversed(said) if line.strip()), "it was refused")) from None


def _at(ray: Any, node: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=True)
