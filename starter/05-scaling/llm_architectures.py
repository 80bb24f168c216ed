"""Architectures: what the models after 2019 have changed about the Transformer of lesson 2, and why.

    GPTModel, BERTModel     lesson 2's, handed on: import them from `transformer`, so that this module has them too
    BERTForMaskedLM         an encoder that guesses hidden tokens    Devlin et al. 2018, "BERT"
    T5Model                 encoder and decoder, relative positions  Raffel et al. 2019, "Exploring the Limits of Transfer
                                                                     Learning with a Unified Text-to-Text Transformer"
    LlamaModel              a decoder: RMSNorm, RoPE, grouped keys,  Touvron et al. 2023, "Llama 2"
                            SwiGLU
    MixtureOfExperts        a feed-forward of which each token uses  Jiang et al. 2024, "Mixtral of Experts"
                            a part

Letters in the shapes: B batch, T length (Tt of the target), H heads, D = d_model, Dh = D / H, V vocabulary, E experts.
A mask is boolean or holds 0 and 1; true (1) means "may be attended to".
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- norm and feed-forward


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019, "Root Mean Square Layer
    Normalization", equation 4).

    LayerNorm without the mean and without the bias: cheaper, and as good.

    Args:
        d_model: D.
        eps: added to the mean of the squares.

    Weights:
        weight: (D,), ones at the start.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        # TODO(student): eps and the weight
        raise NotImplementedError("RMSNorm.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> the shape and dtype of x.

        float16 and bfloat16 are computed in float32, and only the result is rounded: the square of 300 is no float16 any more.
        """
        # TODO(student): divide by the root of the mean square
        raise NotImplementedError("RMSNorm.forward is not implemented yet")


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020, "GLU Variants Improve Transformer", equation 6; silu(z) = z · sigmoid(z)).

    Args:
        d_model: D.
        d_ff: the width inside. There are three matrices, so 8/3 · D has as many weights as an ordinary network of 4 · D.

    Weights:
        gate, up: Linear(D, d_ff) without bias.
        down: Linear(d_ff, D) without bias.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        # TODO(student): gate, up, down
        raise NotImplementedError("SwiGLU.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> (..., D)."""
        # TODO(student): the gate decides how much of up passes
        raise NotImplementedError("SwiGLU.forward is not implemented yet")


# ---------------------------------------------------------------------------------------------- BERT with a head


class BERTForMaskedLM(nn.Module):
    """BERTModel and an output layer that says at each position which token stands there (Devlin et al. 2018, section 3.1).

    Which form the output layer has is up to you: one Linear, or BERT's Linear, GELU, LayerNorm, Linear. It looks at each
    position's state alone, and drops nothing.

    Args:
        vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout, type_vocab_size: those of BERTModel.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        d_ff: int = 3072,
        max_len: int = 512,
        dropout: float = 0.1,
        type_vocab_size: int = 2,
    ) -> None:
        # TODO(student): a BERTModel and an output layer from D to V
        raise NotImplementedError("BERTForMaskedLM.__init__ is not implemented yet")

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V) of the token at each position: no softmax, no shift.

        Args:
            token_type_ids: (B, T) integers, 0 everywhere if None.
            attention_mask: (B, T), true (1) at real tokens; None means that all are real.

        Raises:
            ValueError: T is more than max_len.
        """
        # TODO(student): the states, then the output layer
        raise NotImplementedError("BERTForMaskedLM.forward is not implemented yet")


# ---------------------------------------------------------------------------------------------- attention, for T5 and Llama


# ---------------------------------------------------------------------------------------------- T5

BUCKETS, FARTHEST = 32, 128  # of the relative positions: how many, and from which distance on all are in the last one


class T5Model(nn.Module):
    """T5 1.0 (Raffel et al. 2019, section 2.1), as `transformers`' T5ForConditionalGeneration with its first config.

    Both stacks are pre-norm with one more norm at their end, all of them RMSNorm with an eps of 1e-6, and no Linear has a
    bias. One embedding serves the encoder, the decoder and the output: logits = states · D^-0.5 · embeddingᵀ. The embedding
    is not scaled, nor are the scores. There is no dropout. Feed-forward: W_o ReLU(W_i x), 4·D wide.

    Positions are known by what is added to the scores alone: a number for each head and each of 32 buckets of the distance
    (key - query). The encoder has a table (32, H), the decoder another; all layers of a stack share it, and there is none in
    the cross-attention. In the encoder 16 buckets are for keys that come later and 16 for the others; in the decoder all 32
    are for the past. The nearer half of them has one distance each, the others grow by a logarithm up to a distance of 128,
    from which on all share the last one, as in `transformers`' `_relative_position_bucket`.

    How the parts are called, and how the weights start, is up to you.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: of the encoder and of the decoder.
        num_heads: H.
        max_len: the longest input or target.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self, vocab_size: int, d_model: int = 768, num_layers: int = 12, num_heads: int = 12, max_len: int = 512
    ) -> None:
        # TODO(student): one embedding, two stacks, a table of buckets and a last norm for each
        raise NotImplementedError("T5Model.__init__ is not implemented yet")

    def forward(
        self,
        input_ids: torch.Tensor,
        target_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T), target_ids (B, Tt) integers -> logits (B, Tt, V) of what follows each target.

        Args:
            target_ids: what the decoder reads. It is not shifted here: whoever trains begins it with a start token. The
                decoder is causal. Without target_ids the result is the encoder's states (B, T, D) after its last norm.
            attention_mask: (B, T), true (1) at real tokens of input_ids: the others are attended to neither in the encoder
                nor by the decoder. None means that all are real. What the encoder's states are at the others is open. Of an
                input that is hidden altogether the decoder gets nothing: attention to nothing is 0, and neither the logits
                nor a gradient are NaN.

        Raises:
            ValueError: T or Tt is more than max_len.
        """
        # TODO(student): the encoder, then the decoder, then the embedding once more
        raise NotImplementedError("T5Model.forward is not implemented yet")


# ---------------------------------------------------------------------------------------------- Llama


class LlamaModel(nn.Module):
    """Llama (Touvron et al. 2023, "Llama 2", section 2.2): a causal decoder that predicts the next token.

    Pre-norm layers: grouped-query attention (Ainslie et al. 2023) with rotary positions (lesson 2's RoPE: theta_i =
    rope_base^(-2i / Dh)), SwiGLU, RMSNorm with an eps of 1e-6, and one more norm at the end. No Linear has a bias, there is no
    dropout, and the output has a weight of its own, not the token embedding's. Head h reads the keys and values of head
    h // (H / num_kv_heads).

    How the parts are called, and how the weights start, is up to you.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers.
        num_heads: H.
        num_kv_heads: the number of heads that keys and values have; it divides H.
        d_ff: the width inside SwiGLU.
        max_len: the longest sequence.
        rope_base: the base of the rotary frequencies.

    Raises:
        ValueError: D is not divisible by H, H is not divisible by num_kv_heads, or Dh is odd.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        d_ff: int,
        max_len: int = 2048,
        rope_base: float = 10000.0,
    ) -> None:
        # TODO(student): the sizes are checked; embedding, layers, a last norm, a Linear; cosines and sines of all positions
        raise NotImplementedError("LlamaModel.__init__ is not implemented yet")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V) of the token that follows each one.

        Raises:
            ValueError: T is more than max_len.
        """
        # TODO(student): the embedding, the layers, the last norm, the output
        raise NotImplementedError("LlamaModel.forward is not implemented yet")

    def load_huggingface(self, model: nn.Module) -> "LlamaModel":
        """Copies the weights of a transformers.LlamaForCausalLM, with its rms_norm_eps and its rotary frequencies.

        The logits are then those of model, to 1e-4. The frequencies are those that model has worked out for its kind of
        rotary positions (`model.model.rotary_emb.inv_freq`), whatever rope_base is here; cosines and sines are multiplied by its
        `attention_scaling`, which is not 1 for YaRN. A head that is tied to the embedding is copied like any other: here the
        two stay apart. max_len stays, and need not be model's. Nothing is shared with model afterwards, weights keep their
        dtype and device, a 16-bit LlamaModel runs on in 16 bits, and model is not changed, nor are the modes of either. Of a
        model that was loaded before nothing is left.

        Returns:
            The LlamaModel itself.

        Raises:
            ValueError: a shape of model differs (V, D, H, num_kv_heads, the width of a head or d_ff), its number of layers
                differs, it has biases, or its activation (hidden_act) is not silu. Then the LlamaModel is as it was before:
                all is checked before anything is copied.
        """
        # TODO(student): compare all shapes first, then copy
        raise NotImplementedError("LlamaModel.load_huggingface is not implemented yet")


# ---------------------------------------------------------------------------------------------- mixture of experts


class MixtureOfExperts(nn.Module):
    """A feed-forward of E experts, of which each token uses top_k (Jiang et al. 2024, section 2.1; Fedus et al. 2021,
    "Switch Transformers", section 2.2, for the loss).

        output = Σ over the top_k experts i of  w_i · expert_i(x),   w = their softmax probabilities, scaled to sum to 1

    The softmax is over all experts. An expert works on the tokens that chose it and on no others: so E experts cost as
    much as top_k of them. There is no limit to the number of tokens an expert gets.

    Args:
        d_model: D.
        d_ff: the width inside each expert.
        num_experts: E.
        top_k: how many experts a token uses.

    Weights:
        router: Linear(D, E) without bias.
        experts: ModuleList of E SwiGLU.

    Raises:
        ValueError: top_k is less than 1 or more than E.
    """

    def __init__(self, d_model: int, d_ff: int, num_experts: int, top_k: int = 2) -> None:
        # TODO(student): the router and the experts
        raise NotImplementedError("MixtureOfExperts.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., D) -> (output in the shape and dtype of x, under autocast too, load_balancing_loss).

        The loss is a tensor without dimensions: E · Σ_i f_i P_i, where f_i is the number of tokens that chose expert i,
        divided by the number of all tokens, and P_i the mean of its probability over all tokens, before the scaling. It is
        top_k if both are even. Its gradient goes through P: f counts, and has none. It is the same in train and in eval
        mode, and counts this x alone, not earlier ones.
        """
        # TODO(student): probabilities, the best experts, each expert's tokens; then the loss
        raise NotImplementedError("MixtureOfExperts.forward is not implemented yet")
