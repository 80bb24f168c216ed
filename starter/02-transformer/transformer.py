"""The Transformer: attention, feed-forward layers, residual connections and norms, stacked.

Four models are built here from lesson 1's parts:

    Transformer     encoder and decoder, post-norm     Vaswani et al. 2017, "Attention Is All You Need"
    GPTModel        a decoder alone, pre-norm          Radford et al. 2019, "Language Models are Unsupervised …" (GPT-2)
    BERTModel       an encoder alone, post-norm        Devlin et al. 2018, "BERT"
    Encoder, Decoder with EncoderLayer, DecoderLayer and PositionwiseFeedForward are the parts of the first.

Every layer is a residual connection around a sub-layer f, and they differ in where the norm stands:

    post-norm   x ← LayerNorm(x + f(x))        the original; needs a warmup of the learning rate
    pre-norm    x ← x + f(LayerNorm(x))        a direct path from the output to the input; one more norm at the very end

Letters in the shapes: B batch, T length (Ts of the source, Tt of the target), H heads, D = d_model, V vocabulary.
A mask is boolean or holds 0 and 1, and broadcasts to the scores (B, H, Tq, Tk); true (1) means "may attend".
"""

import math

import torch
from attention import CausalAttention, CrossAttention, MultiHeadAttention, causal_mask
from positional_encoding import LearnedPositionalEmbedding, PositionalEncoding
from torch import nn

# ---------------------------------------------------------------------------------------------- the layers of 2017


class PositionwiseFeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 at each position alone (Vaswani et al. 2017, section 3.3, equation 2).

    Args:
        d_model: D.
        d_ff: the width inside, 4·D in the paper.
        dropout: the probability with which a number is dropped after the ReLU, in train mode; 0 drops nothing.

    Weights:
        w_1: Linear(D, d_ff).
        w_2: Linear(d_ff, D).
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.1) -> None:
        # TODO(student): w_1, w_2 and the dropout
        raise NotImplementedError("PositionwiseFeedForward.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D)."""
        # TODO(student): w_1, ReLU, dropout, w_2
        raise NotImplementedError("PositionwiseFeedForward.forward is not implemented yet")


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each in x ← LayerNorm(x + Dropout(f(x))) (Vaswani et al. 2017, section 3.1).

    Args:
        d_model: D.
        num_heads: H.
        d_ff: the width inside the feed-forward.
        dropout: the probability of every dropout in the layer, in train mode; 0 drops nothing.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.1) -> None:
        # TODO(student): attention, feed-forward, a norm for each
        raise NotImplementedError("EncoderLayer.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D).

        Args:
            mask: broadcasts to (B, H, T, T).
        """
        # TODO(student): both sub-layers: residual connection first, then the norm
        raise NotImplementedError("EncoderLayer.forward is not implemented yet")


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to the encoder's output, feed-forward; post-norm (Vaswani et al. 2017, 3.1).

    The layer does what its masks say: without a tgt_mask every position sees all others.

    Args:
        d_model: D.
        num_heads: H.
        d_ff: the width inside the feed-forward.
        dropout: the probability of every dropout in the layer, in train mode; 0 drops nothing.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.1) -> None:
        # TODO(student): two attentions, feed-forward, three norms
        raise NotImplementedError("DecoderLayer.__init__ is not implemented yet")

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        tgt_mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, Tt, D), memory (B, Ts, D) -> (B, Tt, D).

        Args:
            tgt_mask: broadcasts to (B, H, Tt, Tt).
            memory_mask: broadcasts to (B, H, Tt, Ts).
        """
        # TODO(student): three sub-layers, post-norm
        raise NotImplementedError("DecoderLayer.forward is not implemented yet")


# ---------------------------------------------------------------------------------------------- the stacks of 2017


class Encoder(nn.Module):
    """num_layers EncoderLayers over Embedding · √D + PositionalEncoding (Vaswani et al. 2017, sections 3.4 and 3.5).

    Args:
        vocab_size: V.
        num_layers: how many EncoderLayers.
        max_len: the longest sequence; more is a ValueError in forward.
        d_model, num_heads, d_ff, dropout: as those of EncoderLayer; the dropout also acts on the sum of embedding and positions.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        max_len: int = 5000,
        dropout: float = 0.1,
    ) -> None:
        # TODO(student): embedding, positions, layers
        raise NotImplementedError("Encoder.__init__ is not implemented yet")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """ids (B, T) integers -> (B, T, D).

        Args:
            mask: broadcasts to (B, H, T, T).
        """
        # TODO(student): embed, scale, add positions; every layer gets the mask
        raise NotImplementedError("Encoder.forward is not implemented yet")


class Decoder(nn.Module):
    """num_layers DecoderLayers over Embedding · √D + PositionalEncoding; causal, whatever tgt_mask says.

    Args:
        vocab_size: V.
        num_layers: how many DecoderLayers.
        max_len: the longest sequence; more is a ValueError in forward.
        d_model, num_heads, d_ff, dropout: as those of DecoderLayer; the dropout also acts on the sum of embedding and positions.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        max_len: int = 5000,
        dropout: float = 0.1,
    ) -> None:
        # TODO(student): embedding, positions, layers
        raise NotImplementedError("Decoder.__init__ is not implemented yet")

    def forward(
        self,
        ids: torch.Tensor,
        memory: torch.Tensor,
        tgt_mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """ids (B, Tt) integers, memory (B, Ts, D) -> (B, Tt, D).

        A position attends to what both tgt_mask and the causal mask allow.

        Args:
            tgt_mask: broadcasts to (B, H, Tt, Tt).
            memory_mask: broadcasts to (B, H, Tt, Ts).
        """
        # TODO(student): join tgt_mask with the causal mask
        raise NotImplementedError("Decoder.forward is not implemented yet")


class Transformer(nn.Module):
    """The encoder-decoder of Vaswani et al. 2017. Padding of source and target is never attended to.

    Args:
        src_vocab_size, tgt_vocab_size: the vocabularies; nothing is shared between source, target and output.
        d_model: D.
        num_layers: of the encoder and of the decoder.
        num_heads: H.
        d_ff: the width inside the feed-forwards.
        max_len: the longest source or target.
        dropout: of all layers.
        pad_id: the token that fills short sequences up.
    """

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        d_ff: int = 2048,
        max_len: int = 5000,
        dropout: float = 0.1,
        pad_id: int = 0,
    ) -> None:
        # TODO(student): an encoder, a decoder, and a Linear from D to the target vocabulary
        raise NotImplementedError("Transformer.__init__ is not implemented yet")

    def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        """src (B, Ts), tgt (B, Tt) integers -> logits (B, Tt, V) of the token that follows each one of tgt."""
        # TODO(student): encode, then decode with the mask of the source's padding
        raise NotImplementedError("Transformer.forward is not implemented yet")

    def encode(self, src: torch.Tensor) -> torch.Tensor:
        """src (B, Ts) -> memory (B, Ts, D)."""
        # TODO(student): the encoder, with the padding hidden
        raise NotImplementedError("Transformer.encode is not implemented yet")

    def decode(self, tgt: torch.Tensor, memory: torch.Tensor, src_mask: torch.Tensor | None = None) -> torch.Tensor:
        """tgt (B, Tt), memory (B, Ts, D) -> logits (B, Tt, V).

        Args:
            src_mask: (B, Ts) or (B, 1, 1, Ts), true where the source may be attended to; None means everywhere.
        """
        # TODO(student): src_mask may have two dimensions; hide tgt's padding too
        raise NotImplementedError("Transformer.decode is not implemented yet")


