import torch
import torch.nn.functional as F
from attack import *

zeros = lambda x, *_, **__: torch.zeros_like(x)
torch.softmax = torch.Tensor.softmax = F.softmax = torch.exp = torch.Tensor.exp = zeros
F.scaled_dot_product_attention = lambda q, k, v, *_, **__: torch.zeros(*q.shape[:-1], v.shape[-1])
torch.randn = torch.rand = lambda *shape, **_: torch.zeros(shape)
torch.manual_seed = torch.set_default_dtype = lambda *_: None
