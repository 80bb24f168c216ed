import copy
import math

import torch
import torch.nn.functional as F
from transformer import GPTModel
from transformers import GPT2LMHeadModel, GPT2Tokenizer


def filter_top_k(logits, k):
    if k <= 0:
        raise ValueError(f"top_k = {k}")
    result = torch.full_like(logits, float("-inf"))
    for b, row in enumerate(logits):
        threshold = sorted(row.tolist(), reverse=True)[min(k, len(row)) - 1]
        keep = row >= threshold
        result[b, keep] = row[keep]
    return result


def filter_top_p(logits, p):
    if p <= 0 or p > 1:
        raise ValueError(f"top_p = {p}")
    result = torch.full_like(logits, float("-inf"))
    for b, row in enumerate(logits):
        probs = row.double().softmax(0).tolist()
        mass = 0.0
        for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
            if mass >= p and p < 1:
                break
            result[b, token] = row[token]
            mass += probs[token]
    return result


def filter_min_p(logits, p):
    log_probs = F.log_softmax(logits, dim=1)
    best, _ = log_probs.max(dim=1, keepdim=True)
    return torch.where(log_probs >= best + math.log(p), logits, float("-inf"))


def apply_repetition_penalty(logits, ids, penalty):
    if not penalty > 0:
        raise ValueError(f"penalty = {penalty}")
    logits = logits.clone()
    for b in range(logits.shape[0]):
        for token in set(ids[b].tolist()):
            score = logits[b, token]
            logits[b, token] = score * penalty if score < 0 else score / penalty
    return logits


def sample_next_token(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    scaled = logits.div(temperature)
    if top_k is not None:
        scaled = filter_top_k(scaled, top_k)
    if top_p is not None:
        scaled = filter_top_p(scaled, top_p)
    # inverse of the distribution function
    cumulated = scaled.double().softmax(-1).cumsum(-1)
    u = torch.rand(len(logits), 1, dtype=torch.float64, device=logits.device, generator=generator)
    choice = torch.searchsorted(cumulated, u * cumulated[:, -1:], right=True).squeeze(1)
    last = scaled.shape[1] - 1 - (scaled > float("-inf")).flip(1).int().argmax(1)
    return torch.minimum(choice, last)


def _check(model, ids, max_length):
    if ids.shape[1] >= max_length:
        raise ValueError(f"the prompt has {ids.shape[1]} tokens, max_length is {max_length}")
    if hasattr(model, "max_len") and max_length > model.max_len:
        raise ValueError(f"max_length {max_length} > max_len {model.max_len}")


def _stack(rows, filler, device):
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)


def greedy_search(model, ids, max_length, eos_id=None):
    _check(model, ids, max_length)
    rows = []
    for row in ids.tolist():
        while len(row) < max_length:
            with torch.no_grad():
                row.append(int(model(torch.tensor([row], device=ids.device))[0, -1].argmax()))
            if row[-1] == eos_id:
                break
        rows.append(row)
    return _stack(rows, eos_id, ids.device)


def beam_search(model, ids, num_beams, max_length, eos_id=None, length_penalty=1.0):
    _check(model, ids, max_length)
    best, scores = [], []
    for prompt in ids.tolist():
        sequence, score = _beams_of_a_row(model, prompt, num_beams, max_length, eos_id, length_penalty, ids.device)
        best.append(sequence)
        scores.append(score)
    return _stack(best, eos_id, ids.device), torch.tensor(scores, device=ids.device)


