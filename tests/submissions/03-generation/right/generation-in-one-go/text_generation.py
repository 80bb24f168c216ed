from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformer import GPTModel

NEVER = float("-inf")


def filter_top_k(logits: Tensor, k: int) -> Tensor:
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    ordered, _ = torch.sort(logits, dim=-1, descending=True)
    bar = ordered[..., min(k, ordered.size(-1)) - 1, None]
    return torch.where(logits.lt(bar), torch.full_like(logits, NEVER), logits)


def filter_top_p(logits: Tensor, p: float) -> Tensor:
    if not (p > 0 and p <= 1):
        raise ValueError(f"p={p} must be in (0, 1]")
    if p == 1:
        return logits.clone()
    ordered, places = torch.sort(logits, dim=-1)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - p
    drop[:, -1] = False
    ranks = places.argsort(-1)
    return logits.masked_fill(drop.gather(1, ranks), NEVER)


def filter_min_p(logits: Tensor, p: float) -> Tensor:
    probs = torch.softmax(logits, -1)
    keep = probs / probs.max(-1, keepdim=True).values >= p
    return torch.where(keep, logits, NEVER)


def apply_repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    scores = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(scores < 0, scores * penalty, scores / penalty))


def sample_next_token(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    logits = logits / temperature
    logits = logits if top_k is None else filter_top_k(logits, top_k)
    logits = logits if top_p is None else filter_top_p(logits, top_p)
    noise = torch.empty(logits.shape, device=logits.device, dtype=torch.float64).exponential_(generator=generator)
    return (logits.double() - noise.log()).argmax(-1)


def _limits(prompt_length, max_length, max_len=None):
    if prompt_length >= max_length:
        raise ValueError(f"prompt of {prompt_length} tokens: max_length={max_length} leaves no room")
    if max_len is not None and max_length > max_len:
        raise ValueError(f"max_length={max_length} > max_len={max_len}")


def _tidy(buffer, start, eos_id):
    """Everything after the first generated eos becomes eos; columns that are eos in all rows after an end are cut."""
    if eos_id is None:
        return buffer
    is_eos = buffer[:, start:] == eos_id
    after = is_eos.cumsum(1) > 0
    out = buffer.clone()
    out[:, start:][after] = eos_id
    needed = (~after).sum(1) + is_eos.any(1)
    return out[:, : start + int(needed.max())]


def _generate(step, ids, max_length, eos_id):
    start, buffer = ids.size(1), ids
    for _ in range(max_length - start):
        buffer = torch.column_stack((buffer, step(buffer)))
        if eos_id is not None and bool((buffer[:, start:] == eos_id).any(1).all()):
            break
    return _tidy(buffer, start, eos_id)


def greedy_search(model, ids, max_length, eos_id=None):
    _limits(ids.size(1), max_length, getattr(model, "max_len", None))
    with torch.no_grad():
        return _generate(lambda rows: model(rows)[:, -1].max(-1).indices, ids, max_length, eos_id)


@torch.no_grad()
def beam_search(model, ids, num_beams, max_length, eos_id=None, length_penalty=1.0):
    _limits(ids.size(1), max_length, getattr(model, "max_len", None))
    (batch, start), k, device = ids.shape, num_beams, ids.device
    end = -1 if eos_id is None else eos_id
    flat = ids.repeat_interleave(k, 0)
    running = torch.full((batch, k), -1e9, device=device)
    running[:, 0] = 0
    pool = [[] for _ in range(batch)]  # of each row: (score, sequence as a tensor)
    closed = [False] * batch
    offsets = torch.arange(batch, device=device)[:, None] * k
    for width in range(start + 1, max_length + 1):
        steps = torch.log_softmax(model(flat)[:, -1], -1)
        vocab = steps.size(-1)
        values, index = (running.reshape(-1, 1) + steps).view(batch, -1).sort(-1, descending=True)
        values, index = values[:, : 2 * k], index[:, : 2 * k]
        grown = torch.cat([flat[(offsets + index // vocab).flatten()], (index % vocab).view(-1, 1)], 1)
        grown = grown.view(batch, -1, width)
        over = (index % vocab == end) | (width == max_length)
        norm = (width - start) ** length_penalty
        for b in range(batch):
            if not closed[b]:
                pool[b] += [
                    (float(values[b, j]) / norm, grown[b, j]) for j in range(min(k, values.size(1))) if over[b, j]
                ]
                pool[b] = sorted(pool[b], key=lambda found: -found[0])[:k]
        order = torch.where(over, values - 2e9, values).argsort(dim=-1, descending=True, stable=True)[:, :k]
        running = torch.where(over, values - 2e9, values).gather(1, order)
        flat = grown.gather(1, order[..., None].expand(-1, -1, width)).flatten(0, 1)
        for b in range(batch):
            closed[b] |= len(pool[b]) == k and float(running[b, 0]) / norm <= pool[b][-1][0]
        if all(closed):
            break
    best = [found[0][1] for found in pool]
    filler = 0 if eos_id is None else eos_id
    return (
        nn.utils.rnn.pad_sequence(best, batch_first=True, padding_value=filler),
        torch.tensor([found[0][0] for found in pool], dtype=torch.float64, device=device),
    )


@dataclass
class Statistics:
    accepted: float
    rounds: int


@torch.no_grad()
def speculative_sample(target, draft, ids, max_length, num_draft_tokens=4, generator=None, return_stats=False):
    """Rows have lengths of their own: what stands behind a row's end is garbage that causal models do not look at."""
    for model in (target, draft):
        _limits(ids.size(1), max_length, getattr(model, "max_len", None))
    batch, device = ids.size(0), ids.device
    buffer = nn.functional.pad(ids, (0, max_length - ids.size(1)))
    length = torch.full((batch,), ids.size(1), device=device)
    rows, hits, tries, rounds = torch.arange(batch, device=device), 0, 0, 0
    while int(length.min()) < max_length:
        rounds += 1
        open_, base, q = length < max_length, length.clone(), []
        for i in range(num_draft_tokens):
            at = (base + i).clamp(max=max_length - 1)
            law = draft(buffer)[rows, at - 1].softmax(-1)
            token = sample_next_token(law.log(), generator=generator)
            free = base + i < max_length
            buffer[rows[free], at[free]] = token[free]
            q.append(law)
            tries += int(free.sum())
        p = target(buffer).softmax(-1)
        going = open_.clone()
        for i in range(num_draft_tokens + 1):
            going &= length < max_length
            here = length.clamp(max=max_length - 1)
            law = p[rows, here - 1]
            if i == num_draft_tokens:
                extra = sample_next_token(law.log(), generator=generator)
                buffer[rows[going], here[going]] = extra[going]
                length += going.long()
                break
            token = buffer[rows, here]
            u = torch.rand(batch, device=device, generator=generator)
            ok = u * q[i][rows, token] < law[rows, token]
            rest = (law - q[i]).clamp_min(0) + 1e-30
            instead = sample_next_token(rest.log(), generator=generator)
            refused = going & ~ok
            buffer[rows[refused], here[refused]] = instead[refused]
            length += going.long()
            hits += int((going & ok).sum())
            going &= ok
    if return_stats:
        return buffer, Statistics(accepted=hits / tries, rounds=rounds)
    return buffer


@contextmanager
def _evaluating(module):
    flags = [(part, part.training) for part in module.modules()]
    module.train(False)
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


class GPTTextGenerator(nn.Module):
    def __init__(self, vocab_size, d_model=512, num_layers=6, num_heads=8, max_len=1024):
        super().__init__()
        self.add_module("model", GPTModel(vocab_size, d_model, num_layers, num_heads, None, max_len, 0.2))

    def generate(self, prompt, max_length, temperature=1.0, top_k=None, top_p=None, eos_id=None, generator=None):
        _limits(prompt.size(1), max_length, self.model.max_len)
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
        with _evaluating(self), torch.no_grad():
            return _generate(
                lambda ids: sample_next_token(self.model(ids)[:, -1], **settings), prompt, max_length, eos_id
            )


class HuggingFaceTextGenerator:
    def __init__(self, model_name="gpt2"):
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.tokenizer = AutoTokenizer.from_pretrained(model_name)
        self.model = AutoModelForCausalLM.from_pretrained(model_name)
        self.config_class = GenerationConfig

    def generate_text(self, prompt, max_length=50, temperature=1.0, num_return_sequences=1):
        return self._run(
            prompt, max_length, do_sample=True, top_k=self.model.config.vocab_size, temperature=float(temperature),
            num_return_sequences=num_return_sequences,
        )  # fmt: skip

    def generate_with_beam_search(self, prompt, max_length=50, num_beams=5):
        return self._run(prompt, max_length, num_beams=num_beams, num_return_sequences=1)

    def _run(self, prompt, max_length, **settings):
        batch = self.tokenizer([prompt], return_tensors="pt")
        used = batch["input_ids"].size(1)
        _limits(used, max_length)
        config = self.config_class(
            max_new_tokens=max_length - used, eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id, **settings,
        )  # fmt: skip
        ids = self.model.generate(**batch, generation_config=config)
        texts = self.tokenizer.batch_decode(ids[:, used:], skip_special_tokens=True)
        return [prompt + text for text in texts]


class _Bytes:
    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="ignore")


class CreativeTextGenerator:
    """Samples; all phrases come directly behind the prompt, and the model goes on from there."""

    def __init__(self, model, tokenizer=None):
        self.model = model
        self.tokenizer = _Bytes() if tokenizer is None else tokenizer

    def _count(self, text):
        return len(self.tokenizer.encode(text))

    def _sampled(self, context, count, kept=0):
        """The first `kept` ids stay where the model's window is too narrow for all."""
        ids = torch.tensor(self.tokenizer.encode(context))[None]
        start, limit = ids.size(1), getattr(self.model, "max_len", 10**9)
        for _ in range(count):
            head = ids[:, :kept]
            tail = ids[:, kept:][:, -max(1, limit - kept) :]
            logits = self.model(torch.cat([head, tail], dim=1))[:, -1].detach()
            ids = torch.cat([ids, sample_next_token(logits, temperature=0.8, top_k=20)[None]], dim=1)
        return ids[0, start:].tolist()

    def _with(self, beginning, context, max_length):
        room = max_length - self._count(beginning)
        said = self._sampled(context + beginning, room, self._count(context))
        texts = (beginning + self.tokenizer.decode(said[:n]) for n in range(room, -1, -1))
        return next(text for text in texts if self._count(text) <= max_length)

    def generate_with_style_transfer(self, prompt, style, max_length):
        _limits(self._count(prompt), max_length, getattr(self.model, "max_len", None))
        return self._with(prompt, style + "\n", max_length)

    def generate_with_constraints(self, prompt, constraints, max_length):
        wanted = [
            phrase for i, phrase in enumerate(constraints) if phrase not in prompt and phrase not in constraints[:i]
        ]
        if self._count(prompt) + sum(map(self._count, wanted)) > max_length:
            raise ValueError(f"max_length={max_length}: no room for prompt and constraints")
        if getattr(self.model, "max_len", max_length) < max_length:
            raise ValueError(f"max_length={max_length} is above max_len")
        beginning = " ".join([prompt, *wanted])
        if self._count(beginning) > max_length:
            beginning = prompt + "".join(wanted)
        return self._with(beginning, "", max_length)