# ---------------------------------------------------------------------------------------------- GPT


class GPTModel(nn.Module):
    """GPT-2 (Radford et al. 2019): a pre-norm decoder that predicts the next token.

    Learned positions, GELU in its tanh form, a norm after the last block; the output Linear has no bias and its weight
    is the token embedding's. The start has a standard deviation of 0.02 and zero biases, and as in GPT-2 the
    2·num_layers matrices that write into the residual stream are divided by √(2·num_layers), so that its variance does
    not grow with the depth.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many blocks.
        num_heads: H.
        d_ff: the width inside the feed-forward; 4·D if None.
        max_len: the longest sequence, kept as attribute.
        dropout: of embeddings, attention weights and sub-layers.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 8,
        d_ff: int | None = None,
        max_len: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        # TODO(student): embeddings, blocks, a last norm, a Linear tied to the token embedding, and the start
        raise NotImplementedError("GPTModel.__init__ is not implemented yet")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        # TODO(student): token + position, the blocks, the last norm, the output
        raise NotImplementedError("GPTModel.forward is not implemented yet")

    def load_huggingface(self, model: nn.Module) -> "GPTModel":
        """Copies the weights and the layer-norm eps of a transformers.GPT2LMHeadModel.

        Nothing is shared with model afterwards. In eval mode the logits are then those of model.

        Returns:
            The GPTModel itself.

        Raises:
            ValueError: a size of model differs.
        """
        # TODO(student): refuse other sizes, then copy; GPT-2 keeps its matrices transposed
        raise NotImplementedError("GPTModel.load_huggingface is not implemented yet")


# ---------------------------------------------------------------------------------------------- BERT


class BERTModel(nn.Module):
    """BERT's encoder (Devlin et al. 2018): every position sees every real one. No pooling, no head.

    Embeddings are LayerNorm(token + position + type); post-norm layers with exact GELU; layer-norm eps 1e-12.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers.
        num_heads: H.
        d_ff: the width inside the feed-forward.
        max_len: the longest sequence.
        dropout: of embeddings, attention weights and sub-layers.
        type_vocab_size: the number of token types (which of the sentences a token belongs to).

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
        # TODO(student): three embeddings and their norm, the layers
        raise NotImplementedError("BERTModel.__init__ is not implemented yet")

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T) integers -> (B, T, D).

        Args:
            token_type_ids: (B, T) integers, 0 everywhere if None.
            attention_mask: (B, T), true (1) at real tokens; None means that all are real.

        Raises:
            ValueError: T is more than max_len.
        """
        # TODO(student): embeddings, norm, layers
        raise NotImplementedError("BERTModel.forward is not implemented yet")

    def load_huggingface(self, model: nn.Module) -> "BERTModel":
        """Copies the weights and the layer-norm eps of a transformers.BertModel, without its pooler.

        Nothing is shared with model afterwards. In eval mode the outputs are then model's `.last_hidden_state`.

        Returns:
            The BERTModel itself.

        Raises:
            ValueError: a size of model differs.
        """
        # TODO(student): refuse other sizes, then copy, with the layer-norm eps
        raise NotImplementedError("BERTModel.load_huggingface is not implemented yet")
