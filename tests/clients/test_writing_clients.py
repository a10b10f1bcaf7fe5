"""Packages that write text, opened unchanged by clients: they write what transformers writes with the source."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asking import HERE, Client, environment
from tests.tiny import SENTENCES
from tests.tiny_text import save_causal, save_marian

TEXTS = [*SENTENCES[:6], "a", "Anna"]
STEPS, BEAMS = 16, 3
TALK = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
ASKED = "{% if add_generation_prompt %}<assistant>{% endif %}"
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}" + ASKED
CAUSAL = ("gpt2", "llama", "qwen3")
EVERY = (*CAUSAL, "marian")
Tokens = list[list[int]]

pytestmark = pytest.mark.client


@dataclass
class Package:
    """A package in float32 and what `generate` of transformers writes with its source; do not write into it."""

    folder: Path
    task: str
    usage: str
    """What its README shows."""
    tokenizer: Any
    ends: tuple[int, ...]
    greedy: Tokens
    beams: Tokens
    bundle: Any = None
    chat: list[int] | None = None
    """The tokens of `TALK` in its chat template; None where it has none."""

    def ended(self, rows: Tokens) -> Tokens:
        """Cut what follows the first token that ends a text."""
        return [row[: next((i for i, t in enumerate(row) if t in self.ends), len(row) - 1) + 1] for row in rows]

    def words(self, rows: Tokens) -> list[str]:
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Package]:
    made: dict[str, Package] = {}

    def make(family: str) -> Package:
        if family not in made:
            made[family] = _make(family, tmp_path_factory.mktemp(family))
        return made[family]

    return make


def _make(family: str, root: Path) -> Package:
    from converter.model_folder.load import load_source
    from converter.onnx.export import ExportOnnx
    from converter.stage import Context, run_stage
    from targets.cpu_int8 import CpuInt8

    folder = save_marian(root / "source") if family == "marian" else save_causal(root / "source", family)
    if family == "gpt2":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    source = load_source(str(folder))
    (root / "package").mkdir()
    ctx = Context(work=root)
    exported, _ = run_stage(ExportOnnx(), source, ctx)
    bundle = CpuInt8().emit(exported, source, root / "package", ctx)
    bundle.verify()
    task: Any = source.task
    usage = CpuInt8().usage(bundle)
    made = Package(root / "package", task.name, usage, source.tokenizer, task.settings.eos_ids, [], [])
    made.bundle = bundle
    if family == "gpt2":
        said = "<system> be kind\n<user> hello\n<assistant>"
        made.chat = source.tokenizer(said)["input_ids"]
    made.greedy, made.beams = (made.ended(transformers_writes(folder, made, beams)) for beams in (1, BEAMS))
    assert len({tuple(row) for row in made.greedy}) > 3, "it writes the same after every text: that proves nothing"
    return made


def transformers_writes(folder: Path, package: Package, beams: int) -> Tokens:
    """Return what the source writes, each text by itself."""
    import torch
    import transformers

    causal = package.task == "text-generation"
    loader: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSeq2SeqLM
    model = loader.from_pretrained(folder)
    written = []
    for text in TEXTS:
        ids = torch.tensor([package.tokenizer(text)["input_ids"]])
        options = {"attention_mask": torch.ones_like(ids), "pad_token_id": package.tokenizer.pad_token_id}
        with torch.inference_mode():
            made = model.generate(ids, do_sample=False, num_beams=beams, max_new_tokens=STEPS, **options)
        written.append(made[0, ids.shape[1] if causal else 1 :].tolist())
    return written


def asked_of(packages: list[Package]) -> list[dict[str, Any]]:
    rest = {"texts": TEXTS, "steps": STEPS, "beams": BEAMS}
    return [{"folder": str(p.folder), "task": p.task, "chat": TALK if p.chat else None, **rest} for p in packages]


def ask(command: list[str], packages: list[Package], tmp_path: Path) -> list[dict[str, Any]]:
    """Run a client in a process of its own, offline, and read what it wrote with each package."""
    asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
    asked.write_text(json.dumps(asked_of(packages)))
    command = [*command, str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made: list[dict[str, Any]] = json.loads(answered.read_text())
    return made


def test_optimum_writes_what_the_source_writes_alone_in_a_batch_and_by_beams(
    package: Callable[[str], Package], client: Client, tmp_path: Path
) -> None:
    packages = [package(family) for family in EVERY]
    answers = client.ask("optimum_writing", tmp_path, asked_of(packages))
    for made, found in zip(packages, answers, strict=True):
        assert found.pop("chat", None) == (made.chat and [made.chat]), made.folder
        written = {way: made.ended(rows) for way, rows in found.items()}
        assert written == {"alone": made.greedy, "batch": made.greedy, "beams": made.beams}, made.folder


def test_transformers_js_writes_what_the_source_writes_alone_in_a_batch_and_in_its_pipelines(
    package: Callable[[str], Package], node_modules: Path, tmp_path: Path
) -> None:
    packages = [package(family) for family in EVERY]
    answers = ask(["node", str(HERE / "transformers_js_writing.mjs"), str(node_modules)], packages, tmp_path)
    for made, found in zip(packages, answers, strict=True):
        assert made.ended(found["alone"]) == made.greedy, made.folder
        assert made.ended(found["batch"]) == made.greedy, made.folder
        begun = TEXTS if made.task == "text-generation" else [""] * len(TEXTS)
        wanted = [(text + written).strip() for text, written in zip(begun, made.words(made.greedy), strict=True)]
        kinds = ["text-generation"] if made.task == "text-generation" else ["translation", "text2text-generation"]
        piped = {kind: [w.strip() for w in rows] for kind, rows in found["piped"].items()}
        assert piped == dict.fromkeys(kinds, wanted), made.folder
        assert found["chat"] == (made.chat and [made.chat]), made.folder


def test_onnxruntime_genai_writes_what_the_source_writes_one_text_at_a_time(
    package: Callable[[str], Package], genai_python: Path, tmp_path: Path
) -> None:
    packages = [package(family) for family in CAUSAL]
    answers = ask([str(genai_python), str(HERE / "genai_writing.py")], packages, tmp_path)
    for made, found in zip(packages, answers, strict=True):
        assert made.ended(found["alone"]) == made.greedy, made.folder
        assert found.get("chat") == (made.chat and [made.chat]), made.folder


@pytest.fixture(scope="session")
def rounded(package: Callable[[str], Package], tmp_path_factory: pytest.TempPathFactory) -> list[Package]:
    """A GPT-2 and a Marian in int8, and what our own loop writes with the same files, alone and in a batch."""
    return [_round(package(family), tmp_path_factory.mktemp(f"{family}-int8")) for family in ("gpt2", "marian")]


def _round(made: Package, root: Path) -> Package:
    from converter.generate.loop import generate
    from converter.onnx.model import OnnxModel
    from converter.quantize.int8 import Int8Blocks
    from converter.stage import Context, run_stage
    from targets.cpu_int8 import CpuInt8

    source, target, ctx = made.bundle.source, CpuInt8(), Context(work=root)
    floats = OnnxModel({graph: made.folder / file for graph, file in made.bundle.files.items()}, source)
    files, _ = run_stage(Int8Blocks(), floats, ctx)
    (root / "package").mkdir()
    bundle = target.emit(files, source, root / "package", ctx)
    task: Any = source.task
    settings = replace(task.settings, sample=False, max_new_tokens=STEPS)

    def written(texts: list[str]) -> Tokens:
        feed = dict(made.tokenizer(texts, padding=True, return_tensors="np"))
        run = target.open(bundle.folder, source.specs).run
        return generate(run, source.specs, feed, settings).texts(settings)

    alone = [written([text])[0] for text in TEXTS]
    assert written(TEXTS) == alone, "rounding in blocks is a row's own: a batch changes nothing"
    return replace(made, folder=bundle.folder, bundle=bundle, greedy=alone, chat=None)


def test_a_package_in_int8_writes_in_every_client_what_our_own_loop_writes_with_the_same_file(
    rounded: list[Package], client: Client, genai_python: Path, node_modules: Path, tmp_path: Path
) -> None:
    optimum = client.ask("optimum_writing", tmp_path, asked_of(rounded))
    js = ask(["node", str(HERE / "transformers_js_writing.mjs"), str(node_modules)], rounded, tmp_path)
    genai = ask([str(genai_python), str(HERE / "genai_writing.py")], rounded[:1], tmp_path)
    for answers in (optimum, js, genai):
        for made, found in zip(rounded, answers, strict=False):
            # onnxruntime-genai stops before the token that ends a text, the others behind it.
            wanted, *ways = (
                [[t for t in row if t not in made.ends] for row in made.ended(rows)]
                for rows in (made.greedy, found["alone"], found.get("batch", made.greedy))
            )
            assert ways == [wanted, wanted], made.folder


def test_a_package_says_that_onnxruntime_genai_does_not_open_an_encoder_decoder(
    package: Callable[[str], Package],
) -> None:
    assert (package("gpt2").folder / "genai_config.json").is_file()
    assert not (package("marian").folder / "genai_config.json").exists()
    assert "It does not run this package: it has no encoder-decoders" in package("marian").usage


def test_what_the_readme_shows_for_onnxruntime_genai_runs(
    package: Callable[[str], Package], genai_python: Path
) -> None:
    made = package("gpt2")
    (shown,) = [code for code in re.findall(r"```python\n(.*?)```", made.usage, re.DOTALL) if "genai" in code]
    done = subprocess.run(
        [genai_python, "-c", shown], cwd=made.folder, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Good morning")


def test_what_the_readme_shows_for_transformers_js_runs(
    package: Callable[[str], Package], node_modules: Path, tmp_path: Path
) -> None:
    made = package("gpt2")
    (shown,) = re.findall(r"```js\n(.*?)```", made.usage, re.DOTALL)
    entry = (node_modules / "@huggingface/transformers/dist/transformers.node.mjs").as_uri()
    code = shown.replace("'@huggingface/transformers'", f"'{entry}'").replace("NAME OF THIS FOLDER", made.folder.name)
    (tmp_path / "shown.mjs").write_text(code)
    command = ["node", str(tmp_path / "shown.mjs")]
    done = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "generated_text: 'Good morning" in done.stdout


@pytest.fixture
def split(package: Callable[[str], Package], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """The GPT-2 as a model of more than 2 GB is written: its weights beside the graph, in several files."""
    from converter.onnx import write
    from converter.onnx.external import data_counts
    from converter.onnx.read import read_onnx

    made = package("gpt2")
    folder = Path(shutil.copytree(made.folder, tmp_path / "split"))
    monkeypatch.setattr(write, "MAX_FILE_BYTES", 60_000)
    file = folder / "onnx" / "model.onnx"
    write.write_onnx(read_onnx(made.folder / "onnx" / "model.onnx"), file)
    counts = data_counts({"model": file})
    assert counts["model.onnx"] > 1
    config = json.loads((folder / "config.json").read_text())
    config["transformers.js_config"]["use_external_data_format"] = counts
    (folder / "config.json").write_text(json.dumps(config))
    return replace(made, folder=folder)


def test_transformers_js_opens_weights_beside_the_graph(split: Package, node_modules: Path, tmp_path: Path) -> None:
    (found,) = ask(["node", str(HERE / "transformers_js_writing.mjs"), str(node_modules)], [split], tmp_path)
    assert split.ended(found["alone"]) == split.greedy


def test_optimum_opens_weights_beside_the_graph(split: Package, client: Client, tmp_path: Path) -> None:
    (found,) = client.ask("optimum_writing", tmp_path, asked_of([split]))
    assert split.ended(found["alone"]) == split.greedy


def test_onnxruntime_genai_opens_weights_beside_the_graph(split: Package, genai_python: Path, tmp_path: Path) -> None:
    (found,) = ask([str(genai_python), str(HERE / "genai_writing.py")], [split], tmp_path)
    assert split.ended(found["alone"]) == split.greedy


@pytest.fixture
def demo(package: Callable[[str], Package], node_modules: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a package with its samples, as their README says, and what npm installs."""

    def copied(family: str) -> Path:
        from converter.onnx.writing_samples import write_samples

        made = package(family)
        folder = Path(shutil.copytree(made.folder, tmp_path / family))
        write_samples(replace(made.bundle, folder=folder), list(zip(TEXTS, made.greedy, strict=True)), STEPS)
        (folder / "samples" / "web" / "node_modules").symlink_to(node_modules)
        return folder

    return copied


