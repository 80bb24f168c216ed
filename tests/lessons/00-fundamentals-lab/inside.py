"""Helpers for the probes of the lab: tokenizers and models of `transformers` that are made by hand, in the student's process."""

import torch


def a_list(value):
    """The value, if it is a list."""
    if isinstance(value, list):
        return value
    raise TypeError(f"the result is {'None' if value is None else type(value).__name__}, it should be a list")


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


def _tiny_gpt2(model_class, size, **settings):
    """A GPT-2 in which each id is a direction of its own, and the block adds nothing: what comes out depends on the last layer."""
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=size,
        n_positions=64,
        n_embd=size,
        n_layer=1,
        n_head=1,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
        **settings,
    )
    model = model_class(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.copy_(torch.eye(size))
        for name, parameter in model.transformer.named_parameters():
            if "wpe" in name or "attn.c" in name or "mlp" in name:
                parameter.zero_()
    return model


def chain(following):
    """A language model that goes from token id to the token following[id], whatever was before."""
    from transformers import GPT2LMHeadModel

    size = len(following)
    model = _tiny_gpt2(GPT2LMHeadModel, size)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[torch.tensor(following), torch.arange(size)] = 0.4
    return model


def judge(class_of, names):
    """A classifier whose class is that of the text's last word: class_of[id]. names: of the classes."""
    from transformers import GPT2ForSequenceClassification

    labels = dict(enumerate(names))
    numbers = {name: number for number, name in labels.items()}
    model = _tiny_gpt2(GPT2ForSequenceClassification, len(class_of), id2label=labels, label2id=numbers)
    with torch.no_grad():
        model.score.weight.zero_()
        model.score.weight[torch.tensor(class_of), torch.arange(len(class_of))] = 1.0
    return model


def text_after(prompt, words, following, most):
    import lab

    text = lab.generate(prompt, by_words(words), chain(following), most)
    if isinstance(text, str):
        return text
    raise TypeError(f"generate returned {'None' if text is None else type(text).__name__}; it should be a str")


def labels_of(texts, words, class_of, names):
    import lab

    return a_list(lab.classify_sentiment(texts, by_words(words), judge(class_of, names)))