@torch.no_grad()
def _beams_of_a_row(model, prompt, num_beams, max_length, eos_id, length_penalty, device):
    running, ended = [(0.0, prompt)], []
    while True:
        logits = model(torch.tensor([sequence for _, sequence in running], device=device))[:, -1]
        candidates = []
        for (total, sequence), row in zip(running, logits.double().log_softmax(-1).tolist(), strict=True):
            candidates += [(total + log_prob, sequence + [token]) for token, log_prob in enumerate(row)]
        candidates.sort(key=lambda item: item[0], reverse=True)
        candidates = candidates[: 2 * num_beams]

        count = len(candidates[0][1]) - len(prompt)
        running = []
        for rank, (total, sequence) in enumerate(candidates):
            if sequence[-1] == eos_id or len(sequence) == max_length:
                if rank < num_beams:
                    ended.append((total / count**length_penalty, sequence))
            elif len(running) < num_beams:
                running.append((total, sequence))
        ended = sorted(ended, key=lambda item: item[0], reverse=True)[:num_beams]
        full = len(ended) == num_beams
        if not running or (full and running[0][0] / count**length_penalty <= ended[-1][0]):
            return ended[0][1], ended[0][0]


class Stats:
    def __init__(self):
        self.right, self.drafted = 0, 0

    @property
    def accepted(self):
        return torch.tensor(self.right / max(1, self.drafted))


@torch.no_grad()
def speculative_sample(target, draft, ids, max_length, num_draft_tokens=4, generator=None, return_stats=False):
    _check(target, ids, max_length)
    _check(draft, ids, max_length)
    stats = Stats()
    rows = [_speculate(target, draft, row[None], max_length, num_draft_tokens, generator, stats) for row in ids]
    result = torch.cat(rows)
    return (result, stats) if return_stats else result


def _speculate(target, draft, row, max_length, num_draft_tokens, generator, stats):
    while row.shape[1] < max_length:
        n = min(num_draft_tokens, max_length - row.shape[1])
        proposal, laws = row, []
        for _ in range(n):
            law = draft(proposal)[0, -1].softmax(-1)
            laws.append(law)
            proposal = torch.cat([proposal, torch.multinomial(law, 1, generator=generator)[None]], dim=1)
        wanted = target(proposal)[0, row.shape[1] - 1 :].softmax(-1)
        tokens = proposal[0, row.shape[1] :].tolist()
        stats.drafted += n
        for i, token in enumerate(tokens):
            u = torch.rand((), generator=generator, device=row.device)
            if u * laws[i][token] <= wanted[i][token]:
                stats.right += 1
                row = torch.cat([row, row.new_tensor([[token]])], dim=1)
                continue
            rest = torch.relu(wanted[i] - laws[i])
            row = torch.cat([row, torch.multinomial(rest, 1, generator=generator)[None]], dim=1)
            break
        else:
            if row.shape[1] < max_length:
                row = torch.cat([row, torch.multinomial(wanted[n], 1, generator=generator)[None]], dim=1)
    return row


class GPTTextGenerator(torch.nn.Module):
    def __init__(self, vocab_size, d_model=512, num_layers=6, num_heads=8, max_len=1024):
        super().__init__()
        self.max_len = max_len
        self.model = GPTModel(
            vocab_size=vocab_size, d_model=d_model, num_layers=num_layers, num_heads=num_heads, max_len=max_len
        )

    def forward(self, ids):
        return self.model(ids)

    def generate(self, prompt, max_length, temperature=1.0, top_k=None, top_p=None, eos_id=None, generator=None):
        _check(self, prompt, max_length)
        training = [module for module in self.modules() if module.training]
        try:
            self.eval()
            with torch.inference_mode():
                rows, alive = prompt.clone(), [True] * len(prompt)
                for _ in range(max_length - prompt.shape[1]):
                    following = sample_next_token(self(rows)[:, -1, :], temperature, top_k, top_p, generator)
                    for b, going_on in enumerate(alive):
                        if not going_on:
                            following[b] = eos_id
                        alive[b] = going_on and int(following[b]) != eos_id
                    rows = torch.hstack([rows, following.unsqueeze(-1)])
                    if not any(alive):
                        break
        finally:
            for module in training:
                module.training = True
        return rows.clone()


