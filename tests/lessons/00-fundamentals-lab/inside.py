"""Helpers for the probes of the lab: tokenizers and models of `transformers` that are made by hand, in the student's process."""

import torch


def exactly(kind, value):
    """The value, if it is of this type; else whoever returned it is told what it is."""
    if isinstance(value, kind):
        return value
    raise TypeError(
        f"the result is {'None' if value is None else type(value).__name__}, it should be a {kind.__name__}"
    )


def _fast(model, **special):
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inputs = ["input_ids", "attention_mask"]  # GPT-2 would add the vector of id 0 for token_type_ids
    return made, lambda: PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **special)


def by_pieces(pieces, with_special_tokens=True):
    """A tokenizer that cuts words into these pieces ("##s" goes on a word), between [CLS] and [SEP] if asked to."""
    from tokenizers import models, processors

    vocab = {piece: id for id, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces])}
    made, wrapped = _fast(models.WordPiece(vocab, unk_token="[UNK]"), pad_token="[PAD]", unk_token="[UNK]")
    if with_special_tokens:
        between = [("[CLS]", 2), ("[SEP]", 3)]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=between)
    return wrapped()


def by_words(words):
    """A tokenizer of these words: <end> is 0, the first word 1. Texts are padded with <end> on the left, as for generation."""
    from tokenizers import models

    vocab = {word: id for id, word in enumerate(["<end>", *words])}
    special = {"pad_token": "<end>", "eos_token": "<end>", "padding_side": "left"}
    return _fast(models.WordLevel(vocab, unk_token="<end>"), **special)[1]()


def _tiny_gpt2(name, to, layer, **settings):
    """A GPT-2 whose block adds nothing: the last layer leads from id i to row to[i], by the last token alone."""
    from transformers.models.gpt2 import modeling_gpt2

    sizes = {"vocab_size": len(to), "n_positions": 64, "n_embd": len(to), "n_layer": 1, "n_head": 1}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False}
    model = getattr(modeling_gpt2, name)(modeling_gpt2.GPT2Config(**sizes, **ends, **settings)).eval()
    with torch.no_grad():
        model.transformer.wte.weight.copy_(torch.eye(len(to)))
        for part, parameter in model.transformer.named_parameters():
            if "wpe" in part or "attn.c" in part or "mlp" in part:
                parameter.zero_()
        last = getattr(model, layer).weight.zero_()
        last[torch.tensor(to), torch.arange(len(to))] = 0.4
    return model


def chain(following):
    """A language model that goes from token id to the token following[id], whatever was before."""
    return _tiny_gpt2("GPT2LMHeadModel", following, "lm_head")


def judge(class_of, names):
    """A classifier whose class is that of the text's last word: class_of[id]. names: of the classes."""
    numbers = {name: number for number, name in enumerate(names)}
    labels = {"id2label": dict(enumerate(names)), "label2id": numbers}
    return _tiny_gpt2("GPT2ForSequenceClassification", class_of, "score", **labels)
