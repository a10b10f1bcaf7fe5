"""Configurations as folders state them, without weights."""

from pathlib import Path
from typing import Any

from converter.model_folder.contents import check_keys


def check_config(raw: dict[str, Any], auto_class: Any) -> None:
    """Check the keys of a `config.json` for the model that an Auto class of transformers makes of it."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(raw["model_type"]).from_dict(dict(raw))
    check_keys(raw, config, auto_class._model_mapping[type(config)], Path("config.json"))
