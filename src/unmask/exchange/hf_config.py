"""Write the files that Hugging Face builds ViTMAE and ViT from, beside the weights."""

from typing import Any

from unmask.config.data import resized_side
from unmask.config.statistics import standard_statistics
from unmask.exchange.facts import Facts
from unmask.exchange.load_lines import Written
from unmask.exchange.names import LAYER_NORM_EPS
from unmask.exchange.weights import Weights

# of PIL, as Hugging Face numbers it
BICUBIC = 3


def hub_config(weights: Weights) -> dict[str, Any]:
    """Return the config of the Hugging Face model that fits these weights.

    With a decoder that is ViTMAEForPreTraining, with a head ViTForImageClassification,
    else ViTMAEModel.
    """
    geometry = weights.geometry
    encoder = geometry.encoder
    rows, columns = geometry.grid
    height = rows * geometry.patch_size
    width = columns * geometry.patch_size
    config: dict[str, Any] = {
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": round(encoder.width * encoder.mlp_ratio),
        "image_size": height if height == width else [height, width],
        "patch_size": geometry.patch_size,
        "num_channels": geometry.channels,
        # Hugging Face's default is 1e-12.
        "layer_norm_eps": LAYER_NORM_EPS,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if weights.head is not None:
        names = _class_names(weights)
        return config | {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "id2label": {str(k): name for k, name in enumerate(names)},
            "label2id": {name: k for k, name in enumerate(names)},
        }
    config |= {"model_type": "vit_mae", "architectures": ["ViTMAEModel"]}
    if weights.facts.mask_ratio is not None:
        config["mask_ratio"] = weights.facts.mask_ratio
    decoder = geometry.decoder
    if decoder is None:
        return config
    if weights.facts.target is not None:
        config["norm_pix_loss"] = weights.facts.target == "pixel_norm"
    return config | {
        "architectures": ["ViTMAEForPreTraining"],
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": round(decoder.width * decoder.mlp_ratio),
    }


def _class_names(weights: Weights) -> list[str]:
    assert weights.head is not None
    count = len(weights.head["head.weight"])
    names = weights.facts.classes or ()
    if len(set(names)) == count:
        return list(names)
    # the names that Hugging Face itself gives to classes without a name
    return [f"LABEL_{k}" for k in range(count)]


def hub_preprocessor(written: Written) -> dict[str, Any] | None:
    """Return the preprocessor's config: evaluation's centre crop and its statistics.

    None where nobody knows the statistics: the file does not say, and there are no
    usual ones for so many channels.
    """
    facts, channels = written.facts, written.geometry.channels
    mean, std = facts.mean, facts.std
    if mean is None or std is None:
        if channels != 3:
            return None
        mean, std = standard_statistics(channels)
    height, width = written.image_size
    shorter = min(height, width)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": resized_side(shorter, facts.eval_crop or 1.0)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_convert_rgb": channels == 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def model_card(facts: Facts, line: str) -> str:
    """Return a README.md: the licence, how to load the weights, what is known of them.

    line: the call that loads them.
    """
    known = [f"- {k}: {v}" for k, v in facts.to_record().items() if k != "classes"]
    lines = [
        "---",
        *([f"license: {facts.license}"] if facts.license else []),
        "library_name: transformers",
        "---",
        "",
        "Converted by unmask.",
        *([] if facts.license else ["The source of these weights names no licence."]),
        "",
        "```python",
        line,
        "```",
        "",
        *known,
    ]
    return "\n".join(lines) + "\n"
