"""The config.json that Hugging Face's ViTMAE and ViT are built from."""

from typing import Any

from unmask.exchange.weights import Weights

EPS = 1e-6


def hub_config(weights: Weights) -> dict[str, Any]:
    """Of ViTMAEForPreTraining with a decoder, ViTForImageClassification with a head, else ViTMAEModel."""
    sizes = weights.geometry
    rows, columns = sizes.grid
    height, width = rows * sizes.patch_size, columns * sizes.patch_size
    config: dict[str, Any] = {
        "hidden_size": sizes.encoder.width,
        "num_hidden_layers": sizes.encoder.depth,
        "num_attention_heads": sizes.encoder.heads,
        "intermediate_size": round(sizes.encoder.width * sizes.encoder.mlp_ratio),
        "image_size": height if height == width else [height, width],
        "patch_size": sizes.patch_size,
        "num_channels": sizes.channels,
        "layer_norm_eps": EPS,  # theirs is 1e-12 unless told
        "hidden_act": "gelu",
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if weights.head is not None:
        return config | _classes(len(weights.head["head.weight"]))
    config |= {"model_type": "vit_mae", "architectures": ["ViTMAEModel"]}
    if sizes.decoder is None:
        return config
    return config | {
        "architectures": ["ViTMAEForPreTraining"],
        "decoder_hidden_size": sizes.decoder.width,
        "decoder_num_hidden_layers": sizes.decoder.depth,
        "decoder_num_attention_heads": sizes.decoder.heads,
        "decoder_intermediate_size": round(
            sizes.decoder.width * sizes.decoder.mlp_ratio
        ),
    }


def _classes(count: int) -> dict[str, Any]:
    names = {str(index): f"LABEL_{index}" for index in range(count)}
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "id2label": names,
        "label2id": {name: int(index) for index, name in names.items()},
    }
