"""A BART or T5 that classifies stays a classifier: what its own library answers is what its packages answer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.api import convert, verify
from converter.errors import ExportError, SourceError
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.onnx.runner import OnnxRunner
from converter.reference import capture_reference
from converter.stage import SILENT, Context, run_stage
from converter.validate.checks import Status
from converter.validate.owner import check_owner
from tests.tiny import SENTENCES
from tests.tiny_classifiers import FAMILIES, save_classifier

Folder = Callable[[str], Path]
PAIR = Example(SENTENCES[0], SENTENCES[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = save_classifier(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return make


@pytest.fixture
def copied(folder: Folder, tmp_path: Path) -> Folder:
    return lambda family: Path(shutil.copytree(folder(family), tmp_path / family))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def own_logits(folder: Path, fed: Any) -> torch.Tensor:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        made: torch.Tensor = model(**fed).logits
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_its_logits_are_those_of_transformers_alone_and_padded(family: str, folder: Folder) -> None:
    source = load_source(str(folder(family)))
    assert source.task.name == "text-classification"
    assert source.input_names == ("input_ids", "attention_mask")
    fed = source.tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.inference_mode():
        ours = source.graphs()[MODEL](**fed)["logits"]
        alone = [source.graphs()[MODEL](**source.tokenizer(t, return_tensors="pt"))["logits"][0] for t in SENTENCES]
    torch.testing.assert_close(ours, own_logits(folder(family), fed), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, torch.stack(alone), rtol=1e-4, atol=1e-4)
    assert len(set(ours.argmax(-1).tolist())) > 1


@pytest.mark.parametrize("family", ["bart", "mbart", "t5"])
def test_its_owners_library_agrees_on_texts_and_pairs_that_it_cannot_batch(family: str, folder: Folder) -> None:
    """A pair has more end tokens than a text: transformers itself refuses the two in one batch."""
    source = load_source(str(folder(family)))
    pair, text = source.tokenizer(PAIR.text, PAIR.pair), source.tokenizer(SENTENCES[2])
    together = source.tokenizer.pad([pair, text], padding=True, return_tensors="pt")
    with pytest.raises(ValueError, match="same number of <eos> tokens"):
        own_logits(folder(family), together)
    examples = [PAIR, *(Example(text) for text in SENTENCES[:6]), Example(f"{SENTENCES[7]} </s> and more")]
    reference = capture_reference(source, examples, SILENT)
    verdict = check_owner(source, reference, SILENT)
    assert verdict.check.status is Status.PASS, verdict.check.detail
    assert verdict.n_texts == len(examples)
    assert verdict.n_batched > 1


def test_the_state_at_another_end_token_is_another_answer(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: a reading that takes the first end token of a pair is told apart."""
    source = load_source(str(folder("bart")))

    def at_first_end(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        made = model.base_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        first = input_ids.eq(model.config.eos_token_id).int().argmax(dim=1)
        logits: torch.Tensor = model.classification_head(made[0][torch.arange(len(first)), first])
        return logits

    monkeypatch.setattr("converter.forward.logits_at_end", at_first_end)
    reference = capture_reference(source, [PAIR, Example(SENTENCES[3])], SILENT)
    with pytest.raises(SourceError, match="does not answer like transformers"):
        check_owner(source, reference, SILENT)


def test_its_outputs_can_be_distilled_and_its_hidden_states_not(folder: Folder) -> None:
    from converter.training.layer_map import ObservedForward, depths_and_width

    source = load_source(str(folder("t5")))
    fed = dict(source.tokenizer(list(SENTENCES[:4]), padding=True, return_tensors="pt"))
    with torch.no_grad():
        seen = ObservedForward(source)(fed)
    torch.testing.assert_close(seen.outputs["logits"], own_logits(folder("t5"), fed), rtol=1e-5, atol=1e-5)
    with pytest.raises(SourceError, match="its hidden states are of two stacks"):
        depths_and_width(source, fed)


def test_made_up_ids_without_an_end_token_are_answered_as_if_alone(folder: Folder) -> None:
    """Checks of packages draw ids: padding behind them must change nothing there either."""
    source = load_source(str(folder("bart")))
    ids = torch.randint(5, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    fed = {
        "input_ids": torch.nn.functional.pad(ids, (0, 4), value=1),
        "attention_mask": torch.nn.functional.pad(mask, (0, 4)),
    }
    with torch.inference_mode():
        run = source.graphs()[MODEL]
        alone, padded = run(input_ids=ids, attention_mask=mask)["logits"], run(**fed)["logits"]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-4)


# Exported


@pytest.mark.parametrize("family", ["bart", "mbart", "t5"])
def test_its_graph_answers_like_transformers_at_any_batch_and_length(
    family: str, folder: Folder, tmp_path: Path
) -> None:
    source = load_source(str(folder(family)))
    made, record = run_stage(ExportOnnx(), source, Context(work=tmp_path))
    assert record.facts["max_relative_error"] <= 1e-4
    runner = OnnxRunner(made.files)
    texts = [" ".join(SENTENCES)[:n] for n in (1, 20, 60, 110)]
    for batch in ([SENTENCES[0]], ["a"], texts):
        fed = source.tokenizer(batch, padding=True, truncation=True, max_length=source.max_length, return_tensors="pt")
        found = runner.run(MODEL, {name: fed[name].numpy() for name in source.input_names})
        wanted = own_logits(folder(family), fed).numpy()
        np.testing.assert_allclose(found["logits"], wanted, atol=1e-4 * float(np.ptp(wanted) + 1))
    mixed = [source.tokenizer(PAIR.text, PAIR.pair), source.tokenizer(SENTENCES[2])]
    fed = source.tokenizer.pad(mixed, padding=True, return_tensors="pt")
    found = runner.run(MODEL, {name: fed[name].numpy() for name in source.input_names})
    alone = [own_logits(folder(family), source.tokenizer.pad([m], return_tensors="pt"))[0].numpy() for m in mixed]
    np.testing.assert_allclose(found["logits"], np.stack(alone), atol=1e-4 * float(np.ptp(alone) + 1))


@pytest.mark.parametrize(
    ("family", "precisions"),
    [("bart", {"cpu-int8": "static", "ort-gpu": "fp16"}), ("t5", {"cpu-int8": "none"})],
)
def test_its_packages_pass_their_gates(family: str, precisions: dict[str, str], folder: Folder, tmp_path: Path) -> None:
    recipe = {"model": str(folder(family)), "targets": list(precisions), "quantize": precisions}
    for target in convert(recipe, tmp_path / "out").targets:
        assert target.status is Status.PASS, (target.error, target.evaluation)
        assert target.evaluation is not None
        assert {c.name: c.status for c in target.evaluation.checks}["owner's library"] is Status.PASS
        verify(tmp_path / "out" / target.target)


# Refused by name


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ("t5", "T5ForTokenClassification"),
        ("t5", "BertForSequenceClassification"),
        ("bart", "BartForQuestionAnswering"),
        ("mbart", "MBartForQuestionAnswering"),
        ("mt5", "MT5ForTokenClassification"),
    ],
)
def test_other_heads_of_an_encoder_decoder_are_refused_by_name(family: str, named: str, copied: Folder) -> None:
    made = copied(family)
    edit(made / "config.json", architectures=[named])
    with pytest.raises(SourceError, match=f"{named} is none of its classes that write text, nor") as caught:
        load_source(str(made))
    assert "BartForSequenceClassification" in str(caught.value.hint)


