"""`plm-export doctor`: what is installed, and what can be made and measured here."""

import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import converter
from converter.commands.session import Session, json_option, quiet_options
from converter.errors import ExportError
from converter.package.installed import PACKAGES, version_of
from converter.resources import cpu_facts

if TYPE_CHECKING:
    from converter.commands.terminal import Terminal

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""What decides how fast int8 runs; without any VNNI or dot-product flag, int8 kernels also saturate on some x86."""


@click.command("doctor", short_help="Show what is installed and which targets this machine can export to.")
@json_option
@quiet_options
@click.pass_obj
def doctor(session: Session) -> int:
    """Show versions, available targets, processor, memory, GPU and telemetry settings."""
    terminal = session.terminal
    with terminal.hushed():
        found = examine()
        if terminal.json:
            session.print_json(found)
        else:
            _show(found, terminal)
    return 0


def examine() -> dict[str, Any]:
    """Look at everything; imports the runtimes."""
    return {
        "plm-export": converter.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "targets": targets(),
        "processor": processor(),
        "memory": _memory(),
        "gpu": gpu(),
        "privacy": {
            "onnxruntime_telemetry": "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on",
            "hub_telemetry": "off" if os.environ.get("HF_HUB_DISABLE_TELEMETRY") == "1" else "on",
            "hub": "offline"
            if os.environ.get("HF_HUB_OFFLINE") == "1"
            else "online: downloads the models that you name",
        },
    }


def targets() -> dict[str, dict[str, Any]]:
    """Return for each target whether it can be made here, and what is missing."""
    from converter.registry import target_class, target_names

    made = {}
    for name in target_names():
        try:
            target_class(name)().check_runtime()
            made[name] = {"ready": True, "detail": ""}
        except ExportError as error:
            made[name] = {"ready": False, "detail": f"{error}. {error.hint}".strip()}
    return made


def processor() -> dict[str, Any]:
    """Return name, cores and the flags that matter to int8 (on Linux)."""
    values = dict(cpu_facts())
    present = set(values.get("flags", values.get("Features", "")).split())
    return {
        "name": values.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in CPU_FLAGS if flag in present],
    }


def _memory() -> dict[str, int]:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def gpu() -> dict[str, Any]:
    """Return what torch and ONNX Runtime see."""
    import onnxruntime
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cuda_devices": names, "onnxruntime_providers": onnxruntime.get_available_providers()}


def _show(found: dict[str, Any], terminal: "Terminal") -> None:
    say = terminal.result
    say(f"plm-export {found['plm-export']}, Python {found['python']}, {found['system']}")
    say("\npackages")
    for name, version in found["packages"].items():
        say(f"  {name:18} {version or 'not installed'}")
    say("\ntargets")
    for name, state in found["targets"].items():
        say(f"  {name:18} {'ready' if state['ready'] else 'not available: ' + state['detail']}")
    cpu, memory = found["processor"], found["memory"]
    say(f"\nprocessor            {cpu['name']}, {cpu['cores']} cores; int8: {' '.join(cpu['flags']) or 'slow'}")
    gib = {key: value / 2**30 for key, value in memory.items()}
    say(f"memory               {gib['available_bytes']:.1f} of {gib['total_bytes']:.1f} GiB free")
    say(f"disk                 {gib['disk_free_bytes']:.1f} GiB free here")
    devices = ", ".join(found["gpu"]["cuda_devices"])
    say(f"GPU                  {devices or 'none: ort-gpu is checked on the CPU'}")
    say(f"ONNX Runtime runs on {', '.join(found['gpu']['onnxruntime_providers'])}")
    privacy = found["privacy"]
    say(f"telemetry            ONNX Runtime {privacy['onnxruntime_telemetry']}, Hub {privacy['hub_telemetry']}")
    say(f"model hub            {privacy['hub']}")
