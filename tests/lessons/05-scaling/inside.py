"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import contextlib
import mmap
import os
import sys
import tempfile

import torch
import torch.nn.functional as F
from torch import nn

from ..inside import RIGHT, a_tensor, copies

# ---------------------------------------------------------------------------------------------- llm_architectures


class RightRMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        return (F.rms_norm(x.to(self.weight.dtype), x.shape[-1:], self.weight, self.eps)).to(x.dtype)


class RightSwiGLU(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.gate, self.up = (nn.Linear(d_model, d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


RIGHT["llm_architectures"] = {"RMSNorm": RightRMSNorm, "SwiGLU": RightSwiGLU}


LLAMA_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
)  # fmt: skip


def llama_like(config, weights=None):
    """A LlamaForCausalLM of transformers with weights by name, in eval mode; what is not named stays as it starts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**config, bos_token_id=None, eos_token_id=None))
    own = model.state_dict()
    for name, weight in (weights or {}).items():
        own[name].copy_(weight)
    return model.eval()


def left_alone(function, *inputs):
    """Whether tensors stay as they are in a call without gradients, where writing into them is no error."""
    given = copies(inputs)
    with torch.no_grad():
        function(*given)
    return all(torch.equal(*pair) for pair in zip(given, inputs, strict=True))


def mix_modes(model):
    """Puts some of its modules into train mode and some into eval mode; returns the model."""
    for place, part in enumerate(model.modules()):
        part.training = place % 3 != 1
    return model


def modes_of(model):
    return [part.training for part in model.modules()]


def held_by(model):
    """Copies of its parameters and buffers, by name, and which of them learn."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: (tensor.detach().clone(), tensor.requires_grad) for name, tensor in tensors.items()}


def holds(model, before):
    """Whether a model holds, bit for bit, what held_by said."""
    after = held_by(model)
    return list(after) == list(before) and all(
        old.dtype == new.dtype and torch.equal(old, new) and learnt == learns
        for (old, learnt), (new, learns) in zip(before.values(), after.values(), strict=True)
    )


def matrices(model):
    """Its parameters of two dimensions or more, and how many numbers all of its parameters have."""
    weights = list(model.parameters())
    return [weight for weight in weights if weight.dim() > 1], sum(weight.numel() for weight in weights)


# ---------------------------------------------------------------------------------------------- training_techniques


class Tagger(nn.Module):
    """A model(inputs) -> logits, place by place: out(dropout(tanh(table[inputs]))). It keeps its calls, and in which order
    they and their backward passes came.

    Args:
        weights: "table" (V, D), "weight" (V, D) and "bias" (V,) of the last layer; dtype becomes theirs.
        dropout: its rate.
    """

    def __init__(self, weights, dropout=0.0):
        super().__init__()
        self.table = nn.Embedding(*weights["table"].shape)
        self.out = nn.Linear(*reversed(weights["weight"].shape))
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Sequential(nn.Dropout(0.0), nn.Identity())  # parts that have modes of their own
        self.to(weights["table"])
        for name, parameter in self.named_weights():
            parameter.data.copy_(weights[name])
        self.calls, self.events = [], []

    def named_weights(self):
        return [("table", self.table.weight), ("weight", self.out.weight), ("bias", self.out.bias)]

    def weights(self):
        """Copies of them, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.named_weights()}

    def forward(self, inputs):
        logits = self.out(self.dropout(torch.tanh(self.inner(self.table(inputs)))))
        self.events.append("forward")
        if logits.requires_grad:
            logits.register_hook(lambda _: self.events.append("backward"))
        in_training = [part.training for part in self.modules()]
        self.calls.append({
            "inputs": inputs.detach().clone(), "logits": logits.detach().clone(), "all": all(in_training), "any": any(in_training),
            "recorded": logits.requires_grad, "dtypes": [str(parameter.dtype) for _, parameter in self.named_weights()],
        })  # fmt: skip
        return logits


def noting_updates(model, optimizer):
    """A list that gets of each step of the optimizer the Tagger's gradients (None where there is none), weights before and after."""
    updates = []

    def before(*_):
        found = {name: parameter.grad for name, parameter in model.named_weights()}
        grads = {name: None if grad is None else grad.clone() for name, grad in found.items()}
        updates.append({"grads": grads, "before": model.weights()})

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(lambda *_: updates[-1].update(after=model.weights()))
    return updates


class Items:
    """(inputs (T,), targets (T,)) by number, and nothing else: it cannot be sliced, and a list of numbers is none."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, place):
        if not 0 <= place < len(self.inputs):
            raise IndexError(place)
        return self.inputs[place], self.targets[place]


class Running(nn.Module):
    """x minus a running mean of what it got in train mode, which is a buffer, as in BatchNorm."""

    def __init__(self, like):
        super().__init__()
        self.register_buffer("mean", torch.zeros_like(like))

    def forward(self, x):
        if self.training:
            self.mean.copy_(0.9 * self.mean + 0.1 * x.detach().mean(tuple(range(x.dim() - 1))))
        return x - self.mean.clone()


def as_another(model, how):
    """The Tagger as another model: with "a buffer", "a layer" more, or its last layer "renamed"; "" leaves it as it is."""
    if how == "renamed":
        model.head = model._modules.pop("out")
        model.__dict__["out"] = model.head  # forward finds it there, state_dict does not
    elif how:
        row = model.table.weight.detach()[0]
        model.inner[1] = Running(row) if how == "a buffer" else nn.Linear(len(row), len(row)).to(row)
        for weight in model.inner[1].parameters():  # two such models are the same
            weight.data.fill_(0.1)
    return model


def a_trainer(weights, train, val, config, dropout=0.0, change="", frozen=()):
    """The student's LLMTrainer of a Tagger, see `as_another`; train and val: (inputs (N, T), targets (N, T)). (trainer, model).

    frozen: names of weights that need no gradient.
    """
    from training_techniques import LLMTrainer

    model = as_another(Tagger(weights, dropout), change)
    for name, weight in model.named_weights():
        weight.requires_grad_(name not in frozen)
    return LLMTrainer(model, Items(*train), Items(*val), config), model


def watched_epochs(trainer, model, epochs):
    """Of each call of train_epoch: its loss, calls of the model and updates; the model was in eval mode before."""
    updates, rows = noting_updates(model, trainer.optimizer), []
    for _ in range(epochs):
        updates.clear()
        model.calls.clear()
        model.eval()
        loss = trainer.train_epoch()
        calls = [call for call in model.calls if call["recorded"]]  # what is not trained on does not count
        rows.append({"loss": loss, "calls": calls, "updates": list(updates)})
    return rows


def saved_bytes(trainer):
    """What the student's save writes to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        trainer.save(path)
        with open(path, "rb") as file:
            return file.read()


def load_bytes(trainer, content):
    """What becomes of the student's load of a file with this content: "loaded", "ValueError" or the name of another error."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        with open(path, "wb") as file:
            file.write(content)
        try:
            trainer.load(path)
        except Exception as error:
            return type(error).__name__
    return "loaded"


def state_of(trainer):
    """Copies of the weights, of the tensors and numbers in the optimizer's state, and the epoch."""
    weights = [weight.detach().clone() for weight in trainer.model.state_dict().values()]
    moments = [torch.as_tensor(value).clone() for part in trainer.optimizer.state.values() for value in part.values()]
    return weights, moments, trainer.epoch


def packed(model, ids):
    """Bytes of all that autograd packs while model(ids) runs, each piece of memory once, without parameters; and the logits."""
    own, found = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, {}
    held = []  # so that no other tensor gets the place in memory of one that is counted

    def pack(tensor):
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = a_tensor(model(ids))
    return sum(found.values()), logits


@contextlib.contextmanager
def at_most(megabytes):
    """While it is entered the process gets no more memory than it has and this: the kernel refuses it, and torch raises."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = _mapped(before[0]) + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit if before[0] < 0 else min(limit, before[0]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def says_something(output):
    """Whether a result is a tensor of more than one number."""
    output = a_tensor(output)
    return bool((output != output.flatten()[0]).any())


def experts_with(router, experts, top_k):
    """A MixtureOfExperts with these weights: of the router, and (gate, up, down) of each expert."""
    from llm_architectures import MixtureOfExperts

    layer = MixtureOfExperts(router.shape[1], experts[0][0].shape[0], len(router), top_k).to(router.dtype)
    layer.router.weight.data = router.clone()
    for expert, weights in zip(layer.experts, experts, strict=True):
        for part, weight in zip((expert.gate, expert.up, expert.down), weights, strict=True):
            part.weight.data = weight.clone()
    return layer


# ---------------------------------------------------------------------------------------------- pretraining_objectives


def right_prefix_mask(length, prefix_length, *_, **__):
    place = torch.arange(length)
    return (place <= place[:, None]) | (place < prefix_length)


RIGHT["pretraining_objectives"] = {"prefix_mask": right_prefix_mask}


def _mapped(limit):
    """Bytes of addresses that the process has. In the box /proc is closed, but there is a limit: what is left of it can be had."""
    if limit < 0:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    least, most = 0, limit
    while most - least > 1 << 20:
        middle = (least + most) // 2
        try:
            mmap.mmap(-1, middle, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()  # nothing is written to it
            least = middle
        except (OSError, MemoryError):
            most = middle
    return limit - least
