"""Chat templates: what a message becomes before a model that was taught to chat writes on."""

from typing import Any

from converter.errors import PackageDamaged, UsageError


def has_chat(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def template_error(tokenizer: Any) -> str:
    """Return why the chat template is none; empty where it can be read, or where there is none."""
    from jinja2 import TemplateSyntaxError

    try:
        if has_chat(tokenizer):
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateSyntaxError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - which messages it takes is the template's to say
        return ""
    return ""


def chat_ids(tokenizer: Any, text: str, system: str | None = None) -> list[int]:
    """Return the tokens of a conversation that begins with `text`, up to where the answer goes.

    The template is a program of the model's author: transformers runs it in a sandbox of jinja, without files or
    network.

    Raises:
        UsageError: the model has no chat template, or refuses these messages (some take no system message).
        PackageDamaged: the template is no template.

    """
    from jinja2 import TemplateError, TemplateSyntaxError

    if not has_chat(tokenizer):
        raise UsageError(
            "the package has no chat template: its model continues text and was not taught to chat",
            where="--chat",
            hint="leave --chat out; if the model does chat, its folder lacks chat_template.jinja: add it, export again",
        )
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    try:
        said = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateSyntaxError as error:
        raise PackageDamaged(f"the chat template cannot be read ({error})", where="chat_template.jinja") from None
    except (TemplateError, ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise UsageError(
            f"the chat template refuses it ({error})", where="--chat" if system is None else "--system"
        ) from None
    # The template has written the special tokens.
    return list(tokenizer(said, add_special_tokens=False)["input_ids"])
