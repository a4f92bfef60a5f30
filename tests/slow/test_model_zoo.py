"""Other people's models, converted: a UBN step against one pass of their own batch normalization.

Random weights, small inputs, in float64, so that a difference is an error and not rounding. What
draws at random is switched off, since two steps draw anew in each. Both ways through the model.
"""

import copy
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ubnlib import convert_ubn, revert_ubn, ubn_forward
from ubnlib.trees import tree_map

# One of each family in timm that has batch normalization, the smallest one as a rule; images have
# 64 pixels a side, where there is no other number. `TOLD` are those that must know it beforehand.
TIMM = """
    convmixer_768_32=32 cpubone_nano cs3darknet_focus_s cspnext_tiny densenet121 dla46x_c dpn48b
    efficientformer_l1=224 efficientformerv2_s0 efficientnet_b0 efficientvim_m1 efficientvit_b0
    efficientvit_m0=128 ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 ghostnet_050 halonet_h1=256
    hardcorenas_b hgnetv2_b0 hrnet_w18_small iformer_t inception_next_atto inception_v3=96
    inception_v4=96 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s lowformer_b0
    mnasnet_small mobilenetv3_small_050 mobilevit_xxs nextvit_small regnetx_002 repghostnet_050
    repvit_m1 res2next50 resnest14d resnet10t resnetv2_18 rexnet_100 selecsls42 shvit_s1 skresnet18
    starnet_s050 swiftformer_xs test_byobnet test_coatnet tiny_vit_5m_224 tresnet_m vgg11_bn=32
    visformer_tiny volo_d1_224 xception41p xcit_nano_12_p8_224
""".split()
TOLD = "efficientformerv2_s0 efficientvit_m0 levit_128s test_coatnet visformer_tiny volo_d1_224"

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
CONFORMER = dict(
    **SMALL, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
    num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=16, position_embeddings_type=None,
    conformer_conv_dropout=0.0, mask_time_prob=0.0, layerdrop=0.0,
)  # fmt: skip
SERIES = dict(
    num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16,
    num_hidden_layers=2, ffn_dim=32, num_attention_heads=2, prediction_length=4,
)  # fmt: skip
# By the model's class: its configuration's settings, and the shape of an input.
TRANSFORMERS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "ResNetModel": (dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), {}),
    "RegNetModel": (
        dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4), {},
    ),
    "MobileNetV1Model": (dict(depth_multiplier=0.25), {}),
    "MobileNetV2Model": (dict(depth_multiplier=0.35), {}),
    "EfficientNetModel": (dict(width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320), {}),
    "LevitModel": (
        dict(
            image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[1, 2, 3],
            depths=[1, 1, 1], key_dim=[8, 8, 8],
        ),
        {},
    ),
    "MobileViTModel": (dict(image_size=64), {}),
    "MobileViTV2Model": (dict(image_size=64, width_multiplier=0.5), {}),
    "SwiftFormerModel": (dict(depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32]), {}),
    "CvtModel": (dict(embed_dim=[16, 32, 64], num_heads=[1, 1, 2], depth=[1, 2, 3]), {}),
    "TextNetModel": ({}, {}),
    "HGNetV2Backbone": (dict(), {}),
    "RTDetrResNetBackbone": (
        dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"), {},
    ),
    "SegformerForSemanticSegmentation": (
        dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16), {},
    ),
    "Wav2Vec2ConformerModel": (CONFORMER, {"input_values": (800,)}),
    "PatchTSTModel": (SERIES, {"past_values": (32, 3)}),
    "PatchTSMixerModel": (
        dict(**SERIES, norm_mlp="BatchNorm", num_layers=2), {"past_values": (32, 3)},
    ),
}  # fmt: skip


def package(name: str) -> Any:
    """Import a package, or skip: its parts may be missing, or made for another torch."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def without_chance(model: nn.Module) -> nn.Module:
    """Switch off what draws at random, in a model of float64 that trains."""
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.double().train()


def norms(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules() if isinstance(module, _BatchNorm)]


def tensors(output: Any) -> Iterator[Tensor]:
    found: list[Any] = []
    tree_map(lambda leaf: found.append(leaf), output)
    return (leaf for leaf in found if isinstance(leaf, Tensor))


def assert_a_step_is_a_joint_pass(model: nn.Module, x: Any, y: Any) -> None:
    """Compare the labeled rows' output and all running statistics."""
    n = len(next(tensors(x)))
    call = (lambda net: lambda batch: net(**batch)) if isinstance(x, dict) else lambda net: net
    joint, before = copy.deepcopy(model), norms(model)
    expected = call(joint)(tree_map(lambda a, b: torch.cat([a, b]), x, y))
    alone = call(copy.deepcopy(model))(x)
    assert before
    assert any(  # the unlabeled rows do matter
        (one - other[:n]).abs().max() > 1e-4 * other.abs().max()
        for one, other in zip(tensors(alone), tensors(expected), strict=True)
    )
    for interleave in (False, True):
        ubn = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no layer is left
            convert_ubn(ubn)
        found = ubn_forward(ubn, x, y, interleave=interleave, call=call(ubn))
        pairs = list(zip(tensors(found), tensors(expected), strict=True))
        assert pairs
        for one, other in pairs:
            scale = other.abs().max().item()
            torch.testing.assert_close(one, other[:n], rtol=0, atol=1e-8 * scale)
        for name, buffer in joint.named_buffers():
            if "running" in name:
                other = ubn.get_buffer(name)
                torch.testing.assert_close(other, buffer, rtol=1e-8, atol=1e-8, msg=name)
        assert norms(revert_ubn(ubn)) == before


@torch.no_grad()
@pytest.mark.parametrize("entry", TIMM)
def test_timm(entry):
    timm = package("timm")
    name, _, size = entry.partition("=")
    if name not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    size = int(size or 64)
    model = timm.create_model(name, **({"img_size": size} if name in TOLD.split() else {}))
    x, y = torch.randn(2, 3, size, size).double(), torch.randn(2, 3, size, size).double() * 2 + 1
    assert_a_step_is_a_joint_pass(without_chance(model), x, y)


@torch.no_grad()
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    transformers = package("transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    settings, shapes = TRANSFORMERS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = without_chance(kind(kind.config_class(**settings)))
    shapes = shapes or {"pixel_values": (3, 64, 64)}
    x = {key: torch.randn(2, *shape).double() for key, shape in shapes.items()}
    y = {key: torch.randn(2, *shape).double() * 2 + 1 for key, shape in shapes.items()}
    assert_a_step_is_a_joint_pass(model, x, y)
