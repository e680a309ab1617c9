"""Write the config.json that Hugging Face builds ViTMAE and ViT from."""

from typing import Any

from unmask.exchange.names import LAYER_NORM_EPS
from unmask.exchange.weights import Weights


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
        # The names that Hugging Face itself gives to classes without a name.
        names = [f"LABEL_{k}" for k in range(len(weights.head["head.weight"]))]
        return config | {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "id2label": {str(k): name for k, name in enumerate(names)},
            "label2id": {name: k for k, name in enumerate(names)},
        }
    config |= {"model_type": "vit_mae", "architectures": ["ViTMAEModel"]}
    decoder = geometry.decoder
    if decoder is None:
        return config
    return config | {
        "architectures": ["ViTMAEForPreTraining"],
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": round(decoder.width * decoder.mlp_ratio),
    }
