"""Tiny seeded models that write text: one of each family, drawn so that what they write differs from text to text."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

CAUSAL = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "smollm3", "phi3", "qwen2_moe")
ENCODER_DECODER = ("marian", "t5", "mt5", "bart", "mbart", "m2m_100")
VOCABULARY, POSITIONS = 120, 96


def make_text_model(family: str, seed: int = 0, **config: Any) -> Any:
    """Return a model of transformers, in float32 and evaluation mode; `config` overrules its configuration."""
    import torch
    import transformers

    made = text_config(family)
    for key, value in config.items():
        setattr(made, key, value)
    kind = transformers.AutoModelForSeq2SeqLM if made.is_encoder_decoder else transformers.AutoModelForCausalLM
    torch.manual_seed(seed)
    model: Any = kind.from_config(made).eval()
    _draw(model, seed)
    return model


def text_config(family: str) -> Any:
    """Return the configuration of a tiny model of this family."""
    return _configs()[family]()


def prompts(count: int, seed: int = 0, longest: int = 20) -> list[list[int]]:
    """Return token ids of 1 to `longest` tokens, none of them special."""
    random = np.random.default_rng(seed)
    lengths = [1, longest, *random.integers(1, longest + 1, count)][:count]
    return [random.integers(5, VOCABULARY - 1, n).tolist() for n in lengths]


def padded(texts: list[list[int]], side: str, pad_id: int) -> dict[str, np.ndarray]:
    """Return one batch of `texts`."""
    width = max(map(len, texts))
    ids = np.full((len(texts), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        own = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[row, own], mask[row, own] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def _draw(model: Any, seed: int) -> None:
    """Draw every parameter, large enough that choices are no near-ties.

    Norms have signs: where the output layer is the embedding table, every token would else be its own successor.
    """
    import torch

    rng = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if id(parameter) in tables:
                parameter.copy_(noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.1)
            else:
                # The norms of Gemma add 1 to their weight.
                gain = (1 + noise.abs() * 0.1) * noise.sign()
                parameter.copy_(gain - 1 if "gemma" in model.config.model_type else gain)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=rng))


def _configs() -> dict[str, Callable[[], Any]]:
    import transformers as t

    def llama_like(cls: Any, **more: Any) -> Callable[[], Any]:
        table = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": POSITIONS,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        return lambda: cls(**(table | more))

    def bart_like(cls: Any, **more: Any) -> Callable[[], Any]:
        table = {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": POSITIONS,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "decoder_start_token_id": 2,
        }
        return lambda: cls(**(table | more))

    # Head size times heads is not the width, and the two stacks differ in depth: what exporters assume otherwise.
    t5_like = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 12,
        "d_ff": 64,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    windowed = {"head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 12}
    return {
        "gpt2": lambda: t.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, bos_token_id=2, eos_token_id=2
        ),
        "llama": llama_like(t.LlamaConfig),
        "mistral": llama_like(t.MistralConfig, sliding_window=8),
        "qwen2": llama_like(t.Qwen2Config, tie_word_embeddings=True),
        "qwen3": llama_like(t.Qwen3Config, head_dim=12, tie_word_embeddings=True),
        "gemma": llama_like(t.GemmaConfig, head_dim=12),
        "gemma2": llama_like(t.Gemma2Config, **windowed),
        "gemma3": llama_like(t.Gemma3TextConfig, **windowed),
        "smollm3": llama_like(t.SmolLM3Config, num_hidden_layers=4),
        "phi3": llama_like(t.Phi3Config),
        "qwen2_moe": llama_like(
            t.Qwen2MoeConfig,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=64,
        ),
        "marian": bart_like(
            t.MarianConfig,
            pad_token_id=VOCABULARY - 1,
            eos_token_id=0,
            decoder_start_token_id=VOCABULARY - 1,
            forced_eos_token_id=0,
            scale_embedding=True,
            static_position_embeddings=True,
            activation_function="swish",
        ),
        "t5": lambda: t.T5Config(**t5_like),
        "mt5": lambda: t.MT5Config(**t5_like),
        "umt5": lambda: t.UMT5Config(**t5_like),
        "bart": bart_like(t.BartConfig, forced_bos_token_id=1, forced_eos_token_id=2),
        "mbart": bart_like(t.MBartConfig, forced_eos_token_id=2),
        "m2m_100": bart_like(t.M2M100Config),
    }


def settings_of(model: Any, **more: Any) -> Any:
    """Return how a model generates by its own configuration, with `more`."""
    from converter.generate.settings import GenerationSettings

    own = model.generation_config
    table = {
        "eos_ids": (own.eos_token_id,),
        "pad_id": pad_of(model),
        "start_id": own.decoder_start_token_id,
        "forced_bos_id": own.forced_bos_token_id,
        "forced_eos_ids": () if own.forced_eos_token_id is None else (own.forced_eos_token_id,),
    }
    return GenerationSettings(**(table | more))


def pad_of(model: Any) -> int:
    """Return the token that fills a batch: GPT-2 has none, and takes the one that ends texts."""
    own = model.generation_config
    return own.eos_token_id if own.pad_token_id is None else own.pad_token_id


def batch_for(model: Any, texts: list[list[int]]) -> dict[str, np.ndarray]:
    return padded(texts, "right" if model.config.is_encoder_decoder else "left", pad_of(model))


def continue_in_transformers(model: Any, feed: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    """Return the sequences of the model's own `generate`."""
    import torch

    tensors = {name: torch.from_numpy(rows) for name, rows in feed.items()}
    return model.generate(**tensors, **({"do_sample": False, "pad_token_id": pad_of(model)} | options)).numpy()


