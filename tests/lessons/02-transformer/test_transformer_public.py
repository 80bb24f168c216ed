"""Public tests of transformer: small numbers, worked out by hand, and what you can see from outside. The hidden tests look closer."""

import torch


def test_the_feed_forward_of_two_numbers(student, check):
    """w_1 gives (1, -2, 3), the ReLU makes that (1, 0, 3), w_2 adds up: (4, 6)."""

    def probe():
        from transformer import PositionwiseFeedForward

        layer = PositionwiseFeedForward(2, 3).eval()
        layer.w_1.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
        layer.w_1.bias.data = torch.tensor([0.0, 0.0, 0.0])
        layer.w_2.weight.data = torch.tensor([[1.0, 1.0, 1.0], [0.0, 5.0, 2.0]])
        layer.w_2.bias.data = torch.tensor([0.0, 0.0])
        return layer(torch.tensor([[[1.0, 2.0]]]))

    result = student.run(probe)

    check(result, torch.tensor([[[4.0, 6.0]]]), mistakes={
        "there is no ReLU between w_1 and w_2": torch.tensor([[[2.0, -4.0]]]),
    })  # fmt: skip


def test_an_encoder_layer_without_weights_only_norms(student, check):
    """With all weights 0 both sub-layers give 0; the residual connections keep x, and the norms make (1, 3) to (-1, 1)."""

    def probe():
        from transformer import EncoderLayer

        layer = EncoderLayer(2, 1, 4).eval()
        for weight in layer.parameters():
            if not (weight == 1).all():  # the norms keep their gain of 1
                weight.data.zero_()
        return layer(torch.tensor([[[1.0, 3.0], [8.0, 4.0]]]))

    result = student.run(probe)

    check(result, torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]), terms=4096, mistakes={
        "the norm comes before each sub-layer (pre-norm); it should follow the residual connection": torch.tensor(
            [[[1.0, 3.0], [8.0, 4.0]]]
        ),
        "the residual connections are missing": torch.zeros(1, 2, 2),
    })  # fmt: skip


def test_the_decoder_does_not_see_the_future(student, check):
    """Another last token changes the last output, and no other."""

    def probe():
        from transformer import Decoder

        model, memory = Decoder(10, 8, 2, 2, 16).eval(), torch.ones(1, 3, 8)
        return model(torch.tensor([[4, 5, 6]]), memory), model(torch.tensor([[4, 5, 7]]), memory)

    one, other = student.run(probe)

    check(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2]), "the last output does not depend on the last token"


def test_padding_of_the_source_changes_nothing(student, check):
    """The logits are the same with two tokens of padding behind the source."""

    def probe():
        from transformer import Transformer

        model, tgt = Transformer(10, 11, 8, 2, 2, 16).eval(), torch.tensor([[1, 4, 5, 9]])
        return model(torch.tensor([[7, 8, 3]]), tgt), model(torch.tensor([[7, 8, 3, 0, 0]]), tgt)

    plain, padded = student.run(probe)

    check(list(plain.shape), [1, 4, 11])
    check(padded, plain, terms=4096)


def test_gpt_starts_with_a_loss_near_ln_v(student):
    """An untrained model gives all of 50 tokens about the same probability: the loss is near ln 50 = 3.91."""

    def probe():
        from transformer import GPTModel

        ids = torch.arange(64).reshape(4, 16) * 7 % 50
        logits = GPTModel(50, 32, 2, 4, max_len=16).eval()(ids)
        return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

    loss = student.run(probe)

    assert 3.7 < loss < 4.2, "the first loss is not near ln V: do the weights start from N(0, 0.02)?"


def test_bert_hides_padding_and_takes_type_0_by_default(student, check):
    """What stands at a hidden place does not matter; no types means that all are 0."""

    def probe():
        from transformer import BERTModel

        model = BERTModel(20, 8, 2, 2, 16, max_len=8).eval()
        one, other = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 7, 9]])
        mask, types = torch.tensor([[1, 1, 1, 0]]), torch.zeros(1, 4, dtype=torch.int64)
        return model(one, None, mask), model(other, None, mask), model(one), model(one, types)

    hidden, also_hidden, plain, typed = student.run(probe)

    check(list(plain.shape), [1, 4, 8])
    check(also_hidden[:, :3], hidden[:, :3])
    check(typed, plain)