@pytest.mark.parametrize("task", ["feature-extraction", "token-classification", "text2text-generation"])
def test_it_is_a_classifier_alone(task: str, folder: Folder) -> None:
    with pytest.raises(ExportError, match="BartForSequenceClassification") as caught:
        load_source(str(folder("bart")), task=task)
    assert caught.value.hint


def test_a_tokenizer_that_ends_no_text_is_refused(copied: Folder) -> None:
    made = copied("t5")
    edit(made / "tokenizer.json", post_processor=None)
    with pytest.raises(SourceError, match="its tokenizer adds none to a text"):
        load_source(str(made))


def test_a_tokenizer_that_pads_with_the_end_token_is_refused(copied: Folder) -> None:
    made = copied("bart")
    edit(made / "tokenizer_config.json", pad_token="</s>")
    with pytest.raises(SourceError, match="with which its tokenizer also pads"):
        load_source(str(made))


def test_a_model_without_a_start_token_is_refused(copied: Folder) -> None:
    made = copied("t5")
    edit(made / "config.json", decoder_start_token_id=None)
    with pytest.raises(SourceError, match="names no decoder_start_token_id"):
        load_source(str(made))


def test_weights_that_only_write_are_no_classifier(copied: Folder) -> None:
    from safetensors.torch import load_file, save_file

    made = copied("bart")
    kept = {n: t for n, t in load_file(made / "model.safetensors").items() if not n.startswith("classification_head")}
    save_file(kept, made / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match="the weights lack classification_head"):
        load_source(str(made))