def selftest(folder: Path) -> subprocess.CompletedProcess[str]:
    web = folder / "samples" / "web"
    return subprocess.run(["node", "selftest.mjs"], cwd=web, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("family", ["gpt2", "marian"])
def test_the_web_sample_writes_in_node_what_the_source_writes(family: str, demo: Callable[[str], Path]) -> None:
    folder = demo(family)
    done = selftest(folder)
    assert (done.returncode, done.stdout) == (0, f"{len(TEXTS)} of {len(TEXTS)} recorded texts come out the same\n")
    golden = folder / "samples" / "assets" / "golden.json"
    table = json.loads(golden.read_text())
    table["texts"][0]["written"] += " and more"
    golden.write_text(json.dumps(table))
    assert selftest(folder).returncode == 1


@pytest.mark.parametrize("family", ["gpt2", "marian"])
def test_the_page_writes_in_a_browser_what_the_source_writes(
    family: str, package: Callable[[str], Package], demo: Callable[[str], Path]
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("Chromium: not installed")
    folder, made = demo(family), package(family)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = f"http://127.0.0.1:{server.server_port}/samples/web/?text=Anna&tokens={STEPS}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"]
    try:
        done = subprocess.run([browser, *flags, page], capture_output=True, text=True, timeout=120, check=False)
    finally:
        server.shutdown()
    (shown,) = re.findall(r"<output[^>]*>(.*?)</output>", done.stdout, re.DOTALL)
    given = '<span class="given">Anna</span>' if family == "gpt2" else ""
    assert html.unescape(shown) == given + made.words(made.greedy)[TEXTS.index("Anna")]
    assert "Written in" in done.stdout


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - the name of what it overrides