def train_sentencepiece(path: Any, sentences: list[str], size: int = 180, kind: str = "unigram") -> list[str]:
    """Write a SentencePiece model trained on `sentences` to `path`; returns its pieces."""
    import io

    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=made,
        vocab_size=size,
        model_type=kind,
        minloglevel=2,
        unk_id=1,
        bos_id=-1,
        eos_id=0,
        pad_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
    )
    path.write_bytes(made.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    return [model.id_to_piece(i) for i in range(len(model))]


def make_marian_tokenizer(folder: Any) -> Any:
    """Write Marian's files to `folder`, the other language written backwards and with letters of its own."""
    import json

    from transformers import MarianTokenizer

    from tests.tiny import SENTENCES

    ours = [*SENTENCES, "don't stop <b>now</b> a&b ..."] * 20
    theirs = [" ".join(w[::-1] for w in s.split()).replace("ee", "ø").replace("th", "þð") for s in ours]
    pieces = [train_sentencepiece(folder / f"{n}.spm", s) for n, s in (("source", ours), ("target", theirs))]
    vocabulary = list(dict.fromkeys(["</s>", "<unk>", *pieces[0], *pieces[1], ">>deu<<", "<pad>"]))
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocabulary)}))
    files = {"source_spm": folder / "source.spm", "target_spm": folder / "target.spm", "vocab": folder / "vocab.json"}
    tokenizer = MarianTokenizer(**{name: str(path) for name, path in files.items()})
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_m2m100_tokenizer(folder: Any, kind: str = "bpe") -> Any:
    """Write M2M100's files to `folder`: one SentencePiece model for all languages."""
    import json

    from transformers import M2M100Tokenizer
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    from tests.tiny import SENTENCES

    pieces = train_sentencepiece(folder / "sentencepiece.bpe.model", list(SENTENCES) * 20, 220, kind)
    vocabulary = list(dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *pieces]))
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocabulary)}))
    codes = FAIRSEQ_LANGUAGE_CODES["m2m100"]
    tokenizer = M2M100Tokenizer(
        str(folder / "vocab.json"),
        str(folder / "sentencepiece.bpe.model"),
        src_lang="en",
        additional_special_tokens=[f"__{code}__" for code in codes],
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_causal(folder: Any, family: str = "gpt2") -> Any:
    """Save a causal model with a byte-level tokenizer that has no pad token, as GPT-2's has none; returns `folder`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from tests.tiny import SENTENCES

    end = "<|endoftext|>"
    core: Any = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=400, special_tokens=[end], initial_alphabet=letters, show_progress=False),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end)
    folder.mkdir(parents=True, exist_ok=True)
    model = make_text_model(family, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_marian(folder: Any) -> Any:
    """Save a translator as opus-mt has it: SentencePiece files, no tokenizer.json, pad as start; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_marian_tokenizer(folder)
    size, pad, end = len(tokenizer.get_vocab()), tokenizer.pad_token_id, tokenizer.eos_token_id
    special = {"pad_token_id": pad, "eos_token_id": end, "decoder_start_token_id": pad, "forced_eos_token_id": end}
    model = make_text_model("marian", vocab_size=size, decoder_vocab_size=size, **special)
    for name, value in {**special, "bad_words_ids": [[pad]]}.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return folder


def save_m2m100(folder: Any) -> Any:
    """Save a translator of many languages as M2M100 is: no tokenizer.json, no target language; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_m2m100_tokenizer(folder)
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    make_text_model("m2m_100", vocab_size=len(tokenizer), **special).save_pretrained(folder)
    return folder


T5_PARAMS = {
    "summarization": {"prefix": "summarize: ", "min_length": 6, "no_repeat_ngram_size": 2, "num_beams": 4},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 300},
}


def save_t5(folder: Any) -> Any:
    """Save a T5 with prefixes of tasks in its configuration, as the first ones have them; returns `folder`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    from tests.tiny import SENTENCES

    core: Any = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")
    folder.mkdir(parents=True, exist_ok=True)
    make_text_model("t5", vocab_size=len(tokenizer), task_specific_params=T5_PARAMS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