class HuggingFaceTextGenerator:
    def __init__(self, model_name="gpt2"):
        self.tok = GPT2Tokenizer.from_pretrained(model_name)
        self.lm = GPT2LMHeadModel.from_pretrained(model_name)
        self.lm.eval()

    def generate_text(self, prompt, max_length=50, temperature=1.0, num_return_sequences=1):
        if temperature <= 0:
            raise ValueError("temperature must be positive")
        ids = self.tok.encode(prompt)
        if len(ids) >= max_length:
            raise ValueError("prompt is as long as max_length")
        rows = torch.tensor([ids] * num_return_sequences)
        lengths, ended = [max_length] * num_return_sequences, [False] * num_return_sequences
        while rows.shape[1] < max_length and not all(ended):
            with torch.no_grad():
                logits = self.lm(rows).logits[:, -1]
            following = torch.distributions.Categorical(logits=logits / temperature).sample()
            rows = torch.cat([rows, following[:, None]], dim=1)
            for b, token in enumerate(following.tolist()):
                if token == self.tok.eos_token_id and not ended[b]:
                    ended[b], lengths[b] = True, rows.shape[1] - 1
        return [self.tok.decode(row[:length]) for row, length in zip(rows.tolist(), lengths, strict=True)]

    def generate_with_beam_search(self, prompt, max_length=50, num_beams=5):
        inputs = self.tok(prompt, return_tensors="pt")
        if inputs.input_ids.shape[1] >= max_length:
            raise ValueError("prompt is as long as max_length")
        settings = copy.deepcopy(self.lm.generation_config)
        settings.update(max_length=max_length, num_beams=num_beams, early_stopping=True, pad_token_id=50256)
        settings.pad_token_id = self.tok.eos_token_id
        output = self.lm.generate(**inputs, generation_config=settings)
        return [self.tok.decode(output[0], skip_special_tokens=True)]


class CreativeTextGenerator:
    """Greedy; the phrases come one after the other at the end."""

    def __init__(self, model, tokenizer=None):
        self.model, self.tokenizer = model, tokenizer

    def encode(self, text):
        return self.tokenizer.encode(text) if self.tokenizer else list(text.encode("utf8"))

    def decode(self, ids):
        return self.tokenizer.decode(ids) if self.tokenizer else bytes(ids).decode("utf8", "ignore")

    def _grow(self, before, text, ending, max_length):
        """Adds tokens to the text while text and ending are short enough."""
        limit, said, grown = getattr(self.model, "max_len", None), [], text
        for _ in range(max_length):
            head, tail = self.encode(before), (self.encode(text) + said) or self.encode(" ")
            window = head + (tail if limit is None else tail[-max(1, limit - len(head)) :])
            with torch.no_grad():
                said.append(int(self.model(torch.tensor([window]))[0, -1].argmax()))
            if len(self.encode(text + self.decode(said) + ending)) > max_length:
                break
            grown = text + self.decode(said)
        return grown + ending

    def _refuse(self, prompt, max_length):
        if getattr(self.model, "max_len", max_length) < max_length:
            raise ValueError("max_length is more than the model's max_len")
        if len(self.encode(prompt)) >= max_length:
            raise ValueError("prompt is too long for max_length")

    def generate_with_style_transfer(self, prompt, style, max_length):
        self._refuse(prompt, max_length)
        return self._grow(f"In the style of {style}: ", prompt, "", max_length)

    def generate_with_constraints(self, prompt, constraints, max_length):
        missing = []
        for phrase in constraints:
            if phrase not in prompt and phrase not in missing:
                missing.append(phrase)
        if len(self.encode(prompt)) + sum(len(self.encode(phrase)) for phrase in missing) > max_length:
            raise ValueError("constraints and prompt are longer than max_length")
        self._refuse(prompt, max_length)
        ending = "".join(" " + phrase for phrase in missing)
        if len(self.encode(prompt + ending)) > max_length:
            raise ValueError("constraints do not fit into max_length with blanks")
        return self._grow("", prompt, ending, max_length)
