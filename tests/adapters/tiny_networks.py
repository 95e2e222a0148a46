"""Settings of diffusers' networks with one layer."""

from __future__ import annotations

from typing import Any

# fmt: off
NETWORKS: dict[str, dict[str, Any]] = {
    "AllegroTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 1,
        "cross_attention_dim": 24, "sample_width": 8, "sample_height": 8, "sample_frames": 8, "caption_channels": 16,
    },
    "AuraFlowTransformer2DModel": {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
        "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16, "joint_attention_dim": 16,
        "pos_embed_max_size": 64,
    },
    "ChromaTransformer2DModel": {
        "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 4, 8), "approximator_hidden_dim": 16,
        "approximator_layers": 1, "approximator_num_channels": 16,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "time_embed_dim": 4,
        "text_embed_dim": 16, "num_layers": 1, "sample_width": 2, "sample_height": 2, "sample_frames": 9, "patch_size": 2,
        "max_text_seq_length": 7,
    },
    "CogView3PlusTransformer2DModel": {
        "patch_size": 2, "in_channels": 4, "num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "out_channels": 4,
        "text_embed_dim": 16, "time_embed_dim": 8, "condition_dim": 2, "pos_embed_max_size": 8, "sample_size": 8,
    },
    "CogView4Transformer2DModel": {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2,
        "text_embed_dim": 16, "time_embed_dim": 8, "condition_dim": 4, "rope_axes_dim": (16, 16),
    },
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 4, "caption_channels": [16, 16], "text_emb_dim": 16, "num_routed_experts": 4,
        "num_activated_experts": 2, "axes_dims_rope": (4, 2, 2), "max_resolution": (32, 32), "llama_layers": (0,),
        "force_inference_output": True,
    },
    "HunyuanDiT2DModel": {
        "sample_size": 8, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2, "in_channels": 4,
        "cross_attention_dim": 16, "cross_attention_dim_t5": 16, "pooled_projection_dim": 16, "hidden_size": 16, "activation_fn":
        "gelu-approximate", "text_len": 7, "text_len_t5": 7,
    },
    "HunyuanVideoTransformer3DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1,
        "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1, "guidance_embeds": True,
        "text_embed_dim": 16, "pooled_projection_dim": 16, "rope_axes_dim": (2, 4, 4),
    },
    "LTXVideoTransformer3DModel": {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
        "num_layers": 1, "caption_channels": 16,
    },
    "LatteTransformer3DModel": {
        "sample_size": 8, "num_layers": 1, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2, "caption_channels":
        16, "in_channels": 4, "cross_attention_dim": 16, "out_channels": 8, "attention_bias": True, "activation_fn":
        "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
        "video_length": 2,
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 1, "num_attention_heads": 3,
        "num_kv_heads": 1, "multiple_of": 16, "scaling_factor": 1.0, "axes_dim_rope": [4, 2, 2], "cap_feat_dim": 16,
        "num_refiner_layers": 1,
    },
    "MochiTransformer3DModel": {
        "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "pooled_projection_dim": 16,
        "in_channels": 12, "qk_norm": "rms_norm", "text_embed_dim": 16, "time_embed_dim": 4, "max_sequence_length": 7,
    },
    "PixArtTransformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 1, "sample_size": 8,
        "patch_size": 2, "cross_attention_dim": 16, "caption_channels": 16, "norm_type": "ada_norm_single", "num_embeds_ada_norm":
        1000, "use_additional_conditions": False,
    },
    "QwenImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4),
    },
    "SanaTransformer2DModel": {
        "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": 16,
        "sample_size": 8,
    },
    "ZImageTransformer2DModel": {
        "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": 32, "n_layers": 1, "n_refiner_layers": 1,
        "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32],
    },
}
